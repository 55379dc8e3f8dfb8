//! What the spans of a group in one interval come to.

use super::{compile::Function, sum::Sum};
use crate::traceql::ast::Reducer;

/// Stands for the place of a span that is in no file, or where no places are read.
const NO_PLACE: u128 = u128::MAX;

/// What is noted of a span, so that it can be shown later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// Its start in Unix nanoseconds.
    pub(crate) start: i64,
    place: u128,
    /// The bits of the number that the function takes of it, if it takes one.
    pub(crate) number: u64,
}

impl Seen {
    /// Before any span, the first one is later than all.
    pub(crate) const NO_FIRST: Self = Self { start: i64::MAX, place: NO_PLACE, number: u64::MAX };
    /// Before any span, the last one is earlier than all.
    pub(crate) const NO_LAST: Self = Self { start: i64::MIN, place: NO_PLACE, number: u64::MAX };

    /// A span that `place` leads to, if anything does.
    pub(crate) fn at(start: i64, place: Option<u128>, number: u64) -> Self {
        Self { start, place: place.unwrap_or(NO_PLACE), number }
    }

    /// What leads to the span: the trace that it is in, by the number that its id is, or the row of its file.
    pub(crate) fn place(&self) -> Option<u128> {
        (self.place != NO_PLACE).then_some(self.place)
    }

    /// Whether the span starts later, or is the least of those that start then.
    pub(crate) fn is_later_than(&self, last: &Self) -> bool {
        self.start > last.start || (self.start == last.start && self < last)
    }
}

/// What the spans of a group in one interval come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Position of the interval.
    pub(crate) interval: u32,
    /// The exponent of the power of two, or 0.
    pub(crate) bucket: u32,
    /// Spans.
    pub(crate) count: u64,
    /// What their numbers were reduced to; of an average, their sum.
    pub(crate) value: Sum,
    /// The spans that start first and last, the least of several.
    pub(crate) ends: [Seen; 2],
}

impl Cell {
    /// Adds what other spans of the same group, interval and power of two come to.
    pub(crate) fn merge(&mut self, function: &Function, other: &Self) {
        self.count += other.count;
        self.ends[0] = self.ends[0].min(other.ends[0]);
        if other.ends[1].is_later_than(&self.ends[1]) {
            self.ends[1] = other.ends[1];
        }
        if let Function::Reduce(reducer, _) = function {
            match reducer {
                Reducer::Min => self.value = self.value.value().min(other.value.value()).into(),
                Reducer::Max => self.value = self.value.value().max(other.value.value()).into(),
                Reducer::Avg | Reducer::Sum => self.value.merge(other.value),
            }
        }
    }
}
