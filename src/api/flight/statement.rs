//! What a ticket or the handle of a prepared statement holds: the statement itself.
//!
//! ```text
//!  handle = protobuf message
//!    1 text      string   the statement
//!    2 language  int32    0 SQL, 1 TraceQL
//!    3 params    bytes    Arrow IPC stream of one batch, its columns in the order of $1, $2, ...; empty without parameters
//!    4 start     sint64   TraceQL: Unix nanoseconds, first instant
//!    5 end       sint64   TraceQL: Unix nanoseconds, first instant outside
//!    6 limit     uint64   TraceQL: most traces, 0 for the default
//!    7 spans     uint64   TraceQL: most spans per trace, 0 for the default
//!    8 step      sint64   TraceQL metrics: nanoseconds between samples, 0 to choose by the range
//!    9 types     int32    0 plain, 1 flat, 2 typed
//!   10 id        bytes    in tickets: 16 bytes by which the answer is cancelled
//!   11 timeout   uint64   milliseconds, 0 for the server's limit
//!   12 rows      uint64   most rows of the answer, 0 for the server's limit
//! ```
//!
//! Binding gives the client a new handle that replaces the old one. A handle is not a secret and gives no rights: it is
//! checked like a statement each time. Several rows of parameters are several runs, whose rows come one run after the
//! other, each under limits of its own.

use std::time::Duration;

use arrow_flight::{
    decode::FlightRecordBatchStream,
    error::FlightError,
    sql::{Any, ProstMessageExt, TicketStatementQuery, server::PeekableFlightDataStream},
};
use datafusion::{
    arrow::{
        array::RecordBatch,
        compute::concat_batches,
        error::ArrowError,
        ipc::{reader::StreamReader, writer::StreamWriter},
    },
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use prost::Message;
use tonic::{Status, metadata::MetadataMap};
use uuid::Uuid;

use crate::{
    api::flight::session::Session,
    model::{tenant::TenantId, time::TimeRange},
    query::{AnswerForm, Explain, LimitOverrides, MetricsQuery, QueryKind, QueryRequest, SqlQuery, TraceQlQuery},
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

/// Header that says in which types an answer comes: `plain`, `flat` or `typed`.
const TYPES_HEADER: &str = "x-tracehouse-types";
const FORMS: [(&str, AnswerForm); 3] =
    [("plain", AnswerForm::Plain), ("flat", AnswerForm::Flat), ("typed", AnswerForm::Typed)];

/// Most rows of parameters of one statement.
const PARAMETER_ROWS_MAX: usize = 1_000;
/// Most bytes of parameters of one statement: they travel in the handle and in the ticket.
const PARAMETER_BYTES_MAX: usize = 1 << 20;

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
    #[prost(int32, tag = "9")]
    types: i32,
    #[prost(bytes = "vec", tag = "10")]
    id: Vec<u8>,
    #[prost(uint64, tag = "11")]
    timeout: u64,
    #[prost(uint64, tag = "12")]
    rows: u64,
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
        let session = Session::of_call(headers);
        let milliseconds = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        Ok(Self {
            text,
            language,
            params: Vec::new(),
            start: number(headers, START_HEADER)?.unwrap_or(i64::MIN),
            end: number(headers, END_HEADER)?.unwrap_or(i64::MAX),
            limit: number(headers, LIMIT_HEADER)?.unwrap_or_default(),
            spans: number(headers, SPANS_HEADER)?.unwrap_or_default(),
            step: number(headers, STEP_HEADER)?.unwrap_or_default(),
            types: types(headers, &session)?,
            id: Vec::new(),
            timeout: session.timeout().map_or(0, milliseconds),
            rows: session.rows_max().map_or(0, |rows| rows.max(1)),
        })
    }

    /// All of a table, which is named by the parts of its path.
    pub(super) fn of_table(path: &[String], headers: &MetadataMap) -> Result<Self, Status> {
        if path.is_empty() || path.len() > 3 {
            return Err(Status::invalid_argument(
                "a path has to be a table, a schema and a table, or a catalog, a schema and a table",
            ));
        }
        let quoted: Vec<String> = path.iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
        let text = format!("SELECT * FROM {}", quoted.join("."));
        Ok(Self { language: SQL, ..Self::from_call(text, headers)? })
    }

    /// The statement in a ticket or handle.
    pub(super) fn from_handle(handle: &[u8]) -> Result<Self, Status> {
        Self::decode(handle).map_err(|_| Status::invalid_argument("the handle is not one of this server"))
    }

    /// The handle that holds this statement.
    pub(super) fn handle(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// A ticket that runs this statement; each has an id of its own.
    pub(super) fn ticket(mut self) -> Any {
        self.id = Uuid::new_v4().into_bytes().to_vec();
        TicketStatementQuery { statement_handle: self.handle().into() }.as_any()
    }

    /// The id of the ticket that this statement was in.
    pub(super) fn id(&self) -> Option<Uuid> {
        Uuid::from_slice(&self.id).ok()
    }

    /// The same statement with the parameters that a client sent.
    pub(super) async fn bound(mut self, stream: PeekableFlightDataStream) -> Result<Self, Status> {
        let stream = stream.into_peekable().map_err(|status| FlightError::Tonic(Box::new(status)));
        let mut stream = FlightRecordBatchStream::new_from_flight_data(stream);
        let (mut batches, mut rows) = (Vec::new(), 0);
        while let Some(batch) = stream.try_next().await? {
            rows += batch.num_rows();
            if rows > PARAMETER_ROWS_MAX {
                return Err(Status::invalid_argument(format!(
                    "parameters: at least {rows} rows are more than the limit of {PARAMETER_ROWS_MAX}"
                )));
            }
            batches.push(batch);
        }
        let unreadable = |error: ArrowError| Status::invalid_argument(format!("parameters: {error}"));
        self.params = match batches.first() {
            Some(first) if rows > 0 => ipc(&concat_batches(first.schema_ref(), &batches).map_err(unreadable)?),
            _ => Ok(Vec::new()),
        }
        .map_err(unreadable)?;
        let bytes = self.params.len();
        if bytes > PARAMETER_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "parameters: {bytes} bytes are more than the limit of {PARAMETER_BYTES_MAX}"
            )));
        }
        Ok(self)
    }

    /// The requests to the engine: one for each row of parameters, and one without any.
    pub(super) fn requests(&self) -> Result<Vec<QueryRequest>, Status> {
        let kinds = match self.language {
            TRACEQL => vec![self.traceql()],
            _ => {
                let rows =
                    self.param_rows().map_err(|error| Status::invalid_argument(format!("parameters: {error}")))?;
                rows.into_iter().map(|params| QueryKind::Sql(SqlQuery { text: self.text.clone(), params })).collect()
            }
        };
        let limits = LimitOverrides {
            timeout: Some(self.timeout).filter(|timeout| *timeout > 0).map(Duration::from_millis),
            result_rows_max: Some(self.rows).filter(|rows| *rows > 0),
            ..LimitOverrides::default()
        };
        let request =
            |kind| QueryRequest { form: self.form(&kind), limits, ..QueryRequest::new(TenantId::single(), kind) };
        Ok(kinds.into_iter().map(request).collect())
    }

    /// The request that stands for all of them where nothing is run yet.
    pub(super) fn request(&self) -> Result<QueryRequest, Status> {
        self.requests()?.into_iter().next().ok_or_else(|| Status::internal("a statement without a request"))
    }

    /// Series are rows of samples to clients, whatever types they want.
    fn form(&self, kind: &QueryKind) -> AnswerForm {
        let wanted = usize::try_from(self.types).ok().and_then(|number| FORMS.get(number));
        match (wanted, kind) {
            (Some((_, AnswerForm::Typed)), QueryKind::Metrics(_)) | (None, _) => AnswerForm::Plain,
            (Some((_, form)), _) => *form,
        }
    }

    fn traceql(&self) -> QueryKind {
        let (explain, text) = Explain::split(&self.text);
        if traceql::is_metrics(text) {
            return QueryKind::Metrics(MetricsQuery {
                start_unix_nano: Some(self.start).filter(|start| *start != i64::MIN),
                end_unix_nano: Some(self.end).filter(|end| *end != i64::MAX),
                step_nano: Some(self.step).filter(|step| *step != 0),
                explain,
                ..MetricsQuery::new(text)
            });
        }
        let positive = |number: u64| usize::try_from(number).ok().filter(|number| *number > 0);
        QueryKind::TraceQl(TraceQlQuery {
            range: TimeRange::new(self.start, self.end),
            limit: positive(self.limit),
            spans_per_trace: positive(self.spans),
            explain,
            ..TraceQlQuery::new(text)
        })
    }

    fn param_rows(&self) -> datafusion::error::Result<Vec<Vec<ScalarValue>>> {
        if self.params.is_empty() {
            return Ok(vec![Vec::new()]);
        }
        let mut reader = StreamReader::try_new(self.params.as_slice(), None)?;
        let Some(batch) = reader.next().transpose()? else { return Ok(vec![Vec::new()]) };
        let row = |row| batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row)).collect();
        (0..batch.num_rows().min(PARAMETER_ROWS_MAX)).map(row).collect()
    }
}

fn ipc(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

/// The types of an answer: those of the header, else of the session, else what the client can show.
fn types(headers: &MetadataMap, session: &Session) -> Result<i32, Status> {
    let number = |wanted: &str| FORMS.iter().position(|(name, _)| *name == wanted);
    let default = || if knows_flat_types_only(headers) { "flat" } else { "plain" };
    let number = match headers.get(TYPES_HEADER) {
        Some(wanted) => wanted.to_str().ok().and_then(number),
        None => number(session.types().unwrap_or_else(default)),
    };
    number.and_then(|number| i32::try_from(number).ok()).ok_or_else(|| {
        let known = FORMS.map(|(name, _)| name).join(", ");
        Status::invalid_argument(format!("header {TYPES_HEADER} has to be one of {known}"))
    })
}

/// Whether this is Grafana's data source, which has no name of its own but that of the library it is written with. It leaves
/// columns of maps and lists empty.
fn knows_flat_types_only(headers: &MetadataMap) -> bool {
    let agent = headers.get("user-agent").and_then(|agent| agent.to_str().ok());
    agent.is_some_and(|agent| agent.starts_with("grpc-go/"))
}

fn number<T: std::str::FromStr>(headers: &MetadataMap, name: &str) -> Result<Option<T>, Status> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Status::invalid_argument(format!("header {name} has to be a whole number")))
}
