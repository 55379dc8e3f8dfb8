//! Flight SQL, asked by the client of the Arrow project.

mod metadata;
mod streams;
mod surface;
mod types;

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use arrow_flight::{FlightInfo, sql::client::FlightSqlServiceClient};
use futures::TryStreamExt;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tracehouse::{api::flight, query::QueryEngine};

use crate::query::data::{START, small_engine};

/// A server on a free port, stopped on drop.
struct Server {
    channel: Channel,
    uri: String,
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
    let uri = format!("http://{address}");
    let channel = Endpoint::from_shared(uri.clone()).unwrap().connect().await.unwrap();
    Server { channel, uri, _stop: stop, _running: running }
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
async fn each_row_of_parameters_is_a_run_and_the_runs_come_in_order() {
    let (_server, mut client) = client().await;
    let text = "SELECT name, $2 AS tag FROM spans WHERE duration_nano > $1 ORDER BY name".to_owned();
    let mut prepared = client.prepare(text, None).await.unwrap();
    let least: ArrayRef = Arc::new(Int64Array::from(vec![4_000_000, 9_000_000, 3_000_000]));
    let tags: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
    prepared.set_parameters(RecordBatch::try_from_iter([("0", least), ("1", tags)]).unwrap()).unwrap();
    let info = prepared.execute().await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "name"), ["late", "late", "orphan"]);
    assert_eq!(column(&batches, "tag"), ["a", "NULL", "NULL"]);

    let many: ArrayRef = Arc::new(Int64Array::from(vec![1; 1_001]));
    let mut prepared = client.prepare("SELECT $1 + 1".to_owned(), None).await.unwrap();
    prepared.set_parameters(RecordBatch::try_from_iter([("0", many)]).unwrap()).unwrap();
    let error = prepared.execute().await.unwrap_err().to_string();
    assert!(error.contains("1001 rows are more than the limit of 1000"), "{error}");
    let wide: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(2 << 20)]));
    let mut prepared = client.prepare("SELECT length($1)".to_owned(), None).await.unwrap();
    prepared.set_parameters(RecordBatch::try_from_iter([("0", wide)]).unwrap()).unwrap();
    let error = prepared.execute().await.unwrap_err().to_string();
    assert!(error.contains("bytes are more than the limit of 1048576"), "{error}");
}

#[tokio::test]
async fn parameters_of_every_common_type_are_bound() {
    let (_server, mut client) = client().await;
    let text = "SELECT name FROM spans WHERE start_time >= $1 AND service_name = $2 AND (duration_nano > $3) = $4";
    let mut prepared = client.prepare(format!("{text} ORDER BY name"), None).await.unwrap();
    let after = TimestampNanosecondArray::from(vec![START + 6_000_000_000]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 4] = [
        ("1", Arc::new(after)),
        ("2", Arc::new(StringArray::from(vec!["gateway"]))),
        ("3", Arc::new(Float64Array::from(vec![4.5e6]))),
        ("4", Arc::new(BooleanArray::from(vec![true]))),
    ];
    prepared.set_parameters(RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let info = prepared.execute().await.unwrap();
    let (_, batches) = fetched(&mut client, info).await;
    assert_eq!(column(&batches, "name"), ["late"]);
    let missing = client.execute("SELECT name FROM spans WHERE duration_nano > $1".to_owned(), None).await.unwrap();
    let error = client.do_get(missing.endpoint[0].ticket.clone().unwrap()).await.err().unwrap().to_string();
    assert!(error.contains("the query has 1 parameters and got 0 values"), "{error}");
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
