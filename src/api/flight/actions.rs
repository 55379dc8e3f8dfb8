//! Actions beside those of Flight SQL: sessions, cancellation and renewal.
//!
//! A session is a cookie ([`session`](super::session)). The catalogue and the schema are options, too, of one value each;
//! JDBC drivers with `catalog=` in their address set it. Tickets do not expire, so a renewed endpoint is the one that was sent. A query is
//! cancelled by the tickets in its FlightInfo; a server that does not run it says so.

use std::collections::HashMap;

use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, RenewFlightEndpointRequest,
    sql::{Any, Command},
};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

use crate::api::flight::{
    running::Running,
    session::{NotSet, Session},
    statement::Statement,
};

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
    ("CloseSession", "Takes the session's cookie back"),
    ("GetSessionOptions", "Gives the catalog, the schema and the options of the session's cookie"),
    ("RenewFlightEndpoint", "Gives the endpoint back: tickets do not expire"),
    (
        "SetSessionOptions",
        "Sets types, timeout and rows_max in the session's cookie; takes the catalog and the schema that there are",
    ),
];

/// The answer to an action.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// A cookie for the client to keep, or to forget.
    pub(super) cookie: Option<String>,
}

/// Answers an action that was called in a session.
pub(super) fn answer(
    action: &Action,
    mut session: Session,
    namespace: (&str, &str),
    running: &Running,
) -> Result<Answer, Status> {
    let mut cookie = None;
    let body = match action.r#type.as_str() {
        "CloseSession" => {
            cookie = Some(Session::default().cookie());
            CloseSessionResult { status: CLOSED }.encode_to_vec()
        }
        "GetSessionOptions" => {
            let chosen = session.options().map(|(name, value)| (name, Some(value)));
            SessionOptions { session_options: options(fixed(namespace).chain(chosen)) }.encode_to_vec()
        }
        "SetSessionOptions" => {
            let result = set(&mut session, decoded(action)?, namespace);
            cookie = Some(session.cookie());
            result.encode_to_vec()
        }
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
    Ok(Answer { body: body.into(), cookie })
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

type NamedOption<'a> = (&'a str, Option<&'a str>);

/// The options that have one value.
fn fixed<'a>((catalog, schema): (&'a str, &'a str)) -> impl Iterator<Item = NamedOption<'a>> {
    [("catalog", Some(catalog)), ("schema", Some(schema))].into_iter()
}

fn options<'a>(options: impl Iterator<Item = NamedOption<'a>>) -> HashMap<String, SessionOptionValue> {
    let owned = |(name, value): NamedOption<'a>| {
        (name.to_owned(), SessionOptionValue { string_value: value.map(str::to_owned) })
    };
    options.map(owned).collect()
}

fn set(session: &mut Session, asked: SessionOptions, namespace: (&str, &str)) -> SetSessionOptionsResult {
    let fixed: HashMap<_, _> = fixed(namespace).collect();
    let mut errors = HashMap::new();
    for (name, value) in asked.session_options {
        let value = value.string_value.as_deref();
        let result = match fixed.get(name.as_str()) {
            Some(known) if *known == value => Ok(()),
            Some(_) => Err(NotSet::Value),
            None => session.set(&name, value),
        };
        let error = match result {
            Ok(()) => continue,
            Err(NotSet::Name) => INVALID_NAME,
            Err(NotSet::Value) => INVALID_VALUE,
        };
        errors.insert(name, SessionOptionError { value: error });
    }
    SetSessionOptionsResult { errors }
}
