//! All integration tests, in one binary: each further one would link the whole engine again.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod catalog;
mod command_line;
mod cook_book;
mod crash;
mod demo;
mod dependencies;
mod deploy;
mod disk_full;
mod end_to_end;
mod flight;
mod frame;
mod generated_code;
mod ingest;
mod layers;
mod maintain;
mod one_span_requests;
mod otlp_arbitrary;
mod otlp_json;
mod otlp_malformed;
mod otlp_round_trip;
mod otlp_samples;
mod power_cut;
mod promoting;
mod promotion;
mod pruning;
mod query;
mod readme;
mod receiver_grpc;
mod receiver_http;
mod receiver_support;
mod slt;
mod span_table;
mod sql_http;
mod store;
mod support;
mod tempo_grpc;
mod tempo_http;
mod tempo_queries;
mod tempo_strict;
mod trace_lookup;
mod traceql;
mod wal;
mod wal_crash;
mod wal_damage;
