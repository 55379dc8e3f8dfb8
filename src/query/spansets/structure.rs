//! A span's place in its trace, beyond what TraceQL has names for: depth, self time, and the critical path.
//!
//! *Self time* is the part of a span's duration in which none of its children runs. The *critical path* is what the trace's
//! end waited for: from the end of a root backwards, the child that ended last, and from its start the child that ended
//! last before that, and so on down the tree; a span's share is the time on that path which is its own, divided by the
//! duration of the trace. Children are clipped to their parents, so shares of one root add up to its part of the trace.
//! Spans that no root reaches are on no path.

use super::tree::NONE;

/// Start and end of a span in nanoseconds; the end is not before the start.
pub(super) type Interval = (i64, i64);

/// The children of each span, in order.
pub(super) fn children_of(parents: &[u32]) -> Vec<Vec<u32>> {
    let mut children = vec![Vec::new(); parents.len()];
    for (span, parent) in parents.iter().enumerate().filter(|(_, parent)| **parent != NONE) {
        children[*parent as usize].push(span as u32);
    }
    children
}

/// Nanoseconds of each span in which none of its children runs.
pub(super) fn self_times(intervals: &[Interval], children: &[Vec<u32>]) -> Vec<i64> {
    let own = |(span, (start, end)): (usize, &Interval)| {
        let clipped = |child: &u32| {
            let (from, to) = intervals[*child as usize];
            (from.clamp(*start, *end), to.clamp(*start, *end))
        };
        let mut busy: Vec<Interval> = children[span].iter().map(clipped).collect();
        busy.sort_unstable();
        let (mut covered, mut until) = (0, *start);
        for (from, to) in busy {
            covered += (to - from.max(until)).max(0);
            until = until.max(to);
        }
        (end - start) - covered
    };
    intervals.iter().enumerate().map(own).collect()
}

/// Nanoseconds of each span on the critical path of its root.
pub(super) fn critical_times(intervals: &[Interval], children: &[Vec<u32>], roots: &[u32]) -> Vec<i64> {
    let mut times = vec![0; intervals.len()];
    // A span, and the moment until which it is looked at.
    let mut open: Vec<(u32, i64, i64)> = Vec::new();
    for root in roots {
        let (start, end) = intervals[*root as usize];
        open.push((*root, start, end));
        while let Some((span, from, until)) = open.pop() {
            let mut latest: Vec<u32> = children[span as usize].clone();
            latest.sort_unstable_by_key(|child| std::cmp::Reverse((intervals[*child as usize].1, *child)));
            let mut now = until;
            for child in latest {
                let (start, end) = intervals[child as usize];
                let (start, end) = (start.clamp(from, until), end.clamp(from, until));
                // What ended while a later child ran held nothing up.
                if end > now || start >= end {
                    continue;
                }
                times[span as usize] += now - end;
                open.push((child, start, end));
                now = start;
            }
            times[span as usize] += now - from;
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_time_leaves_out_what_children_cover_once() {
        let children = children_of(&[NONE, 0, 0, 0]);
        let intervals = [(0, 100), (10, 40), (30, 50), (90, 150)];
        assert_eq!(self_times(&intervals, &children), [50, 30, 20, 60]);
    }

    #[test]
    fn the_critical_path_goes_back_over_the_children_that_ended_last() {
        // 1 and 2 run side by side, 2 ends later; 3 is below 2.
        let children = children_of(&[NONE, 0, 0, 2]);
        let intervals = [(0, 100), (10, 60), (20, 80), (30, 70)];
        let times = critical_times(&intervals, &children, &[0]);
        assert_eq!(times, [40, 0, 20, 40]);
        assert_eq!(times.iter().sum::<i64>(), 100);
    }
}
