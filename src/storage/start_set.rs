//! "The span starts at one of these moments" as a predicate.
//!
//! A list of literals would do, but for its price: it is compared with the statistics of every page, moment by moment. The
//! predicate goes down to the files instead, where starts are decoded first and the other columns only for rows that pass
//! ([`crate::storage::scan`]).
//!
//! Where an earlier scan has told in which rows of files spans start then ([`row_in_file`]), these rows alone are read:
//!
//! ```text
//!  (start 17, row 3 of a) (start 40, row 9 of b)      a: 12..30   rows {3}
//!                                                     b: 15..50   rows {9}
//! ```
//!
//! A row says which file it is of by a mark that is made of the file's path:
//!
//! ```text
//!  63   62 .. 32   31 .. 0
//!   0   mark       row
//! ```
//!
//! Files whose marks are equal by chance are read in vain: the predicate decides.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use arrow::{
    array::{AsArray, BooleanArray, Int64Array},
    buffer::BooleanBuffer,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    functions::core::{expr_fn::file_row_index, file_row_index::FileRowIndexFunc},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col},
    physical_expr::{PhysicalExpr, ScalarFunctionExpr},
};
use object_store::path::Path;
use parquet::arrow::arrow_reader::RowSelection;

use crate::{model::schema::column, storage::scan::ScanFile};

/// The name of the predicate in plans.
pub(crate) const STARTS_AT: &str = "starts_at";

/// Marks by hash, so that most moments are ruled out by one look.
const MARKS: usize = 1 << 14;

/// Bits of the row in a number that also says which file it is of.
const ROW_BITS: u32 = 32;

/// Which row of which file a span is, as a number of which [`row_of`] tells the row; NULL for one that is in none. It can be asked
/// of a scan, and of nothing above one.
pub(crate) fn row_in_file() -> Expr {
    file_row_index()
}

/// Whether an expression is [`row_in_file`].
pub(crate) fn is_row_in_file(expr: &dyn PhysicalExpr) -> bool {
    ScalarFunctionExpr::try_downcast_func::<FileRowIndexFunc>(expr).is_some()
}

/// What rows of a file have in common, above their bits.
fn mark_of(path: &Path) -> i64 {
    let mut hasher = DefaultHasher::new();
    path.as_ref().hash(&mut hasher);
    ((hasher.finish() >> (ROW_BITS + 1)) << ROW_BITS).cast_signed()
}

/// Numbers of rows, counted from 0, with the mark of their file.
pub(crate) fn with_mark(rows: &Int64Array, path: &Path) -> Int64Array {
    let mark = mark_of(path);
    rows.unary(|row| mark | (row & i64::from(u32::MAX)))
}

/// The row that a number with a mark tells, of whichever file.
pub(crate) fn row_without_mark(marked: i64) -> i64 {
    marked & i64::from(u32::MAX)
}

/// The row that a number with a mark tells, if it can be one of this file.
pub(crate) fn row_of(marked: u64, path: &Path) -> Option<u32> {
    let row = marked & u64::from(u32::MAX);
    (marked - row == mark_of(path).cast_unsigned()).then_some(row as u32)
}

/// The predicate that a span starts at one of these moments, in Unix nanoseconds.
pub(crate) fn starts_at(moments: impl IntoIterator<Item = i64>) -> Expr {
    predicate(moments.into_iter().collect(), None)
}

/// The same of spans that are in these rows, with the start of each, or in no file.
pub(crate) fn starts_at_rows(moments: impl IntoIterator<Item = i64>, mut rows: Vec<(i64, u64)>) -> Expr {
    rows.sort_unstable();
    rows.dedup();
    predicate(moments.into_iter().collect(), Some(Arc::new(rows)))
}

fn predicate(mut moments: Vec<i64>, rows: Option<Arc<Vec<(i64, u64)>>>) -> Expr {
    moments.sort_unstable();
    moments.dedup();
    let mut marks = vec![false; MARKS];
    moments.iter().for_each(|moment| marks[mark(*moment)] = true);
    let signature = Signature::exact(vec![DataType::Int64], Volatility::Immutable);
    ScalarUDF::from(StartsAt { moments, marks, rows, signature }).call(vec![col(column::START_TIME)])
}

/// The rows that a predicate names, each with its start, in order of these.
pub(crate) fn rows_of(filter: &Expr) -> Option<Arc<Vec<(i64, u64)>>> {
    let Expr::ScalarFunction(call) = filter else { return None };
    call.func.inner().downcast_ref::<StartsAt>()?.rows.clone()
}

/// The rows that a file can have of these; `None` if it is not known how many it has, or when they start.
pub(crate) fn rows_in(rows: &[(i64, u64)], file: &ScanFile) -> Option<RowSelection> {
    let ((first, last), total) = (file.start_time_range?, file.rows?);
    let of_file = rows.iter().filter(|(start, _)| (first..=last).contains(start));
    let of_file = of_file.filter_map(|(_, row)| usize::try_from(row_of(*row, &file.path)?).ok());
    let mut of_file: Vec<usize> = of_file.filter(|row| *row < total).collect();
    of_file.sort_unstable();
    of_file.dedup();
    Some(RowSelection::from_consecutive_ranges(of_file.into_iter().map(|row| row..row + 1), total))
}

fn mark(moment: i64) -> usize {
    ((moment as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - MARKS.trailing_zeros())) as usize
}

#[derive(Debug)]
struct StartsAt {
    moments: Vec<i64>,
    marks: Vec<bool>,
    rows: Option<Arc<Vec<(i64, u64)>>>,
    signature: Signature,
}

impl StartsAt {
    fn holds(&self, start: i64) -> bool {
        self.marks[mark(start)] && self.moments.binary_search(&start).is_ok()
    }
}

impl PartialEq for StartsAt {
    fn eq(&self, other: &Self) -> bool {
        (&self.moments, &self.rows) == (&other.moments, &other.rows)
    }
}

impl Eq for StartsAt {}

impl Hash for StartsAt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.moments.hash(state);
        self.rows.hash(state);
    }
}

impl ScalarUDFImpl for StartsAt {
    fn name(&self) -> &'static str {
        STARTS_AT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(starts)] => {
                let Some(starts) = starts.as_primitive_opt::<Int64Type>() else {
                    return exec_err!("a start has the type {}", starts.data_type());
                };
                let values = starts.values();
                let passes = BooleanBuffer::collect_bool(values.len(), |row| self.holds(values[row]));
                Ok(ColumnarValue::Array(Arc::new(BooleanArray::new(passes, None))))
            }
            [ColumnarValue::Scalar(ScalarValue::Int64(Some(start)))] => {
                Ok(ColumnarValue::Scalar(ScalarValue::from(self.holds(*start))))
            }
            _ => exec_err!("{STARTS_AT} takes one start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_pass_and_no_others() {
        let moments = [i64::MIN, -1, 0, 7, 1_795_239_000_000_000_000, i64::MAX];
        let Expr::ScalarFunction(call) = starts_at(moments) else { panic!("no call") };
        let function = call.func.inner().downcast_ref::<StartsAt>().unwrap();
        assert!(moments.into_iter().all(|moment| function.holds(moment)));
        assert!((1..7).chain(8..100_000).all(|moment| !function.holds(moment)));
    }

    #[test]
    fn rows_are_read_in_their_files_if_these_reach_to_their_starts() {
        let marked =
            |path: &str, row: i64| with_mark(&Int64Array::from(vec![row]), &Path::from(path)).value(0).cast_unsigned();
        let (a, b) = (|row| marked("date=1/a.parquet", row), |row| marked("date=1/b.parquet", row));
        assert_eq!(
            [row_of(a(7), &"date=1/a.parquet".into()), row_of(a(7), &"date=1/b.parquet".into())],
            [Some(7), None]
        );
        let filter = starts_at_rows([17, 40, 60], vec![(40, a(9)), (17, a(3)), (40, a(9)), (60, a(2)), (17, b(4))]);
        let rows = rows_of(&filter).unwrap();
        assert_eq!(rows_of(&starts_at([17])), None);
        let file = |start_time_range, rows| ScanFile {
            path: "date=1/a.parquet".into(),
            size_bytes: 1,
            date: 0,
            rows,
            start_time_range,
            selected: None,
            runs: None,
        };
        let selected = |range, count| {
            let selection = rows_in(&rows, &file(Some(range), Some(count))).unwrap();
            let mut row = 0;
            let mut selected = Vec::new();
            for selector in selection.iter() {
                selected.extend((row..row + selector.row_count).filter(|_| !selector.skip));
                row += selector.row_count;
            }
            assert_eq!(row, count);
            selected
        };
        assert_eq!(selected((12, 30), 10), [3]);
        assert_eq!(selected((15, 50), 10), [3, 9]);
        assert_eq!(selected((15, 50), 9), [3], "a file of fewer rows");
        assert_eq!(selected((41, 50), 9), [0; 0]);
        assert!(
            rows_in(&rows, &file(None, Some(10))).is_none() && rows_in(&rows, &file(Some((0, 90)), None)).is_none()
        );
    }
}
