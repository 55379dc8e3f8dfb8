//! `/api/mcp`: the Model Context Protocol, by which assistants ask the same questions as other clients.
//!
//! ```text
//!  POST {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "traceql-search", "arguments": {...}}}
//!  200  {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "..."}], "_meta": {...}}}
//! ```
//!
//! Each request is one message and is answered by one, as JSON; a message without an id gets 202. There are no sessions and
//! no messages that nobody asked for, so GET, which would wait for them, is 405. The tools ([`tools`]) have the names and
//! arguments of Tempo's. What a tool cannot do is told as a result that is marked as an error, which the assistant reads.
//! Browsers say from where a page sends a request; pages of other hosts are refused.

mod tools;

use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::tempo::{JSON, TempoState, body, text},
    error::Error,
};

/// Protocol versions that are understood, the newest first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Codes of JSON-RPC.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;

/// The name and version that Tempo's own server has; assistants know its tools by it.
const SERVER_NAME: &str = "tempo";
const SERVER_VERSION: &str = "0.1.0";

#[derive(Debug, Deserialize)]
struct Message {
    jsonrpc: Option<String>,
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// Why a message has no result: a code and a text.
type Refusal = (i32, String);

pub(super) async fn post(State(state): State<TempoState>, headers: HeaderMap, content: Bytes) -> Response {
    if is_of_another_host(&headers) {
        return text(StatusCode::FORBIDDEN, "pages of other hosts may not ask\n");
    }
    let message: Message = match serde_json::from_slice(&content) {
        Ok(message) => message,
        Err(error) => {
            return reply(&failed(&Value::Null, &(PARSE_ERROR, format!("not a message of JSON-RPC: {error}"))));
        }
    };
    // A notification, or an answer to a question that was never asked.
    let Some(id) = message.id else { return StatusCode::ACCEPTED.into_response() };
    let result = match (message.jsonrpc.as_deref(), message.method.as_deref()) {
        (Some("2.0"), Some(method)) => call(&state, method, &message.params).await,
        _ => Err((INVALID_REQUEST, "jsonrpc must be \"2.0\", and method the name of a method".to_owned())),
    };
    match result {
        Ok(result) => reply(&json!({"jsonrpc": "2.0", "id": id, "result": result})),
        Err(refusal) => reply(&failed(&id, &refusal)),
    }
}

/// Nothing is sent unasked, and there is no session to end.
pub(super) async fn other() -> Response {
    ([(header::ALLOW, "POST")], StatusCode::METHOD_NOT_ALLOWED).into_response()
}

fn is_of_another_host(headers: &HeaderMap) -> bool {
    let value = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let Some(origin) = value(header::ORIGIN) else { return false };
    let of_origin = origin.split_once("://").map(|(_, host)| host);
    of_origin.is_none() || of_origin != value(header::HOST)
}

fn reply(message: &Value) -> Response {
    body(JSON, message.to_string().into_bytes())
}

fn failed(id: &Value, (code, text): &Refusal) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}})
}

async fn call(state: &TempoState, method: &str, params: &Value) -> Result<Value, Refusal> {
    match method {
        "initialize" => Ok(initialized(params)),
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": tools::list()})),
        "tools/call" => {
            let name = params["name"].as_str().unwrap_or_default();
            let Some(tool) = tools::named(name) else {
                return Err((INVALID_PARAMS, format!("no tool is named {name:?}")));
            };
            Ok(match tool.call(state, &params["arguments"]).await {
                Ok(answer) => answer,
                Err(error) => told(&error),
            })
        }
        "resources/list" => Ok(json!({"resources": tools::resources()})),
        "resources/templates/list" => Ok(json!({"resourceTemplates": []})),
        "resources/read" => {
            let uri = params["uri"].as_str().unwrap_or_default();
            match tools::resource(uri) {
                Some(text) => Ok(json!({"contents": [{"uri": uri, "mimeType": "text/markdown", "text": text}]})),
                None => Err((INVALID_PARAMS, format!("no resource is at {uri:?}"))),
            }
        }
        "prompts/list" => Ok(json!({"prompts": []})),
        _ => Err((METHOD_NOT_FOUND, format!("no method is named {method:?}"))),
    }
}

fn initialized(params: &Value) -> Value {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let version = VERSIONS.iter().find(|version| **version == asked).unwrap_or(&VERSIONS[0]);
    json!({
        "protocolVersion": version,
        "capabilities": {"tools": {}, "resources": {}},
        "serverInfo": {"name": SERVER_NAME, "version": SERVER_VERSION},
        "instructions": "Distributed traces, asked for by TraceQL. Read docs-traceql before writing queries.",
    })
}

/// An error as the result of a tool.
fn told(error: &Error) -> Value {
    json!({"content": [{"type": "text", "text": error.message()}], "isError": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_hosts_are_told_by_their_origin() {
        let other = |pairs: &[(header::HeaderName, &str)]| {
            is_of_another_host(&pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect())
        };
        let host = (header::HOST, "127.0.0.1:3200");
        assert!(!other(std::slice::from_ref(&host)));
        assert!(!other(&[host.clone(), (header::ORIGIN, "http://127.0.0.1:3200")]));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:3201"] {
            assert!(other(&[host.clone(), (header::ORIGIN, origin)]), "{origin}");
        }
    }

    #[test]
    fn the_version_is_the_clients_if_it_is_known() {
        assert_eq!(initialized(&json!({"protocolVersion": "2025-03-26"}))["protocolVersion"], "2025-03-26");
        assert_eq!(initialized(&json!({"protocolVersion": "1999-01-01"}))["protocolVersion"], VERSIONS[0]);
    }
}
