//! `approx_percentile_cont` and `approx_median` of DataFusion, fed in larger pieces.
//!
//! Both keep a t-digest per group. Of each batch of the input DataFusion hands every group its rows, which for many groups
//! are a few, and merging a few values into a digest costs as much as merging a thousand. Here each group collects values
//! first:
//!
//! ```text
//!  batch:  (group 1, 5.0) (group 2, 7.0) (group 1, 6.0)
//!    group 1: | 5.0 6.0 ... |  -- full, or the answer is wanted -->  digest
//!    group 2: | 7.0 ...     |
//! ```
//!
//! Answers are as good as before, and not the same: digests depend on how values come in.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, new_empty_array},
    datatypes::{DataType, FieldRef, Float64Type, Schema},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    functions_aggregate::{approx_median::approx_median_udaf, approx_percentile_cont::approx_percentile_cont_udaf},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
    },
    physical_expr::{PhysicalExpr, PhysicalSortExpr},
};

/// Values that a group collects before they are merged.
const PENDING_VALUES_MAX: usize = 1_024;

/// The aggregates that take the place of those of the same name.
pub(super) fn aggregates() -> [Arc<AggregateUDF>; 2] {
    [approx_percentile_cont_udaf(), approx_median_udaf()].map(|inner| Arc::new(AggregateUDF::from(Collected { inner })))
}

/// An aggregate over doubles whose groups collect values.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Collected {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Collected {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        let is_double = args.expr_fields.first().is_some_and(|field| field.data_type() == &DataType::Float64);
        is_double && !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let digests = Digests {
            inner: Arc::clone(&self.inner),
            return_field: args.return_field,
            schema: args.schema.clone(),
            order_bys: args.order_bys.to_vec(),
            name: args.name.to_owned(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        };
        // What is wrong with the arguments is said now, and not by the first full group.
        digests.one()?;
        Ok(Box::new(Groups { digests, groups: Vec::new(), heap_bytes: 0 }))
    }
}

/// How the accumulator of a group is made.
struct Digests {
    inner: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    order_bys: Vec<PhysicalSortExpr>,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Digests {
    fn one(&self) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: false,
            order_bys: &self.order_bys,
            is_reversed: false,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// Values that wait, and the digest of those before them.
#[derive(Default)]
struct Group {
    pending: Vec<f64>,
    digest: Option<Box<dyn Accumulator>>,
}

impl Group {
    fn heap_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<f64>() + self.digest.as_ref().map_or(0, |digest| digest.size())
    }

    fn digest(&mut self, digests: &Digests) -> Result<&mut Box<dyn Accumulator>> {
        match &mut self.digest {
            Some(digest) => Ok(digest),
            none => Ok(none.insert(digests.one()?)),
        }
    }

    fn merge_pending(&mut self, digests: &Digests) -> Result<()> {
        let pending: ArrayRef = Arc::new(Float64Array::from_iter_values(self.pending.drain(..)));
        self.digest(digests)?.update_batch(&[pending])
    }

    fn finished(mut self, digests: &Digests) -> Result<Box<dyn Accumulator>> {
        if !self.pending.is_empty() {
            self.merge_pending(digests)?;
        }
        match self.digest {
            Some(digest) => Ok(digest),
            None => digests.one(),
        }
    }
}

struct Groups {
    digests: Digests,
    groups: Vec<Group>,
    heap_bytes: usize,
}

impl Groups {
    fn add(&mut self, group: usize, value: f64) -> Result<()> {
        let group = &mut self.groups[group];
        if group.pending.len() < group.pending.capacity().min(PENDING_VALUES_MAX) {
            group.pending.push(value);
            return Ok(());
        }
        // The rare case, in which memory is taken or given back.
        let before = group.heap_bytes();
        if group.pending.len() >= PENDING_VALUES_MAX {
            group.merge_pending(&self.digests)?;
        }
        group.pending.push(value);
        self.heap_bytes = (self.heap_bytes + group.heap_bytes()).saturating_sub(before);
        Ok(())
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<Vec<Box<dyn Accumulator>>> {
        let emitted = emit_to.take_needed(&mut self.groups);
        let freed: usize = emitted.iter().map(Group::heap_bytes).sum();
        self.heap_bytes = self.heap_bytes.saturating_sub(freed);
        emitted.into_iter().map(|group| group.finished(&self.digests)).collect()
    }

    fn states(&self, digests: impl Iterator<Item = Result<Box<dyn Accumulator>>>) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<Vec<ScalarValue>> = Vec::new();
        for digest in digests {
            let state = digest?.state()?;
            columns.resize_with(state.len(), Vec::new);
            columns.iter_mut().zip(state).for_each(|(column, value)| column.push(value));
        }
        if columns.is_empty() {
            let types = self.digests.one()?.state()?;
            return Ok(types.iter().map(|value| new_empty_array(&value.data_type())).collect());
        }
        columns.into_iter().map(ScalarValue::iter_to_array).collect()
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let Some(values) = values.first() else { return exec_err!("a percentile is taken of one argument") };
        self.groups.resize_with(groups, Group::default);
        let values = values.as_primitive::<Float64Type>();
        for (row, (value, group)) in values.iter().zip(group_indices).enumerate() {
            let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if let (Some(value), true) = (value, passes) {
                self.add(*group, value)?;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.groups.resize_with(groups, Group::default);
        for (row, group) in group_indices.iter().enumerate() {
            let group = &mut self.groups[*group];
            let before = group.heap_bytes();
            let state: Vec<ArrayRef> = states.iter().map(|state| state.slice(row, 1)).collect();
            group.digest(&self.digests)?.merge_batch(&state)?;
            self.heap_bytes = (self.heap_bytes + group.heap_bytes()).saturating_sub(before);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let digests = self.emit(emit_to)?;
        if digests.is_empty() {
            return Ok(new_empty_array(self.digests.return_field.data_type()));
        }
        let answers = digests.into_iter().map(|mut digest| digest.evaluate());
        ScalarValue::iter_to_array(answers.collect::<Result<Vec<_>>>()?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let digests = self.emit(emit_to)?;
        self.states(digests.into_iter().map(Ok))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(values) = values.first() else { return exec_err!("a percentile is taken of one argument") };
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        self.states((0..values.len()).map(|row| {
            let mut digest = self.digests.one()?;
            if passes(row) {
                digest.update_batch(&[values.slice(row, 1)])?;
            }
            Ok(digest)
        }))
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Group>() + self.heap_bytes
    }
}
