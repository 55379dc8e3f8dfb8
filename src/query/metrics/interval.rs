//! Into which intervals a time range is cut, and which interval a span is in.
//!
//! ```text
//!      start       t0        t1                 end
//!        |----------|---------|--- ... ---------|
//!         (start,t0] (t0,t1]
//! ```
//!
//! An interval has its right edge and not its left one, and its sample stands at its right edge. A span is in the
//! interval that its start is in. The edges of a range query are multiples of the step, so that a panel that moves on
//! keeps its samples: the asked start goes down and the asked end up to the next edge, and one interval more stands in
//! front, so that there is a sample at or before the asked start. An instant query is one interval, exactly as asked.

use crate::{
    error::{Error, Result},
    model::time::TimeRange,
    query::{limits::QueryLimits, request::MetricsQuery},
    traceql::literal::format_duration,
};

const SECOND: i64 = 1_000_000_000;
/// Length of a range that has no start.
const RANGE_DEFAULT: i64 = 3600 * SECOND;
/// Samples that a range has where the client names no step, about.
const AUTO_SAMPLES: i64 = 240;

/// Intervals of equal length, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// Left edge of the first one, in Unix nanoseconds; no span at it is in any.
    start: i64,
    /// Their length in nanoseconds.
    step: i64,
    /// How many there are, at least one.
    count: usize,
}

impl Intervals {
    /// The intervals of a query.
    ///
    /// # Errors
    /// A range or step that makes no sense, or more intervals than the limit.
    pub(crate) fn of(query: &MetricsQuery, now_unix_nano: i64, limits: &QueryLimits) -> Result<Self> {
        let asked_end = query.end_unix_nano.unwrap_or(now_unix_nano);
        let start = query.start_unix_nano.unwrap_or(asked_end.saturating_sub(RANGE_DEFAULT));
        // Edges beyond the range must not overflow.
        const LAST: i64 = i64::MAX / 2;
        if start < 0 || asked_end > LAST {
            return Err(Error::invalid(format!(
                "start and end have to be between 0 and {LAST} unix nanoseconds, not {start} and {asked_end}"
            )));
        }
        if asked_end <= start {
            return Err(Error::invalid("end must be greater than start"));
        }
        let cutoff = limits.metrics_end_cutoff_nano;
        let end = if cutoff > 0 { asked_end.min(now_unix_nano.saturating_sub(cutoff)) } else { asked_end };
        if end <= start {
            return Err(Error::invalid("query window falls entirely within query_end_cutoff"));
        }
        if query.instant {
            // Whole seconds, so that the numbers of two clients are those of one interval.
            let end = if end < asked_end { asked_end - (asked_end - end + SECOND - 1) / SECOND * SECOND } else { end };
            if end <= start {
                return Err(Error::invalid("query window falls entirely within query_end_cutoff"));
            }
            return Ok(Self { start, step: end - start, count: 1 });
        }
        let step = match query.step_nano {
            None | Some(0) => auto_step(end - start),
            Some(step) if step < 0 => return Err(Error::invalid("step must be greater than 0")),
            Some(step) => step,
        };
        let most = limits.metrics_intervals_max.max(1) as i64;
        if (end - start) / step > most {
            let least = format_duration((end - start + most - 1) / most);
            return Err(Error::invalid(format!(
                "step of {} is too small, minimum step for given range is {least} (query.metrics_intervals_max = {most})",
                format_duration(step)
            )));
        }
        if step > LAST / 2 {
            return Err(Error::invalid(format!("step of {} is too long", format_duration(step))));
        }
        let first_edge = start - start % step;
        // What the cut-off hides would be half an interval.
        let last_edge = if end < asked_end { end - end % step } else { (end + step - 1) / step * step };
        let count = (last_edge - first_edge) / step + 1;
        Ok(Self { start: first_edge - step, step, count: usize::try_from(count).unwrap_or(1) })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where the sample of an interval stands, in Unix nanoseconds.
    pub(crate) fn time(&self, index: usize) -> i64 {
        self.start + self.step * (index as i64 + 1)
    }

    /// The interval of a moment that is in one.
    pub(crate) fn index_of(&self, unix_nano: i64) -> usize {
        usize::try_from((unix_nano - self.start - 1) / self.step).unwrap_or_default().min(self.count - 1)
    }

    /// The first and the last moment in an interval, in Unix nanoseconds.
    pub(crate) fn bounds(&self, index: usize) -> (i64, i64) {
        (self.time(index) - self.step + 1, self.time(index))
    }

    /// The length of an interval in seconds.
    pub(crate) fn step_seconds(&self) -> f64 {
        self.step as f64 / SECOND as f64
    }

    /// Where the spans of all intervals start.
    pub(crate) fn range(&self) -> TimeRange {
        TimeRange::new(self.start + 1, self.time(self.count - 1) + 1)
    }
}

/// The step where none is asked for.
fn auto_step(range: i64) -> i64 {
    const MILLISECOND: i64 = 1_000_000;
    let down_to = |unit: i64| range / AUTO_SAMPLES / unit * unit;
    if range < 60 * SECOND {
        return down_to(50 * MILLISECOND).max(50 * MILLISECOND);
    }
    let units = [3600, 300, 60, 15, 5, 1].map(|seconds| seconds * SECOND);
    units.into_iter().map(down_to).find(|step| *step > 0).unwrap_or(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000 * SECOND;

    fn query(start: i64, end: i64, step: Option<i64>) -> MetricsQuery {
        MetricsQuery {
            start_unix_nano: Some(start),
            end_unix_nano: Some(end),
            step_nano: step,
            ..MetricsQuery::new("")
        }
    }

    fn seconds(start: i64, end: i64, step: Option<i64>) -> Result<Intervals> {
        let query = query(start * SECOND, end * SECOND, step.map(|step| step * SECOND));
        Intervals::of(&query, NOW, &QueryLimits::default())
    }

    fn times(intervals: Intervals) -> Vec<i64> {
        (0..intervals.count()).map(|index| intervals.time(index) / SECOND).collect()
    }

    #[test]
    fn edges_are_multiples_of_the_step_and_one_more_stands_in_front() {
        let asked = |step| times(seconds(1_795_239_049, 1_795_239_649, Some(step)).unwrap());
        assert_eq!(asked(300), [1_795_239_000, 1_795_239_300, 1_795_239_600, 1_795_239_900]);
        assert_eq!(asked(600), [1_795_239_000, 1_795_239_600, 1_795_240_200]);
        assert_eq!(times(seconds(600, 1200, Some(600)).unwrap()), [600, 1200]);
    }

    #[test]
    fn without_a_step_about_240_samples_come() {
        let automatic = seconds(1_795_239_049, 1_795_239_649, None).unwrap();
        assert_eq!(automatic.step, 2 * SECOND);
        assert_eq!(automatic.time(0), 1_795_239_048 * SECOND);
        for (range, step) in [
            (SECOND, SECOND / 20),
            (59 * SECOND, SECOND / 5),
            (60 * SECOND, SECOND),
            (3600 * SECOND, 15 * SECOND),
            (6 * 3600 * SECOND, 60 * SECOND),
            (24 * 3600 * SECOND, 300 * SECOND),
            (7 * 86_400 * SECOND, 40 * 60 * SECOND),
            (30 * 86_400 * SECOND, 3 * 3600 * SECOND),
        ] {
            assert_eq!(auto_step(range), step, "{range}");
        }
    }

    #[test]
    fn an_interval_has_its_right_edge_and_not_its_left_one() {
        let intervals = seconds(600, 1200, Some(300)).unwrap();
        assert_eq!(times(intervals), [600, 900, 1200]);
        let index = |nano: i64| intervals.index_of(nano);
        assert_eq!([index(600 * SECOND), index(600 * SECOND + 1), index(900 * SECOND)], [0, 1, 1]);
        assert_eq!(intervals.range(), TimeRange::new(300 * SECOND + 1, 1200 * SECOND + 1));
    }

    #[test]
    fn an_instant_is_one_interval_as_asked() {
        let instant = |start, end, cutoff_nano| {
            let limits = QueryLimits { metrics_end_cutoff_nano: cutoff_nano, ..QueryLimits::default() };
            Intervals::of(&MetricsQuery { instant: true, ..query(start, end, None) }, NOW, &limits)
        };
        let whole = instant(7, 19, 0).unwrap();
        assert_eq!((whole.count, whole.time(0), whole.range()), (1, 19, TimeRange::new(8, 20)));
        // 1.5 s inside of the cut-off are two whole seconds.
        let end = NOW - 30 * SECOND + 3 * SECOND / 2;
        assert_eq!(instant(NOW - 90 * SECOND, end, 30 * SECOND).unwrap().time(0), end - 2 * SECOND);
    }

    #[test]
    fn a_cut_off_hides_the_interval_that_it_cuts() {
        let limits = QueryLimits { metrics_end_cutoff_nano: 30 * SECOND, ..QueryLimits::default() };
        let asked = query(NOW - 600 * SECOND, NOW, Some(60 * SECOND));
        let last = |intervals: Intervals| intervals.time(intervals.count() - 1);
        assert_eq!(
            last(Intervals::of(&asked, NOW, &limits).unwrap()),
            (NOW - 30 * SECOND) / (60 * SECOND) * 60 * SECOND
        );
        let hidden = Intervals::of(&query(NOW - 20 * SECOND, NOW, None), NOW, &limits).unwrap_err();
        assert_eq!(hidden.message(), "query window falls entirely within query_end_cutoff");
    }

    #[test]
    fn ranges_and_steps_that_make_no_sense_are_refused() {
        let refused = |start, end, step| seconds(start, end, step).unwrap_err().message().to_owned();
        assert_eq!(refused(5, 5, None), "end must be greater than start");
        assert_eq!(refused(1, 2, Some(-1)), "step must be greater than 0");
        assert_eq!(
            refused(0, 100_000, Some(1)),
            "step of 1s is too small, minimum step for given range is 10s (query.metrics_intervals_max = 10000)"
        );
        assert!(refused(-1, 5, None).starts_with("start and end have to be between"));
        assert!(seconds(1, 2, Some(4_000_000_000)).is_err());
    }
}
