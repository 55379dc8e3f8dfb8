//! The crate's error: a kind that says what the caller should do, and a message for the person who asked.
//!
//! Every module below has its own small `thiserror` enum; at a module boundary that leads to a client it becomes an
//! [`Error`] with an [`ErrorKind`]. The kind alone decides the status on the wire, by the two tables in this file, so
//! that HTTP, gRPC and Flight SQL never disagree.

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

/// What went wrong, in the terms of what the caller should do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong as written; sending it again unchanged gives the same answer.
    InvalidArgument,
    /// The request is well formed, and asks for something that is not built; retrying does not help.
    Unsupported,
    /// The named thing does not exist.
    NotFound,
    /// No credential, or one that is not valid.
    Unauthenticated,
    /// The credential does not allow this.
    PermissionDenied,
    /// The request or its answer is larger than a limit; a smaller one succeeds.
    TooLarge,
    /// A limit on memory, rows or rate was reached; retry later or ask for less.
    ResourceExhausted,
    /// The server cannot take this now; retry after the hint. Nothing was stored.
    Unavailable,
    /// The time limit of the request was reached.
    DeadlineExceeded,
    /// The client went away.
    Cancelled,
    /// Stored data fails a checksum or an invariant; an operator has to look.
    Corrupt,
    /// A defect or an unexpected failure of the machine; the log has the details.
    Internal,
}

impl ErrorKind {
    /// The HTTP status that stands for this kind.
    ///
    /// Storage trouble is 503 for senders by way of [`ErrorKind::Unavailable`]; OTLP senders drop data on a 500.
    pub fn http_status(self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            ErrorKind::InvalidArgument | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            // nginx's code, which Tempo and Grafana know: client closed request.
            ErrorKind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The name of this kind for programs, such as `invalid_argument`.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::ResourceExhausted => "resource_exhausted",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        }
    }

    /// The gRPC status that stands for this kind.
    pub fn grpc_code(self) -> tonic::Code {
        use tonic::Code;
        match self {
            ErrorKind::InvalidArgument => Code::InvalidArgument,
            ErrorKind::Unsupported => Code::Unimplemented,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Unauthenticated => Code::Unauthenticated,
            ErrorKind::PermissionDenied => Code::PermissionDenied,
            ErrorKind::TooLarge | ErrorKind::ResourceExhausted => Code::ResourceExhausted,
            ErrorKind::Unavailable => Code::Unavailable,
            ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorKind::Cancelled => Code::Cancelled,
            ErrorKind::Corrupt => Code::DataLoss,
            ErrorKind::Internal => Code::Internal,
        }
    }
}

/// A place in a text; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

/// An error that can be shown to the person who sent the request or wrote the configuration.
///
/// The message is lowercase, has no full stop, and names the thing, the limit and the value.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    place: Option<Place>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of anything that can fail towards a client.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with the text that the caller will read.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), retry_after: None, place: None, source: None }
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Something that is planned and not built: `not supported yet: {what}`.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("not supported yet: {what}"))
    }

    /// Keeps the underlying error for the log; its text is not part of the message.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Tells senders how long to wait before the next try.
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Says where in the text of the request the fault is.
    pub fn with_place(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// Where in the text of the request the fault is, where that is known.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text for the caller, without the source.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long a sender should wait, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
