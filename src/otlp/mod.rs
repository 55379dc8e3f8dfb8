//! OTLP: requests in, spans out again.
//!
//! ```text
//!  protobuf -> wire, any_value -> decode \                       encode -> TracesData -> protobuf
//!                                         > assemble -> Batch       ^                 -> tempo_json, tempo_llm
//!  JSON -> json_reader ---------> json   /   (rules)                |
//!                                                        logical rows of a trace
//! ```
//!
//! [`decode::decode_protobuf`] and [`json::decode_json`] read a request into borrowed parts; `assemble` checks each
//! span by the [`rules`] and gives the good ones to the builder, so that both encodings keep and reject the same.
//! [`encode`] is the way back, from rows whose attribute maps are whole. [`rpc_status`] is the form of errors.
//!
//! # What is kept
//!
//! Everything that a span carries, up to a normal form. A request that comes back differs only so:
//!
//! - attributes are sorted by key, and of several with one key the last is left; inside of nested values order and
//!   duplicates stay as sent;
//! - kinds and status codes that OTLP does not define become 0;
//! - an absent value of an attribute is an empty one, and an absent scope, resource or status an empty one;
//! - a parent id of zeros is an absent one;
//! - spans are grouped by equal resource and scope, also where the request had several equal ones;
//! - not-a-number inside of a nested value is the usual one.
//!
//! Deliberately not kept: unknown fields, references of a resource to entities, and indexes into the string dictionary
//! that only profiles have.

mod any_value;
mod assemble;
mod attribute_rows;
pub mod decode;
pub mod encode;
pub mod json;
mod json_reader;
mod json_text;
pub mod json_value;
pub mod rpc_status;
pub mod rules;
pub mod tempo_json;
pub mod tempo_llm;
mod wire;

pub use assemble::Decoded;
pub use json_reader::JsonError;
pub use wire::WireProblem;
