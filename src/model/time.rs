//! Time ranges over span starts.

/// A half-open range `[start, end)` of Unix nanoseconds, over the start times of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First instant inside.
    pub start_unix_nano: i64,
    /// First instant outside.
    pub end_unix_nano: i64,
}

impl TimeRange {
    /// All of time.
    pub const ALL: Self = Self { start_unix_nano: i64::MIN, end_unix_nano: i64::MAX };

    /// The range `[start, end)`.
    pub fn new(start_unix_nano: i64, end_unix_nano: i64) -> Self {
        Self { start_unix_nano, end_unix_nano }
    }

    /// The same range, `by_nano` wider on both sides, within the bounds of the type.
    pub fn widened(self, by_nano: i64) -> Self {
        Self {
            start_unix_nano: self.start_unix_nano.saturating_sub(by_nano),
            end_unix_nano: self.end_unix_nano.saturating_add(by_nano),
        }
    }

    /// Whether an instant lies inside.
    pub fn contains(&self, unix_nano: i64) -> bool {
        self.start_unix_nano <= unix_nano && unix_nano < self.end_unix_nano
    }

    /// Whether all instants of the closed interval `[first, last]` lie inside. A range without an end has the last one, too.
    pub fn holds(&self, (first, last): (i64, i64)) -> bool {
        self.start_unix_nano <= first && (last < self.end_unix_nano || self.end_unix_nano == i64::MAX)
    }

    /// Whether any instant of the closed interval `[min, max]` lies inside.
    pub fn overlaps(&self, min_unix_nano: i64, max_unix_nano: i64) -> bool {
        min_unix_nano < self.end_unix_nano && max_unix_nano >= self.start_unix_nano
    }
}
