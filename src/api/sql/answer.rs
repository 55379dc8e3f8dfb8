//! From the engine's batches to the body of a response, piece by piece.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};

use super::{encode::Encoder, question::Question};
use crate::{
    error::{Error, ErrorKind, Result},
    query::{QueryEngine, QueryStream},
};

/// How long the last words of an answer that is cut off have to reach the network: what is not sent by then goes with the
/// connection.
const WORDS_LEAVE: Duration = Duration::from_millis(300);

/// Runs the query up to its first batch; the body runs the rest. The number is that of the query.
///
/// Dropping the body stops the query.
pub(super) async fn stream(engine: &QueryEngine, question: Question) -> Result<(u64, Body)> {
    let mut answer = engine.execute(question.request).await?;
    let (encoder, opening) = Encoder::start(question.format, &answer.schema())?;
    // What fails before there is a row is an error with a status.
    let first = answer.next().await.transpose()?;
    let id = answer.id();
    let rest = Rest { encoder, answer };
    let pieces = stream::iter([Ok(Bytes::from(opening))]);
    let pieces = match first {
        Some(batch) => {
            let (rest, bytes) = rest.encoded(batch).await?;
            let state = State::Rows(rest);
            pieces.chain(stream::iter([Ok(bytes)])).chain(stream::unfold(state, next)).boxed()
        }
        None => pieces.chain(stream::unfold(State::Rows(rest), next)).boxed(),
    };
    // An empty piece would say nothing, and would still be a chunk.
    let pieces = pieces.filter(|piece| {
        let is_something = piece.as_ref().map_or(true, |bytes: &Bytes| !bytes.is_empty());
        futures::future::ready(is_something)
    });
    Ok((id, Body::from_stream(pieces)))
}

/// An answer on its way.
struct Rest {
    encoder: Encoder,
    answer: QueryStream,
}

/// Where the body is.
enum State {
    Rows(Rest),
    /// The error after which the body is cut off.
    Cut(Error),
    End,
}

async fn next(state: State) -> Option<(Result<Bytes>, State)> {
    let mut rest = match state {
        State::Rows(rest) => rest,
        State::Cut(error) => {
            tokio::time::sleep(WORDS_LEAVE).await;
            return Some((Err(error), State::End));
        }
        State::End => return None,
    };
    match rest.answer.next().await {
        Some(Ok(batch)) => match rest.encoded(batch).await {
            Ok((rest, bytes)) => Some((Ok(bytes), State::Rows(rest))),
            Err(error) => Some((Err(error), State::End)),
        },
        Some(Err(error)) => {
            let words = rest.encoder.last_words(&error);
            Some((Ok(words.into()), State::Cut(error)))
        }
        None => {
            let stats = rest.answer.stats();
            Some((rest.encoder.finish(&stats).map(Bytes::from), State::End))
        }
    }
}

impl Rest {
    /// Encodes a batch away from the threads of the network.
    async fn encoded(mut self, batch: arrow::array::RecordBatch) -> Result<(Self, Bytes)> {
        let encoding = tokio::task::spawn_blocking(move || {
            let bytes = self.encoder.write(&batch)?;
            Ok((self, Bytes::from(bytes)))
        });
        match encoding.await {
            Ok(encoded) => encoded,
            Err(failed) => Err(Error::new(ErrorKind::Internal, "the answer could not be written").with_source(failed)),
        }
    }
}
