//! What a ticket or the handle of a prepared statement holds: the statement itself.
//!
//! ```text
//!  handle = protobuf message
//!    1 text      string   the statement
//!    2 language  int32    0 SQL, 1 TraceQL
//!    3 params    bytes    Arrow IPC stream of one batch of one row, in the order of $1, $2, ...; empty without parameters
//!    4 start     sint64   TraceQL: Unix nanoseconds, first instant
//!    5 end       sint64   TraceQL: Unix nanoseconds, first instant outside
//!    6 limit     uint64   TraceQL: most traces, 0 for the default
//!    7 spans     uint64   TraceQL: most spans per trace, 0 for the default
//!    8 step      sint64   TraceQL metrics: nanoseconds between samples, 0 to choose by the range
//! ```
//!
//! Binding gives the client a new handle that replaces the old one. A handle is not a secret and gives no rights: it is
//! checked like a statement each time.

use arrow_flight::{
    decode::FlightRecordBatchStream,
    sql::{Any, ProstMessageExt, TicketStatementQuery, server::PeekableFlightDataStream},
};
use datafusion::{
    arrow::{
        array::RecordBatch,
        error::ArrowError,
        ipc::{reader::StreamReader, writer::StreamWriter},
    },
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use prost::Message;
use tonic::{Status, metadata::MetadataMap};

use crate::{
    model::{tenant::TenantId, time::TimeRange},
    query::{AnswerForm, Explain, MetricsQuery, QueryKind, QueryRequest, SqlQuery, TraceQlQuery},
    traceql,
};

/// Header that says which language a statement is in: `sql` (the default) or `traceql`.
const LANGUAGE_HEADER: &str = "x-tracehouse-language";
/// Headers of TraceQL: the range in Unix nanoseconds, the limits, and for metrics the nanoseconds between samples.
const START_HEADER: &str = "x-tracehouse-start";
const END_HEADER: &str = "x-tracehouse-end";
const LIMIT_HEADER: &str = "x-tracehouse-limit";
const SPANS_HEADER: &str = "x-tracehouse-spans-per-trace";
const STEP_HEADER: &str = "x-tracehouse-step";

const SQL: i32 = 0;
const TRACEQL: i32 = 1;

/// A statement with all that is needed to run it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Statement {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(int32, tag = "2")]
    language: i32,
    #[prost(bytes = "vec", tag = "3")]
    params: Vec<u8>,
    #[prost(sint64, tag = "4")]
    start: i64,
    #[prost(sint64, tag = "5")]
    end: i64,
    #[prost(uint64, tag = "6")]
    limit: u64,
    #[prost(uint64, tag = "7")]
    spans: u64,
    #[prost(sint64, tag = "8")]
    step: i64,
}

impl Statement {
    /// The statement of a call.
    pub(super) fn from_call(text: String, headers: &MetadataMap) -> Result<Self, Status> {
        let language = match headers.get(LANGUAGE_HEADER).map(|value| value.to_str()) {
            None | Some(Ok("sql")) => SQL,
            Some(Ok("traceql")) => TRACEQL,
            Some(_) => {
                return Err(Status::invalid_argument(format!("header {LANGUAGE_HEADER} has to be sql or traceql")));
            }
        };
        Ok(Self {
            text,
            language,
            params: Vec::new(),
            start: number(headers, START_HEADER)?.unwrap_or(i64::MIN),
            end: number(headers, END_HEADER)?.unwrap_or(i64::MAX),
            limit: number(headers, LIMIT_HEADER)?.unwrap_or_default(),
            spans: number(headers, SPANS_HEADER)?.unwrap_or_default(),
            step: number(headers, STEP_HEADER)?.unwrap_or_default(),
        })
    }

    /// The statement in a ticket or handle.
    pub(super) fn from_handle(handle: &[u8]) -> Result<Self, Status> {
        Self::decode(handle).map_err(|_| Status::invalid_argument("the handle is not one of this server"))
    }

    /// The handle that holds this statement.
    pub(super) fn handle(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The ticket that runs this statement.
    pub(super) fn ticket(&self) -> Any {
        TicketStatementQuery { statement_handle: self.handle().into() }.as_any()
    }

    /// The same statement with the parameters that a client sent.
    pub(super) async fn bound(mut self, stream: PeekableFlightDataStream) -> Result<Self, Status> {
        let stream = stream.into_peekable().map_err(|status| arrow_flight::error::FlightError::Tonic(Box::new(status)));
        let batches: Vec<RecordBatch> =
            FlightRecordBatchStream::new_from_flight_data(stream).try_collect().await.map_err(Status::from)?;
        let mut rows = batches.iter().filter(|batch| batch.num_rows() > 0);
        let row = match (rows.next(), rows.next()) {
            (None, _) => {
                self.params = Vec::new();
                return Ok(self);
            }
            (Some(batch), None) if batch.num_rows() == 1 => batch,
            _ => return Err(Status::unimplemented("not supported yet: more than one row of parameters")),
        };
        self.params = ipc(row).map_err(|error| Status::invalid_argument(format!("parameters: {error}")))?;
        Ok(self)
    }

    /// The request to the engine.
    pub(super) fn request(&self) -> Result<QueryRequest, Status> {
        let tenant = TenantId::single();
        if self.language == TRACEQL {
            let (explain, text) = Explain::split(&self.text);
            if traceql::is_metrics(text) {
                let query = MetricsQuery {
                    start_unix_nano: Some(self.start).filter(|start| *start != i64::MIN),
                    end_unix_nano: Some(self.end).filter(|end| *end != i64::MAX),
                    step_nano: Some(self.step).filter(|step| *step != 0),
                    explain,
                    ..MetricsQuery::new(text)
                };
                let mut request = QueryRequest::new(tenant, QueryKind::Metrics(query));
                request.form = AnswerForm::Plain;
                return Ok(request);
            }
            let positive = |number: u64| usize::try_from(number).ok().filter(|number| *number > 0);
            let query = TraceQlQuery {
                range: TimeRange::new(self.start, self.end),
                limit: positive(self.limit),
                spans_per_trace: positive(self.spans),
                explain,
                ..TraceQlQuery::new(text)
            };
            let mut request = QueryRequest::new(tenant, QueryKind::TraceQl(query));
            request.form = AnswerForm::Plain;
            return Ok(request);
        }
        let params = self.param_values().map_err(|error| Status::invalid_argument(format!("parameters: {error}")))?;
        Ok(QueryRequest::new(tenant, QueryKind::Sql(SqlQuery { text: self.text.clone(), params })))
    }

    fn param_values(&self) -> datafusion::error::Result<Vec<ScalarValue>> {
        if self.params.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = StreamReader::try_new(self.params.as_slice(), None)?;
        let Some(batch) = reader.next().transpose()? else { return Ok(Vec::new()) };
        batch.columns().iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }
}

fn ipc(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

fn number<T: std::str::FromStr>(headers: &MetadataMap, name: &str) -> Result<Option<T>, Status> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Status::invalid_argument(format!("header {name} has to be a whole number")))
}
