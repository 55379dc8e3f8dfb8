//! `text_set(text)`: the different texts of a group, as a list in alphabetical order; NULL for a group without any.
//!
//! It answers as `array_agg(DISTINCT text ORDER BY text)` of texts that are not NULL does, which sorts all rows and keeps a
//! set of texts for each group. Here a text has a number, the same in all groups, and a group has a bit for each number:
//!
//! ```text
//!  texts:   0 cart   1 shop   2 payment                 the first 128 have bits
//!  group 7: 0b101    group 8: 0b010                     later ones are pairs (group, number)
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, StringArray, StringBuilder},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::{AggregateOrderSensitivity, format_state_name},
    },
};

use crate::functions::documentation::documentation_of;

const NAME: &str = "text_set";

/// The aggregate.
pub(super) fn aggregate() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::from(TextSet { signature: Signature::exact(vec![DataType::Utf8], Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextSet {
    signature: Signature,
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Utf8, true))
}

impl AggregateUDFImpl for TextSet {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "texts");
        Ok(vec![Arc::new(Field::new(name, DataType::List(item()), true))])
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneSet(Sets::default())))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Sets::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        documentation_of(NAME)
    }
}

/// The sets of all groups.
#[derive(Debug, Default)]
struct Sets {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    text_bytes: usize,
    /// For each group the texts with a number below 128.
    bits: Vec<u128>,
    /// Groups, and their texts with other numbers.
    others: BTreeSet<(usize, u32)>,
}

impl Sets {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let text: Arc<str> = text.into();
        // As many texts as there are numbers do not fit into memory.
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.text_bytes += text.len();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    fn insert(&mut self, group: usize, number: u32) {
        match 1_u128.checked_shl(number) {
            Some(bit) => self.bits[group] |= bit,
            None => drop(self.others.insert((group, number))),
        }
    }

    fn add(&mut self, texts: &StringArray, group_of: impl Fn(usize) -> Option<usize>) {
        // The text of the row before, which most rows have.
        let mut last: Option<(&str, u32)> = None;
        for (row, text) in texts.iter().enumerate() {
            let (Some(text), Some(group)) = (text, group_of(row)) else { continue };
            let number = match last {
                Some((same, number)) if same == text => number,
                _ => self.number(text),
            };
            last = Some((text, number));
            self.insert(group, number);
        }
    }

    fn merge(&mut self, sets: &ArrayRef, group_of: impl Fn(usize) -> usize) -> Result<()> {
        let Some(sets) = sets.as_list_opt::<i32>() else { return exec_err!("the state of {NAME}() is a list") };
        let Some(texts) = sets.values().as_string_opt::<i32>() else {
            return exec_err!("the state of {NAME}() is a list of texts");
        };
        for (row, ends) in sets.value_offsets().windows(2).enumerate() {
            if sets.is_valid(row) {
                let (from, length) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
                self.add(&texts.slice(from, length), |_| Some(group_of(row)));
            }
        }
        Ok(())
    }

    /// The lists of the groups below `end`.
    fn lists(&self, end: usize) -> ListArray {
        let mut by_rank: Vec<&Arc<str>> = self.texts.iter().collect();
        by_rank.sort_unstable();
        let ranks: HashMap<&Arc<str>, u32> = by_rank.iter().copied().zip(0..).collect();
        let rank_of: Vec<u32> = self.texts.iter().map(|text| ranks.get(text).copied().unwrap_or_default()).collect();
        let mut others = self.others.iter().peekable();
        let mut texts = StringBuilder::new();
        let (mut lengths, mut is_there) = (Vec::with_capacity(end), Vec::with_capacity(end));
        let mut of_group: Vec<u32> = Vec::new();
        for (group, mut bits) in self.bits.iter().copied().enumerate().take(end) {
            of_group.clear();
            while bits != 0 {
                of_group.push(rank_of[bits.trailing_zeros() as usize]);
                bits &= bits - 1;
            }
            while let Some((_, number)) = others.next_if(|(of, _)| *of == group) {
                of_group.push(rank_of[*number as usize]);
            }
            of_group.sort_unstable();
            of_group.iter().for_each(|rank| texts.append_value(by_rank[*rank as usize]));
            lengths.push(of_group.len());
            is_there.push(!of_group.is_empty());
        }
        let texts = Arc::new(texts.finish());
        ListArray::new(item(), OffsetBuffer::from_lengths(lengths), texts, Some(NullBuffer::from(is_there)))
    }

    /// Lets go of the groups below `end`.
    fn forget(&mut self, end: usize) {
        if end >= self.bits.len() {
            *self = Self::default();
            return;
        }
        self.bits.drain(..end);
        self.others = mem::take(&mut self.others)
            .into_iter()
            .filter_map(|(group, number)| Some((group.checked_sub(end)?, number)))
            .collect();
    }

    fn heap_bytes(&self) -> usize {
        let of_text = size_of::<Arc<str>>() * 2 + size_of::<u32>() + 2 * size_of::<usize>();
        self.text_bytes
            + self.texts.len() * of_text
            + self.bits.capacity() * size_of::<u128>()
            + self.others.len() * 2 * size_of::<(usize, u32)>()
    }
}

fn texts_of(values: &[ArrayRef]) -> Result<&StringArray> {
    match values {
        [texts] if texts.data_type() == &DataType::Utf8 => Ok(texts.as_string()),
        _ => exec_err!("{NAME}() takes one text"),
    }
}

impl GroupsAccumulator for Sets {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let texts = texts_of(values)?;
        self.bits.resize(groups, 0);
        let passes = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        self.add(texts, |row| passes(row).then(|| group_indices[row]));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        let [sets] = states else { return exec_err!("the state of {NAME}() is one list") };
        self.bits.resize(groups, 0);
        self.merge(sets, |row| group_indices[row])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let end = match emit_to {
            EmitTo::All => self.bits.len(),
            EmitTo::First(end) => end,
        };
        let lists = self.lists(end);
        self.forget(end);
        Ok(Arc::new(lists))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit_to)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut sets = Self::default();
        let rows = texts_of(values)?.len();
        sets.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        sets.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.heap_bytes()
    }
}

/// The set of rows that are not grouped.
#[derive(Debug)]
struct OneSet(Sets);

impl OneSet {
    fn list(&mut self) -> ScalarValue {
        self.0.bits.resize(1, 0);
        ScalarValue::List(Arc::new(self.0.lists(1)))
    }
}

impl Accumulator for OneSet {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let texts = texts_of(values)?;
        self.0.bits.resize(1, 0);
        self.0.add(texts, |_| Some(0));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(self.list())
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.list()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sets] = states else { return exec_err!("the state of {NAME}() is one list") };
        self.0.bits.resize(1, 0);
        self.0.merge(sets, |_| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(group: usize, place: usize) -> String {
        format!("text {}", (group * 31 + place * 7) % 300)
    }

    fn expected(group: usize) -> Vec<String> {
        (0..group % 5).map(|place| text(group, place)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn found(lists: &ArrayRef, row: usize) -> Vec<String> {
        match lists.is_valid(row) {
            true => lists.as_list::<i32>().value(row).as_string::<i32>().iter().flatten().map(str::to_owned).collect(),
            false => Vec::new(),
        }
    }

    /// Groups with no to four texts of 300, and one NULL each.
    fn filled(groups: usize) -> Sets {
        let rows: Vec<(usize, Option<String>)> = (0..groups)
            .flat_map(|group| (0..group % 5).map(move |place| (group, Some(text(group, place)))).chain([(group, None)]))
            .collect();
        let texts: ArrayRef = Arc::new(rows.iter().map(|(_, text)| text.as_deref()).collect::<StringArray>());
        let indices: Vec<usize> = rows.iter().map(|(group, _)| *group).collect();
        let mut sets = Sets::default();
        sets.update_batch(&[texts], &indices, None, groups).unwrap();
        sets
    }

    #[test]
    fn each_group_has_its_texts_in_order_in_one_piece_in_two_and_merged() {
        let mut sets = filled(1_000);
        let mut merged = Sets::default();
        let first = sets.evaluate(EmitTo::First(300)).unwrap();
        let rest = sets.evaluate(EmitTo::All).unwrap();
        assert_eq!((first.len(), rest.len(), first.is_null(5)), (300, 700, true));
        merged.merge_batch(&[Arc::clone(&first)], &(0..300).collect::<Vec<_>>(), 300).unwrap();
        // Another thread has the same groups, and they come in another order.
        let indices: Vec<usize> = (0..700).map(|row| 300 + row).collect();
        merged.merge_batch(&[Arc::clone(&rest)], &indices, 1_000).unwrap();
        merged.merge_batch(&[Arc::clone(&rest)], &indices, 1_000).unwrap();
        assert!(merged.size() > 1_000 * size_of::<u128>());
        let merged = merged.evaluate(EmitTo::All).unwrap();
        for group in 0..1_000 {
            let alone = if group < 300 { found(&first, group) } else { found(&rest, group - 300) };
            assert_eq!((alone, found(&merged, group)), (expected(group), expected(group)), "{group}");
        }
    }

    #[test]
    fn rows_that_a_filter_leaves_out_have_no_text() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["b", "a", "b", "c"]));
        let filter = BooleanArray::from(vec![Some(true), Some(true), Some(false), None]);
        let mut sets = Sets::default();
        sets.update_batch(&[texts], &[0, 0, 1, 1], Some(&filter), 2).unwrap();
        let lists = sets.evaluate(EmitTo::All).unwrap();
        assert_eq!((found(&lists, 0), lists.is_null(1)), (vec!["a".to_owned(), "b".to_owned()], true));
    }
}
