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
//! How many it collects depends on how many groups there are, so that all of them together take a bounded part of the memory
//! of a query: a thousand where there are a few hundred, [`PENDING_VALUES_MIN`] where there are many. A digest that comes from
//! another thread and holds each of its values by itself is taken apart, so that groups with few values never have one.
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

/// Most values that a group collects before they are merged.
const PENDING_VALUES_MAX: usize = 1_024;

/// Values that a group collects however many groups there are.
const PENDING_VALUES_MIN: usize = 64;

/// Values that all groups of a thread collect, where there are not too many for [`PENDING_VALUES_MIN`].
const ALL_PENDING_VALUES_MAX: usize = 512 * PENDING_VALUES_MAX;

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
        Ok(Box::new(Groups::new(digests)))
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

/// The values that a digest was made of, if it still has each of them.
///
/// The state of a digest is its size, sum, count, greatest and least value, and a list of means and weights by turns.
fn single_values(states: &[ArrayRef], row: usize) -> Option<Vec<f64>> {
    let [_, _, count, _, _, centroids] = states else { return None };
    let count = count.as_primitive_opt::<Float64Type>()?.value(row);
    let centroids = centroids.as_list_opt::<i32>()?.value(row);
    let centroids = centroids.as_primitive_opt::<Float64Type>()?.values();
    let (pairs, []) = centroids.as_chunks::<2>() else { return None };
    let is_single = pairs.len() <= PENDING_VALUES_MIN
        && count == pairs.len() as f64
        && pairs.iter().all(|[mean, weight]| *weight == 1.0 && !mean.is_nan());
    is_single.then(|| pairs.iter().map(|[mean, _]| *mean).collect())
}

struct Groups {
    digests: Digests,
    groups: Vec<Group>,
    /// Values that a group collects, for as many groups as there are.
    pending_max: usize,
    heap_bytes: usize,
}

impl Groups {
    fn new(digests: Digests) -> Self {
        Self { digests, groups: Vec::new(), pending_max: PENDING_VALUES_MAX, heap_bytes: 0 }
    }

    fn resize(&mut self, groups: usize) {
        self.groups.resize_with(groups, Group::default);
        self.pending_max = (ALL_PENDING_VALUES_MAX / groups.max(1)).clamp(PENDING_VALUES_MIN, PENDING_VALUES_MAX);
    }

    fn add(&mut self, group: usize, value: f64) -> Result<()> {
        let group = &mut self.groups[group];
        if group.pending.len() < group.pending.capacity().min(self.pending_max) {
            group.pending.push(value);
            return Ok(());
        }
        // The rare case, in which memory is taken or given back.
        let before = group.heap_bytes();
        if group.pending.len() >= self.pending_max {
            group.merge_pending(&self.digests)?;
            group.pending.shrink_to(self.pending_max);
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
        self.resize(groups);
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
        self.resize(groups);
        for (row, group) in group_indices.iter().enumerate() {
            if let Some(values) = single_values(states, row) {
                for value in &values {
                    self.add(*group, *value)?;
                }
                continue;
            }
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

#[cfg(test)]
mod tests {
    use datafusion::physical_expr::expressions::{col, lit};

    use super::*;

    /// The median of doubles.
    fn groups() -> Groups {
        let field = Arc::new(arrow::datatypes::Field::new("x", DataType::Float64, true));
        let schema = Schema::new(vec![Arc::clone(&field)]);
        let exprs = vec![col("x", &schema).unwrap(), lit(0.5)];
        let half = Arc::new(arrow::datatypes::Field::new("half", DataType::Float64, true));
        Groups::new(Digests {
            inner: approx_percentile_cont_udaf(),
            return_field: Arc::clone(&field),
            schema,
            order_bys: Vec::new(),
            name: "median".to_owned(),
            exprs,
            expr_fields: vec![field, half],
        })
    }

    /// Gives each of `count` groups the numbers from 1 on, a batch at a time.
    fn fed(count: usize, values: usize) -> Groups {
        let mut groups = groups();
        let indices: Vec<usize> = (0..count).collect();
        for value in 1..=values {
            let batch: ArrayRef = Arc::new(Float64Array::from(vec![value as f64; count]));
            groups.update_batch(&[batch], &indices, None, count).unwrap();
        }
        groups
    }

    fn check_medians(groups: &mut Groups, count: usize, median: f64) {
        let medians = groups.evaluate(EmitTo::All).unwrap();
        let medians = medians.as_primitive::<Float64Type>();
        assert_eq!(medians.len(), count);
        // Between two of a few values a digest finds any place.
        assert!(medians.values().iter().all(|found| (found - median).abs() < 0.02 * median + 0.25), "{medians:?}");
        assert_eq!(groups.heap_bytes, 0);
    }

    #[test]
    fn a_group_takes_less_memory_where_there_are_many() {
        for (count, values, bytes_max) in [(10, 3_000, 12_000), (4_096, 600, 4_000), (20_000, 20, 400)] {
            let mut groups = fed(count, values);
            assert!(groups.size() < count * bytes_max, "{} bytes for each of {count} groups", groups.size() / count);
            check_medians(&mut groups, count, values as f64 / 2.0 + 0.5);
        }
    }

    #[test]
    fn groups_with_few_values_have_no_digest_after_a_merge() {
        for (values, has_digest) in [(6, false), (500, true)] {
            let mut merged = groups();
            for _ in 0..2 {
                let states = fed(100, values).state(EmitTo::All).unwrap();
                merged.merge_batch(&states, &(0..100).collect::<Vec<_>>(), 100).unwrap();
            }
            assert!(merged.groups.iter().all(|group| group.digest.is_some() == has_digest));
            check_medians(&mut merged, 100, values as f64 / 2.0 + 0.5);
        }
    }
}
