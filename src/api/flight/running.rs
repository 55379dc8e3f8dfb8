//! The answers that are on their way, so that they can be cancelled by their tickets.
//!
//! Every ticket has an id of its own. An answer is entered when it is asked for and leaves when its stream is dropped, so
//! what is in here is what runs, and nothing has to expire.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, future::ready, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use crate::api::flight::answer::FlightStream;

/// The running answers of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<Uuid, Answers>>>);

/// Answers to one ticket: a client may fetch it more than once.
#[derive(Debug)]
struct Answers {
    token: CancellationToken,
    count: usize,
}

/// The place of one answer, given back on drop.
#[derive(Debug)]
struct Place {
    running: Running,
    id: Uuid,
    token: CancellationToken,
}

impl Running {
    /// The same answer, which ends with an error when its ticket is cancelled.
    pub(super) fn enter(&self, id: Uuid, answer: FlightStream) -> FlightStream {
        let place = self.place(id);
        let token = place.token.clone();
        let last = stream::once(ready(())).filter_map(move |()| {
            let cancelled = place.token.is_cancelled();
            ready(cancelled.then(|| Err(Status::cancelled("the query was cancelled by its ticket"))))
        });
        // The chain drops the answer, and thereby stops the query, before it comes to the last item.
        answer.take_until(token.cancelled_owned()).chain(last).boxed()
    }

    /// Ends the answers to a ticket; tells whether there were any.
    pub(super) fn cancel(&self, id: Uuid) -> bool {
        let answers = self.0.lock();
        let Some(running) = answers.get(&id) else { return false };
        running.token.cancel();
        true
    }

    fn place(&self, id: Uuid) -> Place {
        let mut all = self.0.lock();
        let answers = all.entry(id).or_insert_with(|| Answers { token: CancellationToken::new(), count: 0 });
        answers.count += 1;
        Place { running: self.clone(), id, token: answers.token.clone() }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.running.0.lock();
        if let Some(answers) = all.get_mut(&self.id) {
            answers.count -= 1;
            if answers.count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::FlightData;

    use super::*;

    fn endless() -> FlightStream {
        stream::repeat_with(|| Ok(FlightData::default())).boxed()
    }

    #[tokio::test]
    async fn all_answers_to_a_ticket_end_when_it_is_cancelled_and_no_other() {
        let running = Running::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut first = running.enter(one, endless());
        let mut second = running.enter(one, endless());
        let mut third = running.enter(other, endless());
        assert!(first.next().await.unwrap().is_ok());
        assert!(running.cancel(one));
        for stream in [&mut first, &mut second] {
            let error = stream.next().await.unwrap().unwrap_err();
            assert_eq!(error.code(), tonic::Code::Cancelled);
            assert!(stream.next().await.is_none());
        }
        assert!(third.next().await.unwrap().is_ok());
        drop((first, second));
        assert!(!running.cancel(one));
        assert_eq!(running.len(), 1);
        drop(third);
        assert_eq!(running.len(), 0);
    }

    #[tokio::test]
    async fn an_answer_that_ends_by_itself_ends_without_an_error() {
        let running = Running::default();
        let id = Uuid::from_u128(1);
        let answer = running.enter(id, stream::iter([Ok(FlightData::default())]).boxed());
        assert_eq!(answer.collect::<Vec<_>>().await.len(), 1);
        assert_eq!(running.len(), 0);
    }
}
