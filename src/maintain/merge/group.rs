//! The rows of one row group of a merge: read from every input, put in order, rid of exact duplicates.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt32Array, new_null_array},
    compute::interleave,
    datatypes::{Field, Int64Type, Schema, SchemaRef},
    error::ArrowError,
};

use super::{input::Input, input::is_same_type, runs::Run};
use crate::{
    error::{Error, ErrorKind, Result},
    model::{
        batch::{SpanBatch, table_schema},
        promotion::{Promotion, promoted_attribute},
        schema::{CORE_COLUMNS, Table, column},
    },
};

/// Different spans with one id and start that each further one is compared with. More of them are broken or hostile, and
/// are kept as they are.
const COMPARED_MAX: usize = 16;

/// The rows of a group, ready to be written.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) batch: SpanBatch,
    pub(super) duplicates: u64,
}

/// The columns of a merged file: the core columns, then the promoted ones of all inputs, by name.
///
/// # Errors
/// Inputs that disagree about the type of a column, or lack a core column.
pub(super) fn merged_schema(inputs: &[Input]) -> Result<SchemaRef> {
    let mut promoted: Vec<Arc<Field>> = Vec::new();
    for input in inputs {
        let path = &input.file().path;
        for core in CORE_COLUMNS.iter() {
            let found = input.schema().field_with_name(core.field.name()).ok();
            if !found.is_some_and(|field| is_same_type(field.data_type(), core.field.data_type())) {
                return Err(unusual(path, core.field.name()));
            }
        }
        let is_core = |field: &Field| CORE_COLUMNS.iter().any(|core| core.field.name() == field.name());
        for field in input.schema().fields().iter().filter(|field| !is_core(field)) {
            match promoted.iter().find(|known| known.name() == field.name()) {
                _ if promoted_attribute(field).is_none() => return Err(unusual(path, field.name())),
                None => promoted.push(Arc::new(Field::new(field.name(), field.data_type().clone(), true))),
                Some(known) if known.data_type() == field.data_type() => {}
                Some(_) => return Err(unusual(path, field.name())),
            }
        }
    }
    promoted.sort_by(|a, b| a.name().cmp(b.name()));
    let core = CORE_COLUMNS.iter().map(|core| Arc::clone(&core.field));
    Ok(Arc::new(Schema::new(core.chain(promoted).collect::<Vec<_>>())))
}

fn unusual(path: &str, column: &str) -> Error {
    let message =
        format!("file {path} was not written by tracehouse: its column {column} is missing or has another type");
    Error::new(ErrorKind::Corrupt, message)
}

/// Reads the rows of `runs`, which are in the order of the output, and gives the attributes of `promotion` columns.
pub(super) async fn read(inputs: &[Input], schema: &SchemaRef, promotion: &Promotion, runs: &[Run]) -> Result<Group> {
    let mut parts: Vec<Option<Part>> = Vec::with_capacity(inputs.len());
    for (file, input) in inputs.iter().enumerate() {
        let mut ranges: Vec<Range<usize>> =
            runs.iter().filter(|run| run.file as usize == file).map(Run::row_range).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        parts.push(match ranges.is_empty() {
            true => None,
            false => Some(Part { rows: input.read(&ranges).await?, ranges: Ranges::new(&ranges) }),
        });
    }
    assemble(&parts, schema, promotion, runs)
        .map_err(|cause| Error::new(ErrorKind::Internal, "cannot put the rows of a merge together").with_source(cause))
}

/// What was read of one file.
struct Part {
    rows: RecordBatch,
    ranges: Ranges,
}

/// Which rows of a file were read, and where they are among those that were.
struct Ranges {
    /// First row in the file, and first place.
    starts: Vec<(usize, usize)>,
}

impl Ranges {
    fn new(ranges: &[Range<usize>]) -> Self {
        let mut place = 0;
        let start = |range: &Range<usize>| {
            let start = (range.start, place);
            place += range.len();
            start
        };
        Self { starts: ranges.iter().map(start).collect() }
    }

    fn place(&self, row: usize) -> usize {
        let at = self.starts.partition_point(|(first, _)| *first <= row).saturating_sub(1);
        self.starts.get(at).map_or(0, |(first, place)| place + (row - first))
    }
}

/// A row that was read: the index of its part among those with rows, and its place there.
type Source = (usize, usize);

fn assemble(
    parts: &[Option<Part>],
    schema: &SchemaRef,
    promotion: &Promotion,
    runs: &[Run],
) -> Result<Group, ArrowError> {
    let mut dense = vec![0; parts.len()];
    let mut present: Vec<&Part> = Vec::new();
    for (file, part) in parts.iter().enumerate() {
        if let Some(part) = part {
            dense[file] = present.len();
            present.push(part);
        }
    }
    let keys: Vec<SortKeys<'_>> = present.iter().map(|part| SortKeys::new(&part.rows)).collect();
    let mut sources: Vec<Source> = Vec::with_capacity(runs.iter().map(|run| run.rows as usize).sum());
    for trace in runs.chunk_by(|a, b| a.trace == b.trace) {
        let first = sources.len();
        for run in trace {
            let Some(part) = &parts[run.file as usize] else { continue };
            let place = part.ranges.place(run.first_row as usize);
            sources.extend((place..place + run.rows as usize).map(|place| (dense[run.file as usize], place)));
        }
        sources[first..].sort_by_key(|(part, place)| keys[*part].key(*place));
    }
    let batch = span_batch(schema, &columns(&present, schema, &sources)?)?.promoted_as(promotion)?;
    without_duplicates(batch)
}

/// Drops rows that are equal to an earlier one. Equal spans look alike here, whatever their files had columns for.
fn without_duplicates(batch: SpanBatch) -> Result<Group, ArrowError> {
    let schema = batch.flat_schema();
    let rows = batch.flatten(&schema)?;
    let gone = duplicates(rows.columns(), &schema);
    if gone.is_empty() {
        return Ok(Group { batch, duplicates: 0 });
    }
    let mut next = gone.iter().peekable();
    let kept: UInt32Array =
        (0..rows.num_rows()).filter(|row| next.next_if(|gone| *gone == row).is_none()).map(|row| row as u32).collect();
    let columns: Vec<ArrayRef> =
        rows.columns().iter().map(|values| arrow::compute::take(values, &kept, None)).collect::<Result<_, _>>()?;
    Ok(Group { batch: span_batch(&schema, &columns)?, duplicates: gone.len() as u64 })
}

/// The columns by which the spans of a trace are sorted.
struct SortKeys<'a> {
    starts: &'a [i64],
    ids: &'a FixedSizeBinaryArray,
}

impl<'a> SortKeys<'a> {
    fn new(rows: &'a RecordBatch) -> Self {
        Self {
            starts: rows[column::START_TIME].as_primitive::<Int64Type>().values(),
            ids: rows[column::SPAN_ID].as_fixed_size_binary(),
        }
    }

    fn key(&self, row: usize) -> (i64, &'a [u8]) {
        (self.starts[row], self.ids.value(row))
    }
}

fn columns(parts: &[&Part], schema: &SchemaRef, sources: &[Source]) -> Result<Vec<ArrayRef>, ArrowError> {
    let gather = |field: &Arc<Field>| {
        let values: Vec<ArrayRef> = parts
            .iter()
            .map(|part| match part.rows.column_by_name(field.name()) {
                // Readers name the fields inside lists and maps as the file does.
                Some(values) if values.data_type() == field.data_type() => Ok(Arc::clone(values)),
                Some(values) => arrow::compute::cast(values, field.data_type()),
                None => Ok(new_null_array(field.data_type(), part.rows.num_rows())),
            })
            .collect::<Result<_, _>>()?;
        interleave(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>(), sources)
    };
    schema.fields().iter().map(gather).collect()
}

/// The rows that are equal to an earlier one in every column. Rows with the same ids and start lie behind each other.
fn duplicates(columns: &[ArrayRef], schema: &SchemaRef) -> Vec<usize> {
    let column = |name: &str| schema.index_of(name).ok().map(|index| &columns[index]);
    let (Some(traces), Some(ids), Some(starts)) =
        (column(column::TRACE_ID), column(column::SPAN_ID), column(column::START_TIME))
    else {
        return Vec::new();
    };
    let (traces, ids) = (traces.as_fixed_size_binary(), ids.as_fixed_size_binary());
    let starts = starts.as_primitive::<Int64Type>().values();
    let same_key = |a: usize, b: usize| {
        starts[a] == starts[b] && ids.value(a) == ids.value(b) && traces.value(a) == traces.value(b)
    };
    let equal = |a: usize, b: usize| columns.iter().all(|values| values.slice(a, 1) == values.slice(b, 1));
    let mut gone = Vec::new();
    let mut kept: Vec<usize> = Vec::new();
    for row in 1..starts.len() {
        if !same_key(row - 1, row) {
            kept.clear();
            continue;
        }
        if kept.is_empty() {
            kept.push(row - 1);
        }
        if kept.iter().any(|earlier| equal(*earlier, row)) {
            gone.push(row);
        } else if kept.len() < COMPARED_MAX {
            kept.push(row);
        }
    }
    gone
}

/// The three tables of a batch, with a resource and a scope for each span.
fn span_batch(schema: &SchemaRef, columns: &[ArrayRef]) -> Result<SpanBatch, ArrowError> {
    let rows = columns.first().map_or(0, |values| values.len());
    let index: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows as u32));
    let table = |table: Table| {
        let promoted: Vec<Arc<Field>> = schema
            .fields()
            .iter()
            .skip(CORE_COLUMNS.len())
            .filter(|field| {
                promoted_attribute(field).is_some_and(|attribute| Table::of_scope(attribute.scope) == Some(table))
            })
            .map(Arc::clone)
            .collect();
        let schema_of_table = table_schema(table, &promoted);
        let columns = schema_of_table
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                column::RESOURCE_INDEX | column::SCOPE_INDEX => Ok(Arc::clone(&index)),
                name => Ok(Arc::clone(&columns[schema.index_of(name)?])),
            })
            .collect::<Result<Vec<_>, ArrowError>>()?;
        RecordBatch::try_new(schema_of_table, columns)
    };
    SpanBatch::try_new(table(Table::Resources)?, table(Table::Scopes)?, table(Table::Spans)?)
        .map_err(|cause| ArrowError::ExternalError(Box::new(cause)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_they_were_put() {
        let ranges = Ranges::new(&[3..5, 7..8, 10..14]);
        let places: Vec<usize> = [3, 4, 7, 10, 13].into_iter().map(|row| ranges.place(row)).collect();
        assert_eq!(places, [0, 1, 2, 3, 6]);
    }
}
