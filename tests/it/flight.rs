//! Flight SQL, asked by the client of the Arrow project.

use std::sync::Arc;

use arrow::{
    array::{AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int32Type, Schema, SchemaRef},
};
use arrow_flight::{
    Action, FlightClient, FlightDescriptor, FlightInfo,
    sql::{
        Any, Command, CommandGetDbSchemas, CommandGetTables, CommandStatementQuery, ProstMessageExt, SqlInfo,
        client::FlightSqlServiceClient,
    },
};
use futures::TryStreamExt;
use prost::Message;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tracehouse::{api::flight, query::QueryEngine};

use crate::query::data::small_engine;

/// A server on a free port, stopped on drop.
struct Server {
    channel: Channel,
    _stop: oneshot::Sender<()>,
    _running: JoinHandle<()>,
}

async fn server(engine: QueryEngine) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        let shutdown = async move { drop(stopped.await) };
        flight::serve(listener, Arc::new(engine), shutdown).await.unwrap();
    });
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Server { channel, _stop: stop, _running: running }
}

async fn client() -> (Server, FlightSqlServiceClient<Channel>) {
    let server = server(small_engine()).await;
    let client = FlightSqlServiceClient::new(server.channel.clone());
    (server, client)
}

/// The batches behind the one endpoint of an answer; their schema has to be the announced one.
async fn fetched(client: &mut FlightSqlServiceClient<Channel>, info: FlightInfo) -> (SchemaRef, Vec<RecordBatch>) {
    let announced = info.clone().try_decode_schema().unwrap();
    let [endpoint] = info.endpoint.as_slice() else { panic!("endpoints: {:?}", info.endpoint) };
    assert!(endpoint.location.is_empty());
    // Clients in C++ and Python refuse an answer that does not repeat the descriptor.
    assert!(info.flight_descriptor.is_some_and(|descriptor| !descriptor.cmd.is_empty()));
    let stream = client.do_get(endpoint.ticket.clone().unwrap()).await.unwrap();
    let mut stream = stream;
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await.unwrap() {
        batches.push(batch);
    }
    let sent = stream.schema().unwrap();
    assert_eq!(**sent, announced);
    (Arc::clone(sent), batches)
}

fn column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let values = batches.iter().flat_map(|batch| batch[name].as_string::<i32>().iter());
    values.map(|value| value.unwrap_or("NULL").to_owned()).collect()
}

#[tokio::test]
async fn a_statement_is_answered_in_the_announced_schema() {
    let (_server, mut client) = client().await;
    let info = client.execute("SELECT * FROM spans ORDER BY start_time".to_owned(), None).await.unwrap();
    let (schema, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "name"), ["GET /cart", "cart.get", "cart.get", "job", "orphan", "late"]);
    assert!(schema.fields().iter().all(|field| field.is_nullable()));
    // Also where there are no rows, and where the planner knows more than the operators.
    for statement in ["SELECT name, 1 AS one FROM spans WHERE false", "SHOW TABLES", "SELECT count(*), NULL FROM spans"]
    {
        let info = client.execute(statement.to_owned(), None).await.unwrap();
        fetched(&mut client, info).await;
    }
}

#[tokio::test]
async fn a_prepared_statement_takes_parameters_by_position() {
    let (_server, mut client) = client().await;
    let text = "SELECT name FROM spans WHERE duration_nano > $1 ORDER BY name".to_owned();
    let mut prepared = client.prepare(text, None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().field(0).data_type(), &DataType::Int64);
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "name");
    let schema = Arc::new(Schema::new(vec![Field::new("0", DataType::Int64, true)]));
    for (least, expected) in [(3_000_000, vec!["late", "orphan"]), (4_000_000, vec!["late"])] {
        let row = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![least]))]).unwrap();
        prepared.set_parameters(row).unwrap();
        let info = prepared.execute().await.unwrap();
        let (_, batches) = fetched(&mut client, info).await;
        assert_eq!(column(&batches, "name"), expected);
    }
    prepared.close().await.unwrap();
}

#[tokio::test]
async fn the_last_message_carries_what_the_query_cost() {
    let (server, mut client) = client().await;
    let info = client.execute("SELECT name FROM spans".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let messages = arrow_flight::flight_service_client::FlightServiceClient::new(server.channel.clone())
        .do_get(ticket)
        .await
        .unwrap()
        .into_inner();
    let messages: Vec<_> = messages.try_collect().await.unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&messages.last().unwrap().app_metadata).unwrap();
    assert_eq!(stats["rows"], 6);
}

#[tokio::test]
async fn errors_have_the_status_of_their_kind() {
    let (_server, mut client) = client().await;
    let error = client.execute("SELECT nam FROM spans".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("there is no column nam; did you mean name?"), "{error}");
    let error = client.execute("DROP TABLE spans".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("DROP is not allowed"), "{error}");
    let error = client.execute_update("DELETE FROM spans".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("read only"), "{error}");
    let error = client.begin_transaction().await.unwrap_err().to_string();
    assert!(error.contains("read only"), "{error}");
}

#[tokio::test]
async fn an_unknown_language_is_refused() {
    let (_server, mut client) = client().await;
    client.set_header("x-tracehouse-language", "promql");
    let error = client.execute("{}".to_owned(), None).await.unwrap_err().to_string();
    assert!(error.contains("has to be sql or traceql"), "{error}");
}

#[tokio::test]
async fn a_handshake_succeeds_with_and_without_credentials() {
    let (_server, mut client) = client().await;
    let token = client.handshake("someone", "secret").await.unwrap();
    assert_eq!(token, "tracehouse");
    assert!(client.execute("SELECT 1".to_owned(), None).await.is_ok());
}

async fn tables(client: &mut FlightSqlServiceClient<Channel>, query: CommandGetTables) -> Vec<String> {
    let info = client.get_tables(query).await.unwrap();
    let (_, batches) = fetched(client, info).await;
    column(&batches, "table_name")
}

#[tokio::test]
async fn tables_are_found_by_pattern_and_by_any_name_of_their_type() {
    let (_server, mut client) = client().await;
    let all = CommandGetTables::default();
    let every = ["attributes", "otel_traces", "service_edges", "span_events", "span_links", "spans", "traces"];
    assert_eq!(tables(&mut client, all.clone()).await, every);
    let named = |pattern: &str| CommandGetTables {
        table_name_filter_pattern: Some(pattern.to_owned()),
        ..CommandGetTables::default()
    };
    assert_eq!(tables(&mut client, named("sp_ns")).await, ["spans"]);
    assert_eq!(tables(&mut client, named("sp%s")).await, ["span_events", "span_links", "spans"]);
    assert!(tables(&mut client, named("x%")).await.is_empty());
    // pandas asks whether the text of a query is a table.
    assert!(tables(&mut client, named("SELECT '%' || name FROM spans WHERE x LIKE '_[(\\' ")).await.is_empty());
    let typed = |names: &[&str]| CommandGetTables {
        table_types: names.iter().map(|name| (*name).to_owned()).collect(),
        ..CommandGetTables::default()
    };
    assert_eq!(tables(&mut client, typed(&["BASE TABLE", "table"])).await, every);
    assert_eq!(tables(&mut client, typed(&["TABLE"])).await, every);
    assert!(tables(&mut client, typed(&["SYSTEM TABLE"])).await.is_empty());
    let elsewhere = CommandGetTables { catalog: Some(String::new()), ..CommandGetTables::default() };
    assert!(tables(&mut client, elsewhere).await.is_empty());

    let with_schema = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(with_schema).await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    let row = column(&batches, "table_name").iter().position(|name| name == "spans").unwrap();
    let message = batches[0]["table_schema"].as_binary::<i32>().value(row).to_vec();
    let listed = Schema::try_from(arrow_flight::IpcMessage(message.into())).unwrap();
    let info = client.execute("SELECT * FROM spans".to_owned(), None).await.unwrap();
    assert_eq!(listed, info.try_decode_schema().unwrap());
}

#[tokio::test]
async fn catalogs_schemas_types_and_keys_have_the_schemas_of_the_protocol() {
    let (_server, mut client) = client().await;
    let info = client.get_catalogs().await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "catalog_name"), ["tracehouse"]);
    let info = client.get_db_schemas(CommandGetDbSchemas::default()).await.unwrap();
    let (schema, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "db_schema_name"), ["public"]);
    assert!(!schema.field_with_name("db_schema_name").unwrap().is_nullable());
    let info = client.get_table_types().await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "table_type"), ["TABLE"]);
    let info = client.get_primary_keys(Default::default()).await.unwrap();
    assert_eq!(fetched(&mut client, info).await.0.fields().len(), 6);
    let info = client.get_xdbc_type_info(Default::default()).await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert!(column(&batches, "type_name").contains(&"VARCHAR".to_owned()));
}

#[tokio::test]
async fn sql_info_says_read_only_without_transactions_and_how_to_quote() {
    let (_server, mut client) = client().await;
    let wanted =
        [SqlInfo::FlightSqlServerTransaction, SqlInfo::FlightSqlServerReadOnly, SqlInfo::SqlIdentifierQuoteChar];
    let info = client.get_sql_info(wanted.to_vec()).await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    let values = batches[0]["value"].as_union();
    let mut seen = Vec::new();
    for row in 0..batches[0].num_rows() {
        let value = values.value(row);
        seen.push(match value.data_type() {
            DataType::Utf8 => value.as_string::<i32>().value(0).to_owned(),
            DataType::Boolean => value.as_boolean().value(0).to_string(),
            DataType::Int32 => value.as_primitive::<Int32Type>().value(0).to_string(),
            other => panic!("{other}"),
        });
    }
    seen.sort();
    assert_eq!(seen, ["\"", "0", "true"]);
    // No list means all of them.
    let info = client.get_sql_info(Vec::new()).await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert!(batches[0].num_rows() > 30);
}

#[tokio::test]
async fn schema_poll_and_session_calls_are_answered() {
    let server = server(small_engine()).await;
    let mut client = FlightClient::new(server.channel.clone());
    let command = CommandStatementQuery { query: "SELECT name FROM spans".to_owned(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let schema = client.get_schema(descriptor.clone()).await.unwrap();
    assert_eq!(schema.field(0).name(), "name");
    let poll = client.poll_flight_info(descriptor).await.unwrap();
    assert!(poll.info.is_some() && poll.flight_descriptor.is_none());
    for action in ["CloseSession", "GetSessionOptions", "SetSessionOptions", "CancelFlightInfo"] {
        let answers: Vec<_> = client.do_action(Action::new(action, "")).await.unwrap().try_collect().await.unwrap();
        assert_eq!(answers.len(), 1, "{action}");
    }
    let error = client.do_action(Action::new("Reboot", "")).await;
    assert!(error.is_err_and(|error| error.to_string().contains("there is no action")));
}

#[tokio::test]
async fn tickets_are_packed_and_foreign_ones_are_refused() {
    let (_server, mut client) = client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let any = Any::decode(&*ticket.ticket).unwrap();
    assert!(matches!(Command::try_from(any).unwrap(), Command::TicketStatementQuery(_)));
    let foreign = arrow_flight::sql::TicketStatementQuery { statement_handle: vec![0xff; 9].into() };
    let ticket = arrow_flight::Ticket::new(foreign.as_any().encode_to_vec());
    let error = client.do_get(ticket).await.err().unwrap().to_string();
    assert!(error.contains("the handle is not one of this server"), "{error}");
}

#[tokio::test]
async fn large_answers_come_in_messages_below_four_megabytes() {
    let (server, mut client) = client().await;
    let text = "SELECT value, repeat('x', 1000) AS pad FROM generate_series(1, 20000)";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut raw = arrow_flight::flight_service_client::FlightServiceClient::new(server.channel.clone())
        .max_decoding_message_size(4 << 20);
    let messages: Vec<_> = raw.do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
    assert!(messages.len() > 5);
    assert!(messages.iter().all(|message| message.data_body.len() <= 2 << 20));
}
