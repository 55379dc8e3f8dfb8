//! Actions beside those of Flight SQL: sessions, cancellation and renewal.
//!
//! There are no sessions. Options can be read (the catalogue and the schema) and set to what they are; JDBC drivers with
//! `catalog=` in their address do that. Tickets do not expire, so a renewed endpoint is the one that was sent. A query is
//! cancelled by the tickets in its FlightInfo; a server that does not run it says so.

use std::collections::HashMap;

use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, RenewFlightEndpointRequest,
    sql::{Any, Command},
};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use crate::api::flight::{running::Running, statement::Statement};

/// `CloseSessionResult` of the Flight protocol.
#[derive(Clone, PartialEq, Message)]
struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `CloseSessionResult.Status.CLOSED`.
const CLOSED: i32 = 1;

/// `SessionOptionValue`, as far as options here have it.
#[derive(Clone, PartialEq, Message)]
struct SessionOptionValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

/// `GetSessionOptionsResult` and `SetSessionOptionsRequest`, which look alike.
#[derive(Clone, PartialEq, Message)]
struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    session_options: HashMap<String, SessionOptionValue>,
}

/// `SetSessionOptionsResult.Error`.
#[derive(Clone, PartialEq, Message)]
struct SessionOptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}

/// `SetSessionOptionsResult.ErrorValue.INVALID_NAME`.
const INVALID_NAME: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue.INVALID_VALUE`.
const INVALID_VALUE: i32 = 2;

/// `SetSessionOptionsResult`.
#[derive(Clone, PartialEq, Message)]
struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    errors: HashMap<String, SessionOptionError>,
}

/// The action types that [`answer`] knows, with what they do.
pub(super) const KNOWN: &[(&str, &str)] = &[
    ("CancelFlightInfo", "Stops the query whose answer is being sent for a ticket of the FlightInfo"),
    ("CloseSession", "Does nothing: there are no sessions"),
    ("GetSessionOptions", "Gives the catalog and the schema"),
    ("RenewFlightEndpoint", "Gives the endpoint back: tickets do not expire"),
    ("SetSessionOptions", "Takes the catalog and the schema that there are"),
];

/// The body of the answer to an action.
pub(super) fn answer(action: &Action, namespace: (&str, &str), running: &Running) -> Result<Bytes, Status> {
    let body = match action.r#type.as_str() {
        "CloseSession" => CloseSessionResult { status: CLOSED }.encode_to_vec(),
        "GetSessionOptions" => SessionOptions { session_options: options(namespace) }.encode_to_vec(),
        "SetSessionOptions" => set(decoded(action)?, namespace).encode_to_vec(),
        "CancelFlightInfo" => {
            let request: CancelFlightInfoRequest = decoded(action)?;
            let info = request.info.unwrap_or_default();
            CancelFlightInfoResult { status: cancel(&info, running) as i32 }.encode_to_vec()
        }
        "RenewFlightEndpoint" => {
            let request: RenewFlightEndpointRequest = decoded(action)?;
            let endpoint = request.endpoint.filter(|endpoint| endpoint.ticket.is_some());
            endpoint.ok_or_else(|| Status::invalid_argument("RenewFlightEndpoint: there is no ticket"))?.encode_to_vec()
        }
        other => {
            let known = KNOWN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Status::unimplemented(format!(
                "there is no action {other:?}; besides those of Flight SQL there are: {known}"
            )));
        }
    };
    Ok(body.into())
}

/// Stops what runs for the tickets of `info`.
pub(super) fn cancel(info: &FlightInfo, running: &Running) -> CancelStatus {
    let tickets = info.endpoint.iter().filter_map(|endpoint| endpoint.ticket.as_ref());
    let ids = tickets.filter_map(|ticket| {
        let any = Any::decode(&*ticket.ticket).ok()?;
        let Command::TicketStatementQuery(ticket) = Command::try_from(any).ok()? else { return None };
        Statement::from_handle(&ticket.statement_handle).ok()?.id()
    });
    // Each of them is stopped, also where one before it was.
    let stopped = ids.filter(|id| running.cancel(*id)).count();
    if stopped > 0 { CancelStatus::Cancelled } else { CancelStatus::NotCancellable }
}

fn decoded<T: Message + Default>(action: &Action) -> Result<T, Status> {
    T::decode(&*action.body).map_err(|error| Status::invalid_argument(format!("{}: {error}", action.r#type)))
}

fn options((catalog, schema): (&str, &str)) -> HashMap<String, SessionOptionValue> {
    [("catalog", catalog), ("schema", schema)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), SessionOptionValue { string_value: Some(value.to_owned()) }))
        .collect()
}

fn set(asked: SessionOptions, namespace: (&str, &str)) -> SetSessionOptionsResult {
    let ours = options(namespace);
    let errors = asked
        .session_options
        .into_iter()
        .filter_map(|(name, value)| match ours.get(&name) {
            Some(known) if *known == value => None,
            Some(_) => Some((name, SessionOptionError { value: INVALID_VALUE })),
            None => Some((name, SessionOptionError { value: INVALID_NAME })),
        })
        .collect();
    SetSessionOptionsResult { errors }
}
