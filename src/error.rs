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

/// Longest text of an error in an answer by gRPC.
const GRPC_MESSAGE_BYTES_MAX: usize = 4 << 10;

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

    /// The text for a caller who asked by gRPC, where it travels in the head of the answer: a client that is sent more than
    /// 16 KiB there ends the connection. A longer text is shortened; each byte may take three.
    pub fn grpc_message(&self) -> Cow<'_, str> {
        shortened(&self.message, GRPC_MESSAGE_BYTES_MAX)
    }

    /// How long a sender should wait, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// A text of at most `bytes_max` bytes: the beginning and the end of a longer one.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> Cow<'_, str> {
    const GAP: &str = " ... ";
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let kept = bytes_max.saturating_sub(GAP.len());
    let head = text.floor_char_boundary(kept / 4 * 3);
    let tail = text.ceil_char_boundary(text.len() - kept / 4);
    Cow::Owned(format!("{}{GAP}{}", &text[..head], &text[tail..]))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("0123456789abcdefghijklmnopqrst", 25), "0123456789abcde ... pqrst");
        for bytes_max in 0..40 {
            let text = "\u{e9}\u{1f600}".repeat(10);
            assert!(shortened(&text, bytes_max).len() <= bytes_max.max(5), "{bytes_max}");
        }
        let error = Error::invalid("x".repeat(1 << 20));
        assert_eq!((error.message().len(), error.grpc_message().len() <= GRPC_MESSAGE_BYTES_MAX), (1 << 20, true));
    }
}
