//! Calls of Flight itself: schemas, polling, actions, and clients that do not know Flight SQL.

use std::collections::HashMap;

use arrow::{array::AsArray, datatypes::DataType};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightClient, FlightDescriptor, FlightInfo,
    RenewFlightEndpointRequest, Ticket,
    flight_service_client::FlightServiceClient,
    sql::{Any, Command, CommandStatementQuery, ProstMessageExt},
};
use futures::TryStreamExt;
use prost::Message;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{client, column, server};
use crate::query::data::small_engine;

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

/// `SetSessionOptionsRequest` and `GetSessionOptionsResult`, and what they hold.
#[derive(Clone, PartialEq, Message)]
struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    options: HashMap<String, SessionOption>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionOption {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

/// `SetSessionOptionsResult`.
#[derive(Clone, PartialEq, Message)]
struct SetResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, SetError>,
}

#[derive(Clone, PartialEq, Message)]
struct SetError {
    #[prost(int32, tag = "1")]
    value: i32,
}

/// A client that keeps cookies, as those of drivers do.
struct Keeping {
    client: FlightServiceClient<Channel>,
    cookie: Option<String>,
}

impl Keeping {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(cookie) = &self.cookie {
            request.metadata_mut().insert("cookie", cookie.parse().unwrap());
        }
        request
    }

    async fn action(&mut self, name: &str, body: Vec<u8>) -> bytes::Bytes {
        let request = self.request(Action::new(name, body));
        let response = self.client.do_action(request).await.unwrap();
        if let Some(cookie) = response.metadata().get("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            self.cookie = (!cookie.contains("Max-Age=0")).then(|| cookie.to_owned());
        }
        response.into_inner().try_next().await.unwrap().unwrap().body
    }

    async fn set(&mut self, options: &[(&str, Option<&str>)]) -> Vec<(String, i32)> {
        let option =
            |(name, text): &(&str, Option<&str>)| ((*name).to_owned(), SessionOption { text: text.map(str::to_owned) });
        let asked = SessionOptions { options: options.iter().map(option).collect() };
        let result = self.action("SetSessionOptions", asked.encode_to_vec()).await;
        let errors = SetResult::decode(result).unwrap().errors;
        let mut errors: Vec<_> = errors.into_iter().map(|(name, error)| (name, error.value)).collect();
        errors.sort();
        errors
    }

    async fn options(&mut self) -> Vec<(String, String)> {
        let options = SessionOptions::decode(self.action("GetSessionOptions", Vec::new()).await).unwrap().options;
        let mut options: Vec<_> =
            options.into_iter().map(|(name, option)| (name, option.text.unwrap_or_default())).collect();
        options.sort();
        options
    }

    async fn ask(&mut self, statement: &'static str) -> Result<FlightInfo, tonic::Status> {
        let request = self.request(FlightDescriptor::new_cmd(statement));
        self.client.get_flight_info(request).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn options_of_a_session_hold_until_it_is_closed() {
    let server = server(small_engine()).await;
    let mut client = Keeping { client: FlightServiceClient::new(server.channel.clone()), cookie: None };
    let fixed = [("catalog".to_owned(), "tracehouse".to_owned()), ("schema".to_owned(), "public".to_owned())];
    assert_eq!(client.options().await, fixed);
    let (invalid_name, invalid_value) = (1, 2);
    let options = [("types", Some("flat")), ("rows_max", Some("2")), ("catalog", Some("tracehouse"))];
    assert_eq!(client.set(&options).await, []);
    let wrong = [("timeout", Some("soon")), ("schema", Some("other")), ("colour", Some("red"))];
    let errors = [("colour", invalid_name), ("schema", invalid_value), ("timeout", invalid_value)];
    assert_eq!(client.set(&wrong).await, errors.map(|(name, error)| (name.to_owned(), error)));
    let names: Vec<String> =
        client.options().await.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(names, ["catalog=tracehouse", "rows_max=2", "schema=public", "types=flat"]);

    let info = client.ask("SELECT span_attributes FROM spans").await.unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap().field(0).data_type(), &DataType::Utf8);
    // The ticket holds the options, so it can be fetched without the cookie.
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let rows = client.client.do_get(ticket).await.unwrap().into_inner().try_collect::<Vec<_>>().await;
    let error = rows.unwrap_err();
    assert!(error.message().contains("= 2"), "{error}");

    assert_eq!(client.set(&[("types", None), ("timeout", Some("1ms"))]).await, []);
    let info = client.ask("SELECT span_attributes FROM spans").await;
    let is_in_time =
        |info: FlightInfo| matches!(info.try_decode_schema().unwrap().field(0).data_type(), DataType::Map(..));
    assert!(info.map_or_else(|error| error.message().contains("query.timeout"), is_in_time));
    client.action("CloseSession", Vec::new()).await;
    assert_eq!(client.cookie, None);
    assert_eq!(client.options().await, fixed);
}

#[tokio::test]
async fn grafana_gets_types_that_it_can_show_and_others_get_nested_ones() {
    let server = server(small_engine()).await;
    let agents = [
        ("grpc-go/1.58.3", None, true),
        ("grpc-go/1.58.3", Some("plain"), false),
        ("ADBC Flight SQL Driver 1.0 grpc-go/1.70.0", None, false),
        ("grpc-java-netty/1.60.0", None, false),
        ("grpc-c++/1.60.0", None, false),
    ];
    for (agent, header, is_flat) in agents {
        let endpoint = Endpoint::from_shared(server.uri.clone()).unwrap().user_agent(agent).unwrap();
        let mut client = FlightServiceClient::new(endpoint.connect().await.unwrap());
        let mut request = Request::new(FlightDescriptor::new_cmd("SELECT span_attributes, start_time FROM spans"));
        if let Some(header) = header {
            request.metadata_mut().insert("x-tracehouse-types", header.parse().unwrap());
        }
        let info = client.get_flight_info(request).await.unwrap().into_inner();
        let schema = info.try_decode_schema().unwrap();
        assert_eq!(schema.field(0).data_type() == &DataType::Utf8, is_flat, "{agent}");
    }
}

#[tokio::test]
async fn tickets_are_packed_and_foreign_ones_are_refused() {
    let (_server, mut client) = client().await;
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let any = Any::decode(&*ticket.ticket).unwrap();
    assert!(matches!(Command::try_from(any).unwrap(), Command::TicketStatementQuery(_)));
    let foreign = arrow_flight::sql::TicketStatementQuery { statement_handle: vec![0xff; 9].into() };
    let ticket = Ticket::new(foreign.as_any().encode_to_vec());
    let error = client.do_get(ticket).await.err().unwrap().to_string();
    assert!(error.contains("the handle is not one of this server"), "{error}");
}

async fn answers(client: &mut FlightClient, action: &str, body: Vec<u8>) -> Vec<bytes::Bytes> {
    client.do_action(Action::new(action, body)).await.unwrap().try_collect().await.unwrap()
}

#[tokio::test]
async fn an_endpoint_is_renewed_as_it_is_because_tickets_do_not_expire() {
    let server = server(small_engine()).await;
    let mut client = FlightClient::new(server.channel.clone());
    let info = client.get_flight_info(FlightDescriptor::new_cmd("SELECT 1")).await.unwrap();
    let endpoint = info.endpoint[0].clone();
    assert!(endpoint.expiration_time.is_none());
    let request = RenewFlightEndpointRequest { endpoint: Some(endpoint.clone()) };
    let renewed = answers(&mut client, "RenewFlightEndpoint", request.encode_to_vec()).await;
    assert_eq!(arrow_flight::FlightEndpoint::decode(&*renewed[0]).unwrap(), endpoint);
    let empty = client.do_action(Action::new("RenewFlightEndpoint", "")).await;
    assert!(empty.is_err_and(|error| error.to_string().contains("there is no ticket")));
}

#[tokio::test]
async fn what_does_not_run_cannot_be_cancelled() {
    let server = server(small_engine()).await;
    let mut client = FlightClient::new(server.channel.clone());
    let info = client.get_flight_info(FlightDescriptor::new_cmd("SELECT 1")).await.unwrap();
    let request = CancelFlightInfoRequest { info: Some(info) };
    let answer = answers(&mut client, "CancelFlightInfo", request.encode_to_vec()).await;
    let result = CancelFlightInfoResult::decode(&*answer[0]).unwrap();
    assert_eq!(result.status(), CancelStatus::NotCancellable);
}

#[tokio::test]
async fn only_actions_that_there_are_are_listed() {
    let server = server(small_engine()).await;
    let mut client = FlightClient::new(server.channel.clone());
    let actions: Vec<_> = client.list_actions().await.unwrap().try_collect().await.unwrap();
    let mut names: Vec<_> = actions.into_iter().map(|action| action.r#type).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "CancelFlightInfo",
            "CancelQuery",
            "ClosePreparedStatement",
            "CloseSession",
            "CreatePreparedStatement",
            "GetSessionOptions",
            "RenewFlightEndpoint",
            "SetSessionOptions",
        ]
    );
}

#[tokio::test]
async fn a_client_without_flight_sql_finds_tables_and_asks_in_text() {
    let server = server(small_engine()).await;
    let mut client = FlightClient::new(server.channel.clone());
    let flights: Vec<_> = client.list_flights("").await.unwrap().try_collect().await.unwrap();
    let paths: Vec<_> = flights.iter().map(|flight| flight.flight_descriptor.clone().unwrap().path.join("/")).collect();
    let spans = paths.iter().position(|path| path == "public/spans").unwrap();
    assert!(paths.iter().any(|path| path == "system/files"), "{paths:?}");

    let of_table = flights[spans].endpoint[0].ticket.clone().unwrap();
    let by_path = ["spans", "public/spans", "tracehouse/public/spans"];
    let mut tickets = vec![of_table, Ticket::new("SELECT * FROM spans")];
    for path in by_path {
        let path = path.split('/').map(str::to_owned).collect();
        let info = client.get_flight_info(FlightDescriptor::new_path(path)).await.unwrap();
        tickets.push(info.endpoint[0].ticket.clone().unwrap());
    }
    let info = client.get_flight_info(FlightDescriptor::new_cmd("\nSELECT * FROM spans")).await.unwrap();
    tickets.push(info.endpoint[0].ticket.clone().unwrap());
    for ticket in tickets {
        let batches: Vec<_> = client.do_get(ticket).await.unwrap().try_collect().await.unwrap();
        assert_eq!(column(&batches, "name").len(), 6);
    }

    let none = client.get_flight_info(FlightDescriptor::new_path(vec!["nope\"; x".to_owned()])).await.unwrap_err();
    assert!(none.to_string().contains("nope"), "{none}");
    let long = vec!["a".to_owned(); 4];
    let long = client.get_flight_info(FlightDescriptor::new_path(long)).await.unwrap_err();
    assert!(long.to_string().contains("a path has to be"), "{long}");
    let schema = client.get_schema(FlightDescriptor::new_path(vec!["spans".to_owned()])).await.unwrap();
    assert_eq!(schema.field(0).name(), "trace_id");
    let one: Vec<_> = client.do_get(Ticket::new("SELECT 1 AS one")).await.unwrap().try_collect().await.unwrap();
    assert_eq!(one[0]["one"].as_primitive::<arrow::datatypes::Int64Type>().value(0), 1);
}
