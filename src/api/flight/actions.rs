//! Actions beside those of Flight SQL: sessions and cancellation.
//!
//! There are no sessions. Options can be read (the catalogue and the schema) and set to what they are; JDBC drivers with
//! `catalog=` in their address do that.

use std::collections::HashMap;

use arrow_flight::{Action, CancelFlightInfoResult, CancelStatus};
use bytes::Bytes;
use prost::Message;
use tonic::Status;

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
    ("CancelFlightInfo", "Answers that the query is not cancellable this way: closing its stream cancels it"),
    ("CloseSession", "Does nothing: there are no sessions"),
    ("GetSessionOptions", "Gives the catalog and the schema"),
    ("SetSessionOptions", "Takes the catalog and the schema that there are"),
];

/// The body of the answer to an action.
pub(super) fn answer(action: &Action, namespace: (&str, &str)) -> Result<Bytes, Status> {
    let body = match action.r#type.as_str() {
        "CloseSession" => CloseSessionResult { status: CLOSED }.encode_to_vec(),
        "GetSessionOptions" => SessionOptions { session_options: options(namespace) }.encode_to_vec(),
        "SetSessionOptions" => set(&action.body, namespace)?.encode_to_vec(),
        "CancelFlightInfo" => CancelFlightInfoResult { status: CancelStatus::NotCancellable as i32 }.encode_to_vec(),
        other => {
            let known = KNOWN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(Status::unimplemented(format!(
                "there is no action {other:?}; besides those of Flight SQL there are: {known}"
            )));
        }
    };
    Ok(body.into())
}

fn options((catalog, schema): (&str, &str)) -> HashMap<String, SessionOptionValue> {
    [("catalog", catalog), ("schema", schema)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), SessionOptionValue { string_value: Some(value.to_owned()) }))
        .collect()
}

fn set(body: &[u8], namespace: (&str, &str)) -> Result<SetSessionOptionsResult, Status> {
    let asked = SessionOptions::decode(body)
        .map_err(|error| Status::invalid_argument(format!("SetSessionOptions: {error}")))?
        .session_options;
    let ours = options(namespace);
    let errors = asked
        .into_iter()
        .filter_map(|(name, value)| match ours.get(&name) {
            Some(known) if *known == value => None,
            Some(_) => Some((name, SessionOptionError { value: INVALID_VALUE })),
            None => Some((name, SessionOptionError { value: INVALID_NAME })),
        })
        .collect();
    Ok(SetSessionOptionsResult { errors })
}
