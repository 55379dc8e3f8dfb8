//! One table from what the engine below says to what the caller should do about it.

use std::time::Duration;

use datafusion::{
    arrow::error::ArrowError, common::SchemaError, error::DataFusionError, object_store,
    sql::sqlparser::parser::ParserError,
};
use parquet::errors::ParquetError;

use crate::error::{Error, ErrorKind, Place};

/// The end of a message whose details are not for every caller of a server. They are the error's source.
pub const SEE_LOG: &str = "; the server's log has the details";

/// When a client that found the store away may ask again.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The error of the crate for an error of DataFusion, by its root cause.
pub(crate) fn from_datafusion(error: &DataFusionError) -> Error {
    let root = root_of(error);
    if let Some(ours) = ours(root) {
        return ours;
    }
    if let Some(failed) = store_failure(root) {
        return of_store(failed);
    }
    let kind = kind_of(root);
    let place = place_of(error, root);
    let message = match root {
        DataFusionError::SchemaError(schema, _) => schema_message(schema),
        DataFusionError::SQL(parser, _) => parser_message(parser),
        DataFusionError::NotImplemented(what) => {
            return Error::unsupported(without_stop(&lower_first(first_line(what))));
        }
        DataFusionError::ArrowError(arrow, _) => without_stop(&lower_first(&arrow_message(arrow))),
        DataFusionError::ResourcesExhausted(text) if text.contains("during the spilling process") => {
            format!("{}: query.spill_bytes_max", without_stop(&lower_first(first_line(text))))
        }
        other if kind == ErrorKind::Internal => return internal(other),
        DataFusionError::ParquetError(error) => return broken_file(error),
        other => without_stop(&lower_first(first_line(&other.message()))),
    };
    Error::new(kind, message).with_place(place)
}

/// What the object store said, if that is the root cause.
fn store_failure(root: &DataFusionError) -> Option<&object_store::Error> {
    match root {
        DataFusionError::ObjectStore(error) => Some(error),
        DataFusionError::ParquetError(error) => match error.as_ref() {
            ParquetError::External(error) => error.downcast_ref(),
            _ => None,
        },
        DataFusionError::External(error) => error.downcast_ref(),
        _ => None,
    }
}

/// A file that is not there is a defect of the table; a store that does not answer will do so again.
fn of_store(error: &object_store::Error) -> Error {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return broken_file(error);
    }
    let details = error.to_string();
    tracing::warn!(error = %details, "a query could not read the store");
    Error::new(ErrorKind::Unavailable, format!("the store of the tables cannot be read{SEE_LOG}"))
        .with_source(details)
        .with_retry_after(STORE_RETRY_AFTER)
}

/// A file that is damaged or not there; the details name places of the machine.
fn broken_file(error: &dyn std::fmt::Display) -> Error {
    let details = error.to_string();
    tracing::error!(error = %details, "a file of the table cannot be read");
    Error::new(ErrorKind::Corrupt, format!("a file of the table cannot be read{SEE_LOG}")).with_source(details)
}

/// Where in the statement the fault is: the planner knows it, or the parser's message ends with it.
fn place_of(error: &DataFusionError, root: &DataFusionError) -> Option<Place> {
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) {
        return Some(Place { line: span.start.line, column: span.start.column });
    }
    let DataFusionError::SQL(parser, _) = root else { return None };
    let (ParserError::TokenizerError(text) | ParserError::ParserError(text)) = parser.as_ref() else { return None };
    let (_, place) = text.rsplit_once("at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    Some(Place { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// A defect or a failure of the machine: the details go to the log, not to the caller.
pub(crate) fn internal(error: &dyn std::fmt::Display) -> Error {
    let details = error.to_string();
    tracing::error!(error = %details, "query failed inside of the engine");
    Error::new(ErrorKind::Internal, format!("the query failed inside of the engine{SEE_LOG}")).with_source(details)
}

/// The same error for a second reader; the source is kept as its text.
pub(crate) fn copy(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.message().to_owned()).with_place(error.place());
    let copy = match error.retry_after() {
        Some(delay) => copy.with_retry_after(delay),
        None => copy,
    };
    match std::error::Error::source(error) {
        Some(source) => copy.with_source(source.to_string()),
        None => copy,
    }
}

fn root_of(error: &DataFusionError) -> &DataFusionError {
    match error.find_root() {
        DataFusionError::Collection(errors) => errors.first().map_or(error, root_of),
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => root_of(inner),
        root => root,
    }
}

/// An error of this crate that travelled through DataFusion.
fn ours(root: &DataFusionError) -> Option<Error> {
    let external: &(dyn std::error::Error + 'static) = match root {
        DataFusionError::External(external) => external.as_ref(),
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::ExternalError(external) => external.as_ref(),
            _ => return None,
        },
        _ => return None,
    };
    if let Some(inner) = external.downcast_ref::<DataFusionError>() {
        return Some(from_datafusion(inner));
    }
    let error = external.downcast_ref::<Error>()?;
    Some(copy(error))
}

fn kind_of(root: &DataFusionError) -> ErrorKind {
    match root {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_)
        // Functions report arguments that they cannot take this way.
        | DataFusionError::Execution(_) => ErrorKind::InvalidArgument,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::ResourceExhausted,
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::CastError(_)
            | ArrowError::ParseError(_)
            | ArrowError::DivideByZero
            | ArrowError::ArithmeticOverflow(_)
            | ArrowError::ComputeError(_)
            | ArrowError::InvalidArgumentError(_)
            | ArrowError::OffsetOverflowError(_) => ErrorKind::InvalidArgument,
            ArrowError::NotYetImplemented(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        },
        DataFusionError::ParquetError(_) => ErrorKind::Corrupt,
        _ => ErrorKind::Internal,
    }
}

fn arrow_message(arrow: &ArrowError) -> String {
    match arrow {
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text) => text.clone(),
        other => other.to_string(),
    }
}

fn parser_message(parser: &ParserError) -> String {
    match parser {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => lower_first(first_line(text)),
        ParserError::RecursionLimitExceeded => "query is nested too deeply".to_owned(),
    }
}

fn schema_message(error: &SchemaError) -> String {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return without_stop(&lower_first(first_line(&error.to_string())));
    };
    let written = field.flat_name();
    let nearest = valid_fields
        .iter()
        .map(|valid| (strsim::damerau_levenshtein(valid.name(), field.name()), valid.name().to_owned()))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min();
    match nearest {
        Some((_, name)) => format!("there is no column {written}; did you mean {name}?"),
        None => format!("there is no column {written}"),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

fn without_stop(text: &str) -> String {
    text.trim_end().trim_end_matches('.').to_owned()
}

/// Lower case for the first letter, unless the first word is a name or an acronym.
fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::{exec_datafusion_err, plan_datafusion_err};

    use super::*;

    #[test]
    fn a_store_that_is_away_is_worth_another_try_and_a_file_that_is_lost_is_not() {
        let away = || object_store::Error::Generic { store: "bucket", source: "no route".into() };
        let lost = || object_store::Error::NotFound { path: "a.parquet".to_owned(), source: "gone".into() };
        let in_parquet = |error| DataFusionError::from(ParquetError::External(Box::new(error)));
        for error in [DataFusionError::from(away()), in_parquet(away()), in_parquet(away()).context("while")] {
            let error = from_datafusion(&error);
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(error.retry_after(), Some(STORE_RETRY_AFTER));
            assert!(!error.message().contains("no route"), "{error}");
        }
        let again = from_datafusion(&DataFusionError::External(Box::new(from_datafusion(&in_parquet(away())))));
        assert_eq!((again.kind(), again.retry_after()), (ErrorKind::Unavailable, Some(STORE_RETRY_AFTER)));
        for error in [DataFusionError::from(lost()), in_parquet(lost())] {
            let error = from_datafusion(&error);
            assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Corrupt, None));
        }
    }

    #[test]
    fn kinds_follow_the_root_cause_and_messages_read_as_ours() {
        let cases = [
            (plan_datafusion_err!("Invalid function 'x'."), ErrorKind::InvalidArgument, "invalid function 'x'"),
            (exec_datafusion_err!("SQL is bad"), ErrorKind::InvalidArgument, "SQL is bad"),
            (
                DataFusionError::NotImplemented("Recursive views".into()),
                ErrorKind::Unsupported,
                "not supported yet: recursive views",
            ),
            (
                DataFusionError::Internal("secret".into()),
                ErrorKind::Internal,
                "the query failed inside of the engine; the server's log has the details",
            ),
            (
                DataFusionError::External(Box::new(Error::new(ErrorKind::TooLarge, "too many rows"))).context("while"),
                ErrorKind::TooLarge,
                "too many rows",
            ),
        ];
        for (error, kind, message) in cases {
            let ours = from_datafusion(&error);
            assert_eq!((ours.kind(), ours.message()), (kind, message));
        }
    }
}
