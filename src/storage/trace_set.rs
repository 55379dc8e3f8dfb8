//! The traces that a query looks at, and "the span belongs to one of them" as a predicate.
//!
//! A query that has found its traces reads all spans of them in a second scan. [`TraceSet::filter`] goes down to the files,
//! where ids are decoded first and the other columns only for rows that pass ([`crate::storage::scan`]). In a file the
//! spans of a trace lie together, so one look-up decides about all of them.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::Arc,
};

use arrow::{
    array::{Array, AsArray, BooleanArray, FixedSizeBinaryArray},
    datatypes::DataType,
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col},
};

use crate::model::{ids::TraceId, schema::column};

/// The name of the predicate in plans.
pub(crate) const IN_TRACES: &str = "in_traces";

/// A map from traces, by the number that their id is.
pub(crate) type ByTrace<T> = HashMap<u128, T, IdHashing>;

/// Hashes ids, which are random as a rule, with a secret of the process: nobody can choose ids that collide.
#[derive(Clone, Debug)]
pub(crate) struct IdHashing {
    secret: u64,
}

impl Default for IdHashing {
    fn default() -> Self {
        Self { secret: RandomState::new().hash_one(0_u8) | 1 }
    }
}

impl BuildHasher for IdHashing {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { secret: self.secret, state: 0 }
    }
}

/// The hasher of [`IdHashing`].
#[derive(Debug)]
pub(crate) struct IdHasher {
    secret: u64,
    state: u64,
}

impl IdHasher {
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word ^ self.secret) * u128::from(self.secret ^ 0x9e37_79b9_7f4a_7c15);
        self.state = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u128(&mut self, id: u128) {
        self.mix(id as u64);
        self.mix((id >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// The number that an id is; `None` for bytes of another length.
pub(crate) fn number_of(id: &[u8]) -> Option<u128> {
    <[u8; TraceId::LEN]>::try_from(id).ok().map(u128::from_be_bytes)
}

/// The rows of a column of ids in runs of one trace: its number, and the row behind the run.
pub(crate) fn runs(ids: &FixedSizeBinaryArray) -> impl Iterator<Item = (u128, usize)> {
    let mut row = 0;
    std::iter::from_fn(move || {
        if row == ids.len() {
            return None;
        }
        let id = ids.value(row);
        row += 1;
        while row < ids.len() && ids.value(row) == id {
            row += 1;
        }
        number_of(id).map(|number| (number, row))
    })
}

/// Some traces. Where their spans were counted, the numbers of spans are known, too.
#[derive(Clone, Default)]
pub(crate) struct TraceSet {
    spans: ByTrace<u32>,
    is_counted: bool,
}

impl fmt::Debug for TraceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceSet({} traces, counted: {})", self.spans.len(), self.is_counted)
    }
}

impl TraceSet {
    /// Traces of which the spans were not counted.
    pub(crate) fn of(ids: impl Iterator<Item = TraceId>) -> Self {
        let spans = ids.map(|id| (u128::from_be_bytes(*id.as_bytes()), 0)).collect();
        Self { spans, is_counted: false }
    }

    /// Traces with their numbers of spans.
    pub(crate) fn counted(spans: ByTrace<u32>) -> Self {
        Self { spans, is_counted: true }
    }

    /// How many traces there are.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the trace is in the set.
    pub(crate) fn holds(&self, number: u128) -> bool {
        self.spans.contains_key(&number)
    }

    /// The traces, by number.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u128> {
        self.spans.keys().copied()
    }

    /// How many spans a trace of the set has, where they were counted.
    pub(crate) fn spans_of(&self, number: u128) -> Option<u32> {
        self.spans.get(&number).copied()
    }

    /// Whether the numbers of spans are known.
    pub(crate) fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Spans of all traces, where they were counted.
    pub(crate) fn spans(&self) -> u64 {
        self.spans.values().map(|spans| u64::from(*spans)).sum()
    }

    /// Bytes of memory that an entry takes, about: key, value, and what a table leaves free.
    pub(crate) const ENTRY_BYTES: usize = 2 * size_of::<(u128, u32)>();

    /// The predicate that a span belongs to one of the traces.
    pub(crate) fn filter(self: &Arc<Self>) -> Expr {
        ScalarUDF::from(InTraces { set: Arc::clone(self), signature: signature() }).call(vec![col(column::TRACE_ID)])
    }
}

/// The traces that a condition made by [`TraceSet::filter`] is about.
pub(crate) fn set_of(filter: &Expr) -> Option<Arc<TraceSet>> {
    let Expr::ScalarFunction(call) = filter else { return None };
    Some(Arc::clone(&call.func.inner().downcast_ref::<InTraces>()?.set))
}

/// Adds the spans of a batch to the counts of traces; with `only`, of those alone.
pub(crate) fn count(ids: &FixedSizeBinaryArray, only: Option<&TraceSet>, counts: &mut ByTrace<u32>) {
    let mut start = 0;
    for (number, end) in runs(ids) {
        let spans = u32::try_from(end - start).unwrap_or(u32::MAX);
        start = end;
        match counts.entry(number) {
            Entry::Occupied(mut known) => *known.get_mut() = known.get().saturating_add(spans),
            Entry::Vacant(new) if only.is_none_or(|only| only.holds(number)) => {
                new.insert(spans);
            }
            Entry::Vacant(_) => {}
        }
    }
}

fn signature() -> Signature {
    Signature::exact(vec![DataType::FixedSizeBinary(TraceId::LEN as i32)], Volatility::Immutable)
}

/// `in_traces(trace_id)` for one set of traces.
#[derive(Debug)]
struct InTraces {
    set: Arc<TraceSet>,
    signature: Signature,
}

// Two sets are the same if they are one; to compare their traces would take longer than to look at both.
impl PartialEq for InTraces {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.set, &other.set)
    }
}

impl Eq for InTraces {}

impl Hash for InTraces {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.set).hash(state);
    }
}

impl ScalarUDFImpl for InTraces {
    fn name(&self) -> &'static str {
        IN_TRACES
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(ids)] => {
                let Some(ids) = ids.as_fixed_size_binary_opt() else {
                    return exec_err!("a trace id has the type {}", ids.data_type());
                };
                let mut passes = Vec::with_capacity(ids.len());
                for (number, end) in runs(ids) {
                    passes.resize(end, self.set.holds(number));
                }
                Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(passes))))
            }
            [ColumnarValue::Scalar(ScalarValue::FixedSizeBinary(_, Some(id)))] => {
                let passes = number_of(id).is_some_and(|number| self.set.holds(number));
                Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(passes))))
            }
            _ => exec_err!("{IN_TRACES} takes one trace id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u128]) -> FixedSizeBinaryArray {
        FixedSizeBinaryArray::try_from_iter(numbers.iter().map(|number| number.to_be_bytes())).unwrap()
    }

    #[test]
    fn rows_come_in_runs_and_are_counted_by_trace() {
        let column = ids(&[7, 7, 7, 9, 7, 8]);
        assert_eq!(runs(&column).collect::<Vec<_>>(), [(7, 3), (9, 4), (7, 5), (8, 6)]);
        let mut counts = ByTrace::default();
        count(&column, None, &mut counts);
        count(&column.slice(3, 2), None, &mut counts);
        assert_eq!([counts[&7], counts[&8], counts[&9]], [5, 1, 2]);
        let only = TraceSet::of([TraceId::from_bytes(9_u128.to_be_bytes())].into_iter());
        let mut counts = ByTrace::default();
        count(&column, Some(&only), &mut counts);
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(9, 1)]);
        assert_eq!(runs(&ids(&[7]).slice(0, 0)).count(), 0);
    }

    #[test]
    fn ids_that_differ_in_any_bit_hash_differently() {
        let hashing = IdHashing::default();
        let hashes: std::collections::HashSet<u64> = (0..128).map(|bit| hashing.hash_one(1_u128 << bit)).collect();
        assert_eq!(hashes.len(), 128);
    }
}
