//! Calls of Flight itself: schemas, polling, actions, and clients that do not know Flight SQL.

use arrow::array::AsArray;
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightClient, FlightDescriptor,
    RenewFlightEndpointRequest, Ticket,
    sql::{Any, Command, CommandStatementQuery, ProstMessageExt},
};
use futures::TryStreamExt;
use prost::Message;

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
