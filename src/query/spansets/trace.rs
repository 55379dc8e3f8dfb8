//! One trace out of a batch: its distinct spans in order, and what the stages ask of them.

use std::{cell::OnceCell, cmp::Ordering, ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, RecordBatch},
        datatypes::Int64Type,
        row::{RowConverter, Rows, SortField},
    },
    common::{Result, exec_datafusion_err, exec_err},
};

use super::{
    program::{self, Place, Program, condition_column, input_column, own, parent_scopes, value_column},
    stages::{Owned, Trace},
    structure,
    texts::Texts,
    tree::{Identity, NONE, NestedSet, Tree},
};
use crate::{
    model::{
        ids::SpanId,
        schema::{KINDS, column},
    },
    query::traceql::{
        inputs::{Focus, InputRows},
        rows::{Found, Values},
    },
    traceql::{
        ast::{FieldName, Intrinsic},
        plan::Dynamic,
    },
};

/// Columns of a batch of whole traces.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    pub(super) batch: &'a RecordBatch,
    trace_ids: &'a FixedSizeBinaryArray,
    span_ids: &'a FixedSizeBinaryArray,
    kinds: Texts<'a>,
    /// The number of each kind, by place.
    kind_numbers: Vec<u8>,
    parents: Parents<'a>,
    pub(super) starts: &'a [i64],
    pub(super) durations: &'a [i64],
    pub(super) names: Texts<'a>,
    statuses: Texts<'a>,
    /// Whether a status is that of an error, by place.
    errors: Vec<bool>,
    pub(super) services: Option<Texts<'a>>,
    conditions: Vec<Option<&'a BooleanArray>>,
    values: Vec<Option<Values<'a>>>,
    late: InputRows<'a>,
    /// All columns as bytes that order rows, for copies of spans that differ.
    encoded: OnceCell<Option<Rows>>,
}

/// What is known of the parents of spans.
#[derive(Clone, Copy, Debug)]
enum Parents<'a> {
    Ids(&'a FixedSizeBinaryArray),
    /// Only which spans have none; nothing asks for more.
    Roots(&'a BooleanArray),
}

fn column_of<'a, T>(
    batch: &'a RecordBatch,
    name: &str,
    cast: impl Fn(&'a dyn Array) -> Option<&'a T>,
) -> Result<&'a T> {
    let column = batch.column_by_name(name).and_then(|column| cast(column.as_ref()));
    column.ok_or_else(|| exec_datafusion_err!("spans come without column {name}, or in another type"))
}

impl<'a> Columns<'a> {
    /// `inputs` are the columns that late fields are computed from; see [`late_inputs`].
    pub(super) fn try_new(program: &'a Program, batch: &'a RecordBatch, inputs: &'a [ArrayRef]) -> Result<Self> {
        let ids = |name| column_of(batch, name, |column| column.as_fixed_size_binary_opt());
        let texts = |name| match batch.column_by_name(name).and_then(|column| Texts::of(column.as_ref())) {
            Some(texts) => Ok(texts),
            None => exec_err!("spans come without column {name}, or in another type"),
        };
        let ints = |name| column_of(batch, name, |column| column.as_primitive_opt::<Int64Type>());
        let span_ids = ids(column::SPAN_ID)?;
        if span_ids.value_length() as usize != SpanId::LEN {
            return exec_err!("a span id has {} bytes", span_ids.value_length());
        }
        let conditions = program.conditions.iter().enumerate().map(|(index, condition)| {
            let decided = || column_of(batch, &condition_column(index), |column| column.as_boolean_opt());
            condition.early.as_ref().map(|_| decided()).transpose()
        });
        let values = program.late_values.iter().enumerate().map(|(index, late)| {
            let values = || {
                let values = column_of(batch, &value_column(index), |column| column.as_struct_opt())?;
                Values::try_new(values.columns())
            };
            (!late).then(values).transpose()
        });
        let parents = match batch.column_by_name(program::IS_ROOT) {
            Some(_) => Parents::Roots(column_of(batch, program::IS_ROOT, |column| column.as_boolean_opt())?),
            None => Parents::Ids(ids(column::PARENT_SPAN_ID)?),
        };
        let (kinds, statuses) = (texts(column::KIND)?, texts(column::STATUS_CODE)?);
        let kind_number = |kind: &str| KINDS.iter().position(|known| *known == kind).unwrap_or_default() as u8;
        Ok(Self {
            batch,
            trace_ids: ids(column::TRACE_ID)?,
            span_ids,
            kinds,
            kind_numbers: kinds.by_place(kind_number),
            parents,
            starts: ints(column::START_TIME)?.values(),
            durations: ints(column::DURATION)?.values(),
            names: texts(column::NAME)?,
            statuses,
            errors: statuses.by_place(|status| status == "error"),
            services: batch.column_by_name(program::SERVICE).and_then(|column| Texts::of(column.as_ref())),
            conditions: conditions.collect::<Result<_>>()?,
            values: values.collect::<Result<_>>()?,
            late: program.inputs.rows(inputs)?,
            encoded: OnceCell::new(),
        })
    }

    pub(super) fn trace_id(&self, row: usize) -> &'a [u8] {
        self.trace_ids.value(row)
    }

    pub(super) fn span_id(&self, row: usize) -> &'a [u8] {
        self.span_ids.value(row)
    }

    pub(super) fn is_error(&self, row: usize) -> bool {
        self.errors[self.statuses.place(row)]
    }

    pub(super) fn service(&self, row: usize) -> Option<&'a str> {
        self.services.filter(|services| !services.is_null(row)).map(|services| services.value(row))
    }

    fn is_root(&self, row: usize) -> bool {
        match self.parents {
            Parents::Ids(ids) => ids.is_null(row),
            Parents::Roots(roots) => roots.value(row),
        }
    }

    fn id_and_kind(&self, row: usize) -> (u64, u8) {
        (id_of(self.span_ids.value(row)), self.kind_numbers[self.kinds.place(row)])
    }

    fn identity(&self, row: usize) -> Identity {
        let (id, kind) = self.id_and_kind(row);
        let parent_id = match self.parents {
            Parents::Ids(ids) => ids.is_valid(row).then(|| id_of(ids.value(row))),
            Parents::Roots(_) => None,
        };
        Identity { id, kind, parent_id }
    }

    /// Whether the copy in row `a` counts before that in row `b`.
    fn precedes(&self, a: usize, b: usize) -> bool {
        let plain = |row: usize| {
            (self.starts[row], self.durations[row], self.names.value(row), self.statuses.value(row), self.service(row))
        };
        plain(a).cmp(&plain(b)).then_with(|| match self.encoded() {
            Some(rows) => rows.row(a).cmp(&rows.row(b)),
            None => a.cmp(&b),
        }) == Ordering::Less
    }

    /// Whether rows are spans of their own, in order, as a file mostly has those of a trace.
    fn are_spans_in_order(&self, rows: Range<usize>) -> bool {
        let is_before = |row: usize| match self.starts[row].cmp(&self.starts[row + 1]) {
            Ordering::Equal => self.id_and_kind(row) < self.id_and_kind(row + 1),
            order => order == Ordering::Less,
        };
        if !(rows.start..rows.end.saturating_sub(1)).all(is_before) {
            return false;
        }
        let mut ids: Vec<u64> = rows.map(|row| id_of(self.span_ids.value(row))).collect();
        ids.sort_unstable();
        ids.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// The rows of spans in order: by start, id and kind. Of copies of a span one is kept.
    fn spans_in_order(&self, rows: Range<usize>) -> Vec<u32> {
        let mut copies: Vec<(u64, u8, u32)> = rows
            .map(|row| {
                let (id, kind) = self.id_and_kind(row);
                (id, kind, row as u32)
            })
            .collect();
        copies.sort_unstable_by_key(|(id, kind, _)| (*id, *kind));
        let mut spans: Vec<(i64, u64, u8, u32)> = Vec::with_capacity(copies.len());
        for (id, kind, row) in copies {
            let span = (self.starts[row as usize], id, kind, row);
            match spans.last_mut() {
                Some(kept) if (kept.1, kept.2) == (id, kind) => {
                    if self.precedes(row as usize, kept.3 as usize) {
                        *kept = span;
                    }
                }
                _ => spans.push(span),
            }
        }
        spans.sort_unstable_by_key(|(start, id, kind, _)| (*start, *id, *kind));
        spans.into_iter().map(|(.., row)| row).collect()
    }

    fn encoded(&self) -> Option<&Rows> {
        self.encoded
            .get_or_init(|| {
                let supported =
                    |column: &&ArrayRef| RowConverter::supports_fields(&[SortField::new(column.data_type().clone())]);
                let columns: Vec<_> = self.batch.columns().iter().filter(supported).map(Arc::clone).collect();
                let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
                RowConverter::new(fields).ok()?.convert_columns(&columns).ok()
            })
            .as_ref()
    }
}

fn id_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// The columns of a batch that late fields are computed from.
pub(super) fn late_inputs(program: &Program, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    (0..program.inputs.args.len())
        .map(|index| {
            let column = batch.column_by_name(&input_column(index)).map(Arc::clone);
            column.ok_or_else(|| exec_datafusion_err!("spans come without column {}", input_column(index)))
        })
        .collect()
}

/// What holds for the whole trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    /// Row of the first root.
    pub(super) root: Option<usize>,
    /// First start.
    pub(super) start: i64,
    /// Last end.
    pub(super) end: i64,
}

impl Whole {
    pub(super) fn duration(self) -> i64 {
        self.end.saturating_sub(self.start)
    }
}

/// The distinct spans of one trace.
#[derive(Debug)]
pub(super) struct TraceSpans<'a> {
    columns: &'a Columns<'a>,
    program: &'a Program,
    /// The row of each span, in order.
    rows: Vec<u32>,
    tree: OnceCell<Tree>,
    child_counts: OnceCell<Vec<u32>>,
    nested_sets: OnceCell<Vec<NestedSet>>,
    times: OnceCell<Times>,
    whole: OnceCell<Whole>,
}

/// Nanoseconds by span.
#[derive(Debug)]
struct Times {
    own: Vec<i64>,
    critical: Vec<i64>,
}

impl<'a> TraceSpans<'a> {
    /// The spans in rows of one trace id; of copies of a span one is kept.
    pub(super) fn new(program: &'a Program, columns: &'a Columns<'a>, rows: Range<usize>) -> Self {
        Self {
            columns,
            program,
            rows: match columns.are_spans_in_order(rows.clone()) {
                true => rows.map(|row| row as u32).collect(),
                false => columns.spans_in_order(rows),
            },
            tree: OnceCell::new(),
            child_counts: OnceCell::new(),
            nested_sets: OnceCell::new(),
            times: OnceCell::new(),
            whole: OnceCell::new(),
        }
    }

    /// The row of a span.
    pub(super) fn row(&self, span: u32) -> usize {
        self.rows[span as usize] as usize
    }

    /// The rows of all spans, in order.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    pub(super) fn whole(&self) -> Whole {
        *self.whole.get_or_init(|| {
            let end = |row: usize| self.columns.starts[row].saturating_add(self.columns.durations[row].max(0));
            let rows = || self.rows.iter().map(|row| *row as usize);
            Whole {
                root: rows().find(|row| self.columns.is_root(*row)),
                start: rows().next().map_or(0, |row| self.columns.starts[row]),
                end: rows().map(end).max().unwrap_or_default(),
            }
        })
    }

    /// The numbers of the nested-set walk.
    pub(super) fn nested_set(&self, span: u32) -> NestedSet {
        let sets =
            self.nested_sets.get_or_init(|| self.tree().nested_sets(|span| self.columns.is_root(self.row(span))));
        sets[span as usize]
    }

    /// Where a span stands; shares come as floats.
    pub(super) fn place(&self, place: Place, span: u32) -> Option<Dynamic<'static>> {
        let set = || self.nested_set(span);
        let int = |value| Some(Dynamic::Int(value));
        match place {
            Place::NestedSetLeft => int(set().left),
            Place::NestedSetRight => int(set().right),
            Place::NestedSetParent => int(set().parent),
            Place::Depth => int(set().depth).filter(|_| set().left > 0),
            Place::SelfTime => int(self.times().own[span as usize]),
            Place::CriticalPathShare => {
                let share = self.times().critical[span as usize] as f64 / self.whole().duration() as f64;
                // A trace without duration has no path.
                Some(Dynamic::Float(if share.is_finite() { share } else { 0.0 }))
            }
        }
    }

    fn times(&self) -> &Times {
        self.times.get_or_init(|| {
            let interval = |row: &u32| {
                let (start, duration) = (self.columns.starts[*row as usize], self.columns.durations[*row as usize]);
                (start, start.saturating_add(duration.max(0)))
            };
            let intervals: Vec<structure::Interval> = self.rows.iter().map(interval).collect();
            let children = structure::children_of(&self.tree().parents);
            let spans = 0..self.rows.len() as u32;
            let roots: Vec<u32> = spans.filter(|span| self.columns.is_root(self.row(*span))).collect();
            Times {
                own: structure::self_times(&intervals, &children),
                critical: structure::critical_times(&intervals, &children, &roots),
            }
        })
    }

    /// The value of a field that the trace decides, and its JSON if it is nested.
    pub(super) fn late(&self, name: &FieldName, span: u32) -> (Dynamic<'a>, Option<&'a str>) {
        let value = match name {
            FieldName::Attribute(attribute) if attribute.of_parent => {
                let parent = self.tree().parents[span as usize];
                if parent == NONE {
                    return (Dynamic::Missing, None);
                }
                let focus = Focus { row: self.row(parent), event: None, link: None };
                let found = parent_scopes(attribute)
                    .iter()
                    .find_map(|scope| self.columns.late.find(&own(attribute, *scope), focus));
                return found.map_or((Dynamic::Missing, None), |found| {
                    let json = found.json();
                    (found.value(), json)
                });
            }
            FieldName::Intrinsic(intrinsic) => self.intrinsic(*intrinsic, span),
            FieldName::Attribute(_) => Dynamic::Missing,
        };
        (value, None)
    }

    fn intrinsic(&self, intrinsic: Intrinsic, span: u32) -> Dynamic<'a> {
        let root = || self.whole().root;
        match intrinsic {
            Intrinsic::RootName => root().map_or(Dynamic::Missing, |row| Dynamic::text(self.columns.names.value(row))),
            Intrinsic::RootServiceName => {
                root().and_then(|row| self.columns.service(row)).map_or(Dynamic::Missing, Dynamic::text)
            }
            Intrinsic::TraceDuration => Dynamic::Int(self.whole().duration()),
            Intrinsic::SpanChildCount => {
                let counts = self.child_counts.get_or_init(|| self.tree().child_counts());
                Dynamic::Int(i64::from(counts[span as usize]))
            }
            Intrinsic::NestedSetLeft => Dynamic::Int(self.nested_set(span).left),
            Intrinsic::NestedSetRight => Dynamic::Int(self.nested_set(span).right),
            Intrinsic::NestedSetParent => Dynamic::Int(self.nested_set(span).parent),
            _ => Dynamic::Missing,
        }
    }

    /// The value of a field as filters have it.
    fn in_filter(&self, name: &FieldName, span: u32, focus: Focus) -> Dynamic<'a> {
        match name.is_of_trace() {
            true => self.late(name, span).0,
            false => self.columns.late.get(name, focus),
        }
    }

    /// The value of a field as everything else has it.
    fn elsewhere(&self, name: &FieldName, span: u32) -> Option<Found<'a>> {
        self.columns.late.shown(name, self.row(span))
    }

    fn late_value(&self, index: usize, span: u32) -> Dynamic<'a> {
        let field = |name: &FieldName| match name.is_of_trace() {
            true => self.late(name, span).0,
            false => self.elsewhere(name, span).map_or(Dynamic::Missing, Found::value),
        };
        self.program.plan.values[index].of(&field, self.columns.is_root(self.row(span)))
    }
}

impl Trace for TraceSpans<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn tree(&self) -> &Tree {
        debug_assert!(
            matches!(self.columns.parents, Parents::Ids(_)),
            "the program says that nothing asks for parents"
        );
        self.tree.get_or_init(|| {
            let identities: Vec<Identity> = self.rows.iter().map(|row| self.columns.identity(*row as usize)).collect();
            Tree::new(&identities)
        })
    }

    fn holds(&self, condition: usize, span: u32) -> bool {
        let row = self.row(span);
        if self.columns.conditions[condition].is_some_and(|early| early.is_null(row) || !early.value(row)) {
            return false;
        }
        let Some(late) = &self.program.conditions[condition].late else { return true };
        let is_root = self.columns.is_root(row);
        self.columns.late.any(row, |focus| late.holds(&|name| self.in_filter(name, span, focus), is_root))
    }

    fn number(&self, value: usize, span: u32) -> Dynamic<'_> {
        match self.columns.values[value] {
            Some(values) => values.get(self.row(span)),
            None => self.late_value(value, span),
        }
    }

    fn owned(&self, value: usize, span: u32) -> Owned {
        use crate::traceql::plan::Value;
        if let Some(values) = self.columns.values[value] {
            let row = self.row(span);
            return match values.json(row) {
                Some(json) => Owned::Json(json.to_owned()),
                None => Owned::of(&values.get(row)),
            };
        }
        if let Value::Field(name) = &self.program.plan.values[value]
            && let (_, Some(json)) = self.late(name, span)
        {
            return Owned::Json(json.to_owned());
        }
        Owned::of(&self.late_value(value, span))
    }
}
