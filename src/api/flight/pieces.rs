//! Batches cut to the size of a message.

use datafusion::arrow::array::RecordBatch;

use crate::query::row_bytes;

/// Cuts a batch into pieces of at most `bytes_max` each, in order. A single row is never cut, however large it is.
///
/// The encoder cuts into pieces of as many rows each, by the mean size of a row; one large row among small ones would
/// then make a message that clients refuse.
pub(super) fn pieces(batch: RecordBatch, bytes_max: u64) -> Vec<RecordBatch> {
    let mut done = Vec::new();
    let mut rest = vec![batch];
    while let Some(batch) = rest.pop() {
        let (rows, bytes) = (batch.num_rows(), row_bytes(&batch));
        if rows <= 1 || bytes <= bytes_max {
            done.push(batch);
            continue;
        }
        let count = usize::try_from(bytes.div_ceil(bytes_max)).unwrap_or(rows).min(rows);
        let length = rows.div_ceil(count);
        let cuts = (0..rows).step_by(length).map(|start| batch.slice(start, length.min(rows - start)));
        // The last one on top is the first to be looked at.
        rest.extend(cuts.rev());
    }
    done
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::{
        array::{ArrayRef, AsArray, Int64Array, StringArray},
        datatypes::Int64Type,
    };

    use super::*;

    #[test]
    fn pieces_stay_below_the_limit_where_few_rows_are_most_of_a_batch() {
        let text = |row: i64| if row % 300 == 7 { "x".repeat(900) } else { "y".to_owned() };
        let texts: ArrayRef = Arc::new((0..1000).map(|row| Some(text(row))).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new((0..1000).collect::<Int64Array>());
        let batch = RecordBatch::try_from_iter([("t", texts), ("n", numbers)]).unwrap();
        let cut = pieces(batch.clone(), 1000);
        assert!(cut.iter().all(|piece| row_bytes(piece) <= 1000 || piece.num_rows() == 1));
        let rows = cut.iter().flat_map(|piece| piece["n"].as_primitive::<Int64Type>().values().iter().copied());
        assert!(rows.eq(0..1000));
        assert_eq!(pieces(batch.slice(0, 0), 1000).len(), 1);
        assert_eq!(pieces(batch, 1 << 20).len(), 1);
    }
}
