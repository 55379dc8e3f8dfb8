//! The trace filters of files, read when a query asks for traces by id, and kept under a budget.
//!
//! With every file's filter in memory a look-up among thousands of files reads nothing but the few files that it needs. What
//! does not fit the budget is read again, the least recently used first. A filter that cannot be read rules nothing out.

use std::{ops::Range, sync::Arc};

use futures::{StreamExt as _, stream};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parking_lot::Mutex;
use tracing::debug;

use crate::{
    model::ids::TraceId,
    storage::{
        kept::{InMemory, Kept},
        trace_filter::TraceFilter,
    },
};

/// The key of a file's tag that says where its filter is: first byte and length, such as `73512+4096`.
pub const TRACES_TAG: &str = "tracehouse.traces";

/// How many filters are read at once.
const READS_MAX: usize = 32;

/// Largest filter that is read, in bytes: that of 35 million traces.
const FILTER_BYTES_MAX: u64 = 64 << 20;

/// The tag of a filter at these bytes of its file.
pub fn tag_of(bytes: &Range<u64>) -> String {
    format!("{}+{}", bytes.start, bytes.end - bytes.start)
}

/// Where a tag says that the filter is.
pub fn range_of(tag: &str) -> Option<Range<u64>> {
    let (start, len) = tag.split_once('+')?;
    let (start, len): (u64, u64) = (start.parse().ok()?, len.parse().ok()?);
    (len <= FILTER_BYTES_MAX).then_some(start..start.checked_add(len)?)
}

/// A file's filter in the store.
#[derive(Clone, Debug)]
pub struct FilterPlace {
    /// The file.
    pub file: Path,
    /// Where the filter is in it.
    pub bytes: Range<u64>,
}

/// Filters in memory.
#[derive(Debug)]
pub struct TraceFilters {
    bytes_max: usize,
    kept: Mutex<Kept<TraceFilter>>,
}

impl TraceFilters {
    /// No filters yet, and later at most this many bytes of them.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    /// For each filter whether its file can hold spans of one of the traces. A file without a filter can.
    pub async fn can_hold(
        &self,
        store: &Arc<dyn ObjectStore>,
        files: Vec<Option<FilterPlace>>,
        ids: &[TraceId],
    ) -> Vec<bool> {
        let mut answers = Vec::with_capacity(files.len());
        let mut unread = Vec::new();
        let holds = |filter: &TraceFilter| ids.iter().any(|id| filter.may_hold(*id));
        for place in files {
            let known = place.as_ref().and_then(|place| self.kept.lock().used(&place.file));
            if let (None, Some(place)) = (&known, place) {
                unread.push((answers.len(), place));
            }
            answers.push(known.is_none_or(|filter| holds(&filter)));
        }
        let reads = unread.into_iter().map(|(index, place)| async move { (index, self.get(store, &place).await) });
        let read: Vec<_> = stream::iter(reads).buffer_unordered(READS_MAX).collect().await;
        for (index, filter) in read {
            answers[index] = filter.is_none_or(|filter| holds(&filter));
        }
        answers
    }

    /// Memory that the filters hold, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.kept.lock().bytes()
    }

    async fn get(&self, store: &Arc<dyn ObjectStore>, place: &FilterPlace) -> Option<Arc<TraceFilter>> {
        if let Some(filter) = self.kept.lock().used(&place.file) {
            return Some(filter);
        }
        let bytes = match store.get_range(&place.file, place.bytes.clone()).await {
            Ok(bytes) => bytes,
            Err(error) => {
                debug!(file = %place.file, %error, "cannot read a trace filter");
                return None;
            }
        };
        // A copy, lest a larger buffer that the bytes are part of stays in memory.
        let filter = Arc::new(TraceFilter::from_bytes(bytes.to_vec().into())?);
        self.kept.lock().insert(&place.file, &filter, self.bytes_max);
        Some(filter)
    }
}

impl InMemory for TraceFilter {
    fn memory_bytes(&self) -> usize {
        self.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::storage::trace_filter::TraceFilterBuilder;

    fn id(n: u128) -> TraceId {
        TraceId::from_bytes(n.to_be_bytes())
    }

    #[tokio::test]
    async fn filters_are_read_once_while_they_fit_and_rule_out_files_without_the_trace() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut files = Vec::new();
        for file in 0..10 {
            let mut builder = TraceFilterBuilder::default();
            (0..1_000).for_each(|n| builder.add(id(1 + file * 1_000 + n).as_bytes()));
            let bytes = builder.finish().unwrap();
            let path = Path::from(format!("{file}"));
            files.push(Some(FilterPlace { file: path.clone(), bytes: 3..3 + bytes.len() as u64 }));
            store.put(&path, [b"PAR", bytes.as_slice()].concat().into()).await.unwrap();
        }
        let filters = TraceFilters::new(1 << 20);
        let held = filters.can_hold(&store, files.clone(), &[id(4_321)]).await;
        assert_eq!(held.iter().filter(|held| **held).count(), 1);
        assert!(held[4]);
        let all = filters.memory_bytes();
        for place in files.iter().flatten() {
            store.delete(&place.file).await.unwrap();
        }
        assert_eq!(filters.can_hold(&store, files.clone(), &[id(4_321)]).await, held, "nothing is read again");

        let small = TraceFilters::new(all / 3);
        assert_eq!(small.can_hold(&store, files.clone(), &[id(1)]).await, vec![true; 10], "nothing can be read");
    }

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        assert_eq!(range_of(&tag_of(&(73_512..77_608))), Some(73_512..77_608));
        for tag in ["", "1", "1+", "+1", "1+99999999999", "18446744073709551615+2", "-1+2"] {
            assert_eq!(range_of(tag), None, "{tag}");
        }
    }
}
