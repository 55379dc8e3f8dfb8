//! Memory of queries: a cap per query inside of a cap per process.
//!
//! DataFusion's operators ask the pool of their query before they grow. Operators that can spill share the query's cap
//! fairly and spill when they reach their part; others fail the query. What has no consumer, such as batches on their
//! way between operators, is small and not counted.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use datafusion::{
    common::{Result, resources_datafusion_err},
    execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation},
};

/// Memory of all running queries together.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    used: AtomicUsize,
    limit: usize,
}

impl ProcessMemory {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Bytes that running queries hold.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_add(&self, bytes: usize) -> Result<()> {
        let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).map(drop).map_err(|used| {
            let limit = self.limit;
            resources_datafusion_err!(
                "queries use {used} bytes of memory together and {bytes} more would be above the limit query.memory_bytes_max = {limit}"
            )
        })
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The pool of one query.
#[derive(Debug)]
pub(crate) struct QueryPool {
    fair: FairSpillPool,
    limit: usize,
    process: Arc<ProcessMemory>,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl QueryPool {
    pub(crate) fn new(limit: usize, process: Arc<ProcessMemory>) -> Self {
        let limit = limit.min(process.limit);
        Self { fair: FairSpillPool::new(limit), limit, process, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Most bytes that the query held at a time.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn note(&self, additional: usize) {
        let used = self.used.fetch_add(additional, Ordering::Relaxed) + additional;
        self.peak.fetch_max(used, Ordering::Relaxed);
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.fair.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.fair.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.process.add(additional);
        self.fair.grow(reservation, additional);
        self.note(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.fair.shrink(reservation, shrink);
        self.process.sub(shrink);
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.process.try_add(additional)?;
        if self.fair.try_grow(reservation, additional).is_err() {
            self.process.sub(additional);
            let (limit, used) = (self.limit, self.used.load(Ordering::Relaxed));
            let operator = reservation.consumer().name();
            return Err(resources_datafusion_err!(
                "{operator} needs {additional} bytes more than its share of the query's memory, of which {used} bytes are used and query.query_memory_bytes_max = {limit} is the limit"
            ));
        }
        self.note(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query(limit_bytes: {})", self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_gives_back_to_the_process_what_it_is_refused_or_done_with() {
        let process = Arc::new(ProcessMemory::new(1_000));
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryPool::new(600, Arc::clone(&process)));
        let reservation = MemoryConsumer::new("sort").register(&pool);
        reservation.try_grow(500).unwrap();
        assert_eq!(process.used_bytes(), 500);
        let refusal = reservation.try_grow(200).unwrap_err().to_string();
        assert!(refusal.contains("query.query_memory_bytes_max = 600 is the limit"), "{refusal}");
        assert_eq!(process.used_bytes(), 500);
        drop(reservation);
        assert_eq!(process.used_bytes(), 0);
        assert_eq!((&*pool as &dyn std::any::Any).downcast_ref::<QueryPool>().unwrap().peak_bytes(), 500);
    }

    #[test]
    fn queries_together_stay_below_the_limit_of_the_process() {
        let process = Arc::new(ProcessMemory::new(1_000));
        let pool = |limit| Arc::new(QueryPool::new(limit, Arc::clone(&process))) as Arc<dyn MemoryPool>;
        let (one, two) = (pool(800), pool(800));
        let first = MemoryConsumer::new("sort").register(&one);
        let second = MemoryConsumer::new("sort").register(&two);
        first.try_grow(700).unwrap();
        let refusal = second.try_grow(400).unwrap_err().to_string();
        assert!(refusal.contains("query.memory_bytes_max = 1000"), "{refusal}");
        second.try_grow(300).unwrap();
    }
}
