//! What several tests share: a server process, senders of spans, and a SQL client.

pub(crate) mod process;
pub(crate) mod spans;
pub(crate) mod sql;
