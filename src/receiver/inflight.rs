//! How many bytes of requests the process holds between their arrival and their acknowledgement.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::IntGauge;

use crate::{
    error::{Error, ErrorKind, Result},
    ingest::RETRY_AFTER,
};

/// The budget of all requests together.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    gauge: IntGauge,
}

impl InFlight {
    pub(super) fn new(bytes_max: usize, gauge: IntGauge) -> Self {
        Self { bytes: Arc::default(), bytes_max, gauge }
    }

    /// A reservation of nothing, for a request that arrives.
    pub(super) fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), bytes: 0 }
    }
}

/// What one request holds of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: InFlight,
    bytes: usize,
}

impl Reservation {
    /// Bytes that this holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes this hold `bytes`, unless it already holds more.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.bytes { self.grow(bytes - self.bytes) } else { Ok(()) }
    }

    /// Takes more of the budget, before the bytes are kept.
    pub(super) fn grow(&mut self, by: usize) -> Result<()> {
        let InFlight { bytes, bytes_max, gauge } = &self.budget;
        let taken = bytes.fetch_add(by, Ordering::Relaxed).saturating_add(by);
        self.bytes += by;
        gauge.add(by.cast_signed() as i64);
        if taken > *bytes_max {
            // The drop of this reservation gives back what was just taken.
            let message = format!(
                "requests in flight hold {taken} bytes, more than the limit ingest.in_flight_bytes_max of {bytes_max}; \
                 retry later"
            );
            return Err(Error::new(ErrorKind::Unavailable, message).with_retry_after(RETRY_AFTER));
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.gauge.sub(self.bytes.cast_signed() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let gauge = IntGauge::new("bytes", "bytes").unwrap();
        let budget = InFlight::new(100, gauge.clone());
        let mut first = budget.reservation();
        first.grow(60).unwrap();
        first.grow(40).unwrap();
        let mut second = budget.reservation();
        let refused = second.grow(1).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.message().contains("ingest.in_flight_bytes_max of 100"), "{refused}");
        drop(second);
        drop(first);
        assert_eq!(gauge.get(), 0);
        budget.reservation().grow(100).unwrap();
    }
}
