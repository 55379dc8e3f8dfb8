//! Which spans of a trace stay: those that match, and the generations above and below them that were asked for.

use std::collections::HashMap;

use datafusion::arrow::{
    array::{Array, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch},
    compute::filter_record_batch,
    error::ArrowError,
};

use crate::{
    model::schema::column,
    query::request::{Generations, TraceFilter},
};

/// The rows that stay of a whole trace, without the column `matches`, which tells what the filter says of each.
pub(super) fn of(batches: &[RecordBatch], matches: &str, filter: &TraceFilter) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut spans = Vec::new();
    let mut matching = Vec::new();
    for batch in batches {
        let ids = batch[column::SPAN_ID].as_fixed_size_binary();
        let parents = batch[column::PARENT_SPAN_ID].as_fixed_size_binary();
        let flags = batch[matches].as_boolean();
        for row in 0..batch.num_rows() {
            if flags.value(row) {
                matching.push(spans.len());
            }
            spans.push(Span { id: id(ids, row), parent: parents.is_valid(row).then(|| id(parents, row)) });
        }
    }
    let keep = kept(&spans, &matching, filter.ancestors, filter.descendants);
    let mut rest = keep.as_slice();
    let mut part = Vec::with_capacity(batches.len());
    for batch in batches {
        let (here, after) = rest.split_at(batch.num_rows());
        rest = after;
        let mut batch = filter_record_batch(batch, &BooleanArray::from(here.to_vec()))?;
        let index = batch.schema().index_of(matches)?;
        batch.remove_column(index);
        part.push(batch);
    }
    Ok(part)
}

/// A span by its place in the tree.
#[derive(Clone, Copy, Debug)]
struct Span {
    id: u64,
    parent: Option<u64>,
}

fn id(ids: &FixedSizeBinaryArray, row: usize) -> u64 {
    ids.value(row).iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// For each span whether it stays. Broken trees are walked like others: a circle of parents ends where it began.
fn kept(spans: &[Span], matching: &[usize], ancestors: Generations, descendants: Generations) -> Vec<bool> {
    let mut by_id: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut by_parent: HashMap<u64, Vec<usize>> = HashMap::new();
    for (index, span) in spans.iter().enumerate() {
        by_id.entry(span.id).or_default().push(index);
        if let Some(parent) = span.parent {
            by_parent.entry(parent).or_default().push(index);
        }
    }
    let none = Vec::new();
    let above = |index: usize| spans[index].parent.and_then(|parent| by_id.get(&parent)).unwrap_or(&none).as_slice();
    let below = |index: usize| by_parent.get(&spans[index].id).unwrap_or(&none).as_slice();
    let up = reached(spans.len(), matching, ancestors, above);
    let down = reached(spans.len(), matching, descendants, below);
    up.into_iter().zip(down).map(|(up, down)| up || down).collect()
}

/// What can be reached from `start` in so many steps. All of it is walked level by level, so that each span is seen once,
/// with the fewest steps.
fn reached<'a>(count: usize, start: &[usize], steps: Generations, next: impl Fn(usize) -> &'a [usize]) -> Vec<bool> {
    let mut seen = vec![false; count];
    for index in start {
        seen[*index] = true;
    }
    let mut level = start.to_vec();
    let mut walked = 0;
    while !level.is_empty() && (steps == Generations::All || matches!(steps, Generations::UpTo(most) if walked < most))
    {
        walked += 1;
        let mut following = Vec::new();
        for index in level.into_iter().flat_map(&next) {
            if !std::mem::replace(&mut seen[*index], true) {
                following.push(*index);
            }
        }
        level = following;
    }
    seen
}

#[cfg(test)]
mod tests {
    use Generations::{All, UpTo};

    use super::*;

    /// 1 -> 2 -> 3 -> 4 -> 5, 2 -> 6; 8 and 9 are each other's parents.
    const TREE: [(u64, u64); 8] = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 2), (8, 9), (9, 8)];

    fn part(matching: &[u64], ancestors: Generations, descendants: Generations) -> Vec<u64> {
        let spans = TREE.map(|(id, parent)| Span { id, parent: (parent > 0).then_some(parent) });
        let matching: Vec<usize> = (0..spans.len()).filter(|index| matching.contains(&spans[*index].id)).collect();
        let keep = kept(&spans, &matching, ancestors, descendants);
        spans.iter().zip(keep).filter(|(_, keep)| *keep).map(|(span, _)| span.id).collect()
    }

    #[test]
    fn generations_are_counted_from_each_match() {
        assert_eq!(part(&[3], UpTo(0), UpTo(0)), [3]);
        assert_eq!(part(&[3], UpTo(1), UpTo(0)), [2, 3]);
        assert_eq!(part(&[3], All, UpTo(1)), [1, 2, 3, 4]);
        assert_eq!(part(&[4, 6], All, UpTo(0)), [1, 2, 3, 4, 6]);
        assert_eq!(part(&[1], UpTo(0), All), [1, 2, 3, 4, 5, 6]);
        assert_eq!(part(&[], All, All), [0; 0]);
    }

    #[test]
    fn a_circle_of_parents_ends() {
        assert_eq!(part(&[8], All, All), [8, 9]);
    }
}
