//! Which attributes a batch or a file holds, and where.
//!
//! A file carries its list in its footer ([`crate::storage::footer`]), as JSON:
//!
//! ```text
//! {"resource": {"closed": true, "keys": {"service.name": "S", "host.ip": "j"}},
//!  "instrumentation": {"closed": true, "keys": {}},
//!  "span": {"closed": true, "keys": {"http.route": "S", "http.response.status_code": "Is", "queue.depth": "if"}},
//!  "event": {"closed": true, "keys": {"exception.type": "s"}},
//!  "link": {"closed": true, "keys": {}}}
//! ```
//!
//! A code says how the key occurs. A capital is its promoted column: `S` text, `I` int, `F` double, `B` boolean. Small
//! letters are types of values in the residual map: `s`, `i`, `f`, `b` likewise, `j` JSON (bytes, arrays, maps), `e` empty.
//! So `Is` is a promoted int of which some spans have text instead. Events and links have all of theirs in maps. `n`
//! tells of doubles that are not numbers, in the column or in the map.
//!
//! A scope with more than [`KEYS_MAX`] keys is not *closed*: only its promoted keys are listed, and other keys may be
//! there. A batch makes its list when somebody asks for it ([`SpanBatch::keys`]); the list of a file is written once.
//! Whoever has no list believes that anything can be in the maps.

use std::collections::{BTreeMap, HashMap};

use arrow::{
    array::{Array, ArrayRef, AsArray, MapArray, StringArray, StructArray},
    datatypes::{Float64Type, UInt32Type},
};
use serde::{Deserialize, Serialize};

use crate::model::{
    attributes::{AttributeScope, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR},
    batch::SpanBatch,
    promotion::promoted_attribute,
    schema::{Table, column},
};

/// Room for promoted keys beyond those, which are listed in any case.
const PROMOTED_MAX: usize = 256;

/// Most keys of one scope that a list has.
pub const KEYS_MAX: usize = 1_000;

/// The letters of residual types, at the index of their bit.
const LETTERS: &[u8; 6] = b"sifbje";

/// A set of value types in a residual map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeSet(u8);

impl TypeSet {
    /// No type.
    pub const NONE: Self = Self(0);
    /// Every type, empty values included.
    pub const ALL: Self = Self(0b11_1111);
    /// Text, int, double and boolean: what a column can be promoted as, with JSON: everything that reads as text.
    pub const VALUES: Self = Self(0b01_1111);

    /// Bytes, arrays and key-value lists, which are JSON and never promoted.
    pub const NESTED: Self = Self(1 << VALUE_JSON);

    /// The set of one scalar type.
    pub const fn of(value_type: AttributeType) -> Self {
        Self(match value_type {
            AttributeType::Str => 1 << VALUE_STR,
            AttributeType::Int => 1 << VALUE_INT,
            AttributeType::Float => 1 << VALUE_FLOAT,
            AttributeType::Bool => 1 << VALUE_BOOL,
        })
    }

    /// The types in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The types of this set that are not in the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the sets share a type.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bit of the type of the value at `entry`.
    fn bit_of_value(values: &StructArray, entry: usize) -> usize {
        let index = [VALUE_STR, VALUE_INT, VALUE_FLOAT, VALUE_BOOL, VALUE_JSON]
            .into_iter()
            .find(|index| values.column(*index).is_valid(entry));
        // After the five fields comes the bit of the empty value.
        index.unwrap_or(VALUE_JSON + 1)
    }

    /// Whether there is no type in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a type is in it.
    pub const fn contains(self, value_type: AttributeType) -> bool {
        self.intersects(Self::of(value_type))
    }
}

/// How one key occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyUse {
    /// The type of its promoted column, where there is one with a value.
    pub promoted: Option<AttributeType>,
    /// The types of its values in the map.
    pub residual: TypeSet,
    /// Whether some double is not a number.
    pub has_nan: bool,
}

impl KeyUse {
    /// The types of its values, wherever they are.
    pub fn types(self) -> TypeSet {
        self.promoted.map_or(TypeSet::NONE, TypeSet::of).union(self.residual)
    }
}

impl From<KeyUse> for String {
    fn from(key_use: KeyUse) -> Self {
        let promoted = key_use.promoted.map(|value_type| match value_type {
            AttributeType::Str => 'S',
            AttributeType::Int => 'I',
            AttributeType::Float => 'F',
            AttributeType::Bool => 'B',
        });
        let residual = LETTERS.iter().enumerate().filter(|(bit, _)| key_use.residual.0 & (1 << bit) != 0);
        let nan = key_use.has_nan.then_some('n');
        promoted.into_iter().chain(residual.map(|(_, letter)| char::from(*letter))).chain(nan).collect()
    }
}

impl TryFrom<String> for KeyUse {
    type Error = String;

    fn try_from(code: String) -> Result<Self, String> {
        let mut key_use = Self::default();
        for letter in code.bytes() {
            match letter {
                b'S' => key_use.promoted = Some(AttributeType::Str),
                b'I' => key_use.promoted = Some(AttributeType::Int),
                b'F' => key_use.promoted = Some(AttributeType::Float),
                b'B' => key_use.promoted = Some(AttributeType::Bool),
                b'n' => key_use.has_nan = true,
                _ => match LETTERS.iter().position(|known| *known == letter) {
                    Some(bit) => key_use.residual.0 |= 1 << bit,
                    None => return Err(format!("unknown letter {:?} in the code of a key", char::from(letter))),
                },
            }
        }
        Ok(key_use)
    }
}

/// The keys of one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeKeys {
    /// Whether keys that are not listed are not there.
    pub closed: bool,
    /// The keys.
    pub keys: BTreeMap<String, KeyUse>,
}

/// The keys of a batch or a file, scope by scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttributeKeys {
    resource: ScopeKeys,
    instrumentation: ScopeKeys,
    span: ScopeKeys,
    event: ScopeKeys,
    link: ScopeKeys,
}

impl AttributeKeys {
    /// The keys of all spans of a batch.
    pub fn of_batch(batch: &SpanBatch) -> Self {
        let mut collectors = KeyCollectors::default();
        collectors.add_batch(batch, &all_rows(batch));
        collectors.finish()
    }

    /// Reads the list of a footer; `None` if it is not one.
    pub fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The list as the footer holds it.
    pub fn to_json(&self) -> String {
        // Maps of text to text always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The keys of one scope.
    pub fn scope(&self, scope: AttributeScope) -> &ScopeKeys {
        match scope {
            AttributeScope::Resource => &self.resource,
            AttributeScope::Scope => &self.instrumentation,
            AttributeScope::Span => &self.span,
            AttributeScope::Event => &self.event,
            AttributeScope::Link => &self.link,
        }
    }

    fn scope_mut(&mut self, scope: AttributeScope) -> &mut ScopeKeys {
        match scope {
            AttributeScope::Resource => &mut self.resource,
            AttributeScope::Scope => &mut self.instrumentation,
            AttributeScope::Span => &mut self.span,
            AttributeScope::Event => &mut self.event,
            AttributeScope::Link => &mut self.link,
        }
    }

    /// Every listed key with its scope and how it occurs. Scopes that are not closed have more keys than these.
    pub fn iter(&self) -> impl Iterator<Item = (AttributeScope, &str, KeyUse)> {
        AttributeScope::ALL
            .into_iter()
            .flat_map(|scope| self.scope(scope).keys.iter().map(move |(key, key_use)| (scope, key.as_str(), *key_use)))
    }

    /// What a map column, or the maps of events or links, can hold under `key`.
    pub fn residual(&self, scope: AttributeScope, key: &str) -> TypeSet {
        let keys = self.scope(scope);
        match keys.keys.get(key) {
            Some(key_use) => key_use.residual,
            None if keys.closed => TypeSet::NONE,
            None => TypeSet::ALL,
        }
    }

    /// Whether map columns, or the maps of events or links, hold nothing.
    pub fn residual_is_empty(&self, scope: AttributeScope) -> bool {
        let keys = self.scope(scope);
        keys.closed && keys.keys.values().all(|key_use| key_use.residual.is_empty())
    }

    /// Whether some span, event or link can have the key, in a column or in a map.
    pub fn can_have(&self, scope: AttributeScope, key: &str) -> bool {
        let promoted = self.scope(scope).keys.get(key).is_some_and(|key_use| key_use.promoted.is_some());
        promoted || !self.residual(scope, key).is_empty()
    }

    /// Adds the keys of another list. Of two promoted types one moves to the residual ones.
    pub fn merge(&mut self, other: &Self) {
        for scope in AttributeScope::ALL {
            let (ours, theirs) = (self.scope_mut(scope), other.scope(scope));
            // An open list that does not name a key says nothing about it.
            let unlisted = |keys: &ScopeKeys| if keys.closed { TypeSet::NONE } else { TypeSet::ALL };
            let (in_ours, in_theirs) = (unlisted(ours), unlisted(theirs));
            for (key, key_use) in &mut ours.keys {
                if !theirs.keys.contains_key(key) {
                    key_use.residual = key_use.residual.union(in_theirs);
                    key_use.has_nan |= !theirs.closed;
                }
            }
            for (key, key_use) in &theirs.keys {
                let absent = KeyUse { promoted: None, residual: in_ours, has_nan: !ours.closed };
                let merged = ours.keys.entry(key.clone()).or_insert(absent);
                merged.residual = merged.residual.union(key_use.residual);
                merged.has_nan |= key_use.has_nan;
                match (merged.promoted, key_use.promoted) {
                    (None, promoted) => merged.promoted = promoted,
                    (Some(a), Some(b)) if a != b => merged.residual = merged.residual.union(TypeSet::of(b)),
                    _ => {}
                }
            }
            ours.closed &= theirs.closed && ours.keys.len() <= KEYS_MAX + PROMOTED_MAX;
            if !ours.closed {
                ours.keys.retain(|_, key_use| key_use.promoted.is_some());
            }
        }
    }
}

/// How often a key occurs in residual maps, counted in spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCount {
    /// Where the attribute is attached.
    pub scope: AttributeScope,
    /// The key.
    pub key: String,
    /// Spans that have it.
    pub spans: u64,
    /// Of these, those with text, an int, a double and a boolean: at the place of the type in its enum.
    pub by_type: [u64; AttributeType::ALL.len()],
    /// Bytes of text of all values.
    pub text_bytes: u64,
}

/// Counts the keys in the residual maps of resources, scopes and spans; at most [`KEYS_MAX`] of each.
pub fn residual_counts(batches: &[SpanBatch]) -> Vec<KeyCount> {
    let mut collectors = KeyCollectors::default();
    batches.iter().for_each(|batch| collectors.add_batch(batch, &all_rows(batch)));
    let flat = [AttributeScope::Resource, AttributeScope::Scope, AttributeScope::Span];
    flat.into_iter().flat_map(|scope| collectors.of(scope).counts(scope).collect::<Vec<_>>()).collect()
}

fn all_rows(batch: &SpanBatch) -> Vec<u32> {
    (0..batch.num_spans() as u32).collect()
}

/// Collects the keys of all scopes.
#[derive(Debug, Default)]
pub(crate) struct KeyCollectors {
    by_scope: [KeyCollector; AttributeScope::COUNT],
}

impl KeyCollectors {
    fn of(&mut self, scope: AttributeScope) -> &mut KeyCollector {
        &mut self.by_scope[scope as usize]
    }

    /// Notes the attributes of some spans of a batch.
    pub(crate) fn add_batch(&mut self, batch: &SpanBatch, spans: &[u32]) {
        for scope in [AttributeScope::Resource, AttributeScope::Scope, AttributeScope::Span] {
            let (table, index) = match Table::of_scope(scope) {
                Some(Table::Resources) => (batch.resources(), Some(column::RESOURCE_INDEX)),
                Some(Table::Scopes) => (batch.scopes(), Some(column::SCOPE_INDEX)),
                Some(Table::Spans) | None => (batch.spans(), None),
            };
            let rows: Vec<(usize, u64)> = match index {
                None => spans.iter().map(|span| (*span as usize, 1)).collect(),
                Some(index) => {
                    let indexes = batch.spans()[index].as_primitive::<UInt32Type>().values();
                    let mut counts = vec![0_u64; table.num_rows()];
                    spans.iter().for_each(|span| counts[indexes[*span as usize] as usize] += 1);
                    counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
                }
            };
            let columns = table.schema_ref().fields().iter().zip(table.columns());
            self.of(scope).add_columns(scope, columns.map(|(field, values)| (field.as_ref(), values)), &rows);
        }
        self.add_lists(|name| batch.spans().column_by_name(name), &spans.iter().map(|span| *span as usize));
    }

    fn add_lists<'a>(
        &mut self,
        column: impl Fn(&str) -> Option<&'a ArrayRef>,
        rows: &(impl Iterator<Item = usize> + Clone),
    ) {
        for (scope, name) in [(AttributeScope::Event, column::EVENTS), (AttributeScope::Link, column::LINKS)] {
            let Some(lists) = column(name).and_then(|values| values.as_list_opt::<i32>()) else { continue };
            let Some(items) = lists.values().as_struct_opt() else { continue };
            let Some(maps) = items.column_by_name("attributes").and_then(|values| values.as_map_opt()) else {
                continue;
            };
            let offsets = lists.value_offsets();
            let items = rows.clone().flat_map(|row| offsets[row] as usize..offsets[row + 1] as usize);
            self.of(scope).add_residual(maps, items.map(|item| (item, 1)));
        }
    }

    pub(crate) fn finish(self) -> AttributeKeys {
        let mut keys = AttributeKeys::default();
        for (scope, collector) in AttributeScope::ALL.into_iter().zip(self.by_scope) {
            *keys.scope_mut(scope) = collector.finish();
        }
        keys
    }
}

#[derive(Debug)]
struct Slot {
    key: String,
    key_use: KeyUse,
    /// Weights of the entries by the bit of their type.
    entries: [u64; LETTERS.len()],
    text_bytes: u64,
}

/// Collects the keys of one scope.
#[derive(Debug, Default)]
struct KeyCollector {
    slots: Vec<Slot>,
    by_key: HashMap<String, usize>,
    overflown: bool,
    /// The slot that the n-th entry of the row before had: rows tend to have the same keys in the same places.
    places: Vec<usize>,
}

impl KeyCollector {
    /// Notes the promoted columns and the map of `scope` among some columns; each row counts as often as it says.
    fn add_columns<'a>(
        &mut self,
        scope: AttributeScope,
        columns: impl Iterator<Item = (&'a arrow::datatypes::Field, &'a ArrayRef)>,
        rows: &[(usize, u64)],
    ) {
        for (field, values) in columns {
            if scope.map_column() == Some(field.name()) {
                if let Some(map) = values.as_map_opt() {
                    self.add_residual(map, rows.iter().copied());
                }
            } else if let Some(attribute) = promoted_attribute(field).filter(|attribute| attribute.scope == scope)
                && rows.iter().any(|(row, _)| values.is_valid(*row))
            {
                let slot = self.insert(&attribute.key);
                let key_use = &mut self.slots[slot].key_use;
                key_use.promoted = Some(attribute.value_type);
                if let Some(floats) = values.as_primitive_opt::<Float64Type>() {
                    key_use.has_nan |= rows.iter().any(|(row, _)| floats.is_valid(*row) && floats.value(*row).is_nan());
                }
            }
        }
    }

    /// Notes the entries of some rows of a map.
    fn add_residual(&mut self, map: &MapArray, rows: impl Iterator<Item = (usize, u64)>) {
        let offsets = map.value_offsets();
        let keys: &StringArray = map.keys().as_string();
        let values = map.values().as_struct();
        let floats = values.column(VALUE_FLOAT).as_primitive::<Float64Type>();
        for (row, weight) in rows {
            let entries = offsets[row] as usize..offsets[row + 1] as usize;
            for (place, entry) in entries.enumerate() {
                let key = keys.value(entry);
                let known = self.places.get(place).copied().filter(|slot| self.slots[*slot].key == key);
                let Some(slot) = known.or_else(|| self.slot(key)) else { continue };
                match self.places.len() {
                    known if place < known => self.places[place] = slot,
                    known if place == known => self.places.push(slot),
                    _ => {}
                }
                let bit = TypeSet::bit_of_value(values, entry);
                let slot = &mut self.slots[slot];
                slot.key_use.residual = slot.key_use.residual.union(TypeSet(1 << bit));
                slot.key_use.has_nan |= bit == VALUE_FLOAT && floats.value(entry).is_nan();
                slot.entries[bit] += weight;
                if bit == VALUE_STR {
                    let texts: &StringArray = values.column(VALUE_STR).as_string();
                    slot.text_bytes += texts.value_length(entry) as u64 * weight;
                }
            }
        }
    }

    /// The place of a key, which is new or known; `None` if there are too many.
    fn slot(&mut self, key: &str) -> Option<usize> {
        if let Some(slot) = self.by_key.get(key) {
            return Some(*slot);
        }
        if self.slots.len() >= KEYS_MAX {
            self.overflown = true;
            return None;
        }
        Some(self.insert(key))
    }

    /// The place of a key that is listed in any case: promoted ones are few.
    fn insert(&mut self, key: &str) -> usize {
        if let Some(slot) = self.by_key.get(key) {
            return *slot;
        }
        let slot = self.slots.len();
        let (entries, text_bytes) = Default::default();
        self.slots.push(Slot { key: key.to_owned(), key_use: KeyUse::default(), entries, text_bytes });
        self.by_key.insert(key.to_owned(), slot);
        slot
    }

    fn counts(&self, scope: AttributeScope) -> impl Iterator<Item = KeyCount> {
        self.slots.iter().filter(|slot| slot.key_use.residual != TypeSet::NONE).map(move |slot| KeyCount {
            scope,
            key: slot.key.clone(),
            spans: slot.entries.iter().sum(),
            by_type: AttributeType::ALL.map(|value_type| slot.entries[value_type as usize]),
            text_bytes: slot.text_bytes,
        })
    }

    fn finish(self) -> ScopeKeys {
        let closed = !self.overflown;
        let listed = |slot: &Slot| closed || slot.key_use.promoted.is_some();
        let keys = self.slots.into_iter().filter(listed).map(|slot| (slot.key, slot.key_use)).collect();
        ScopeKeys { closed, keys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_was_written() {
        let mut collectors = KeyCollectors::default();
        let slot = collectors.of(AttributeScope::Span).insert("http.route");
        collectors.of(AttributeScope::Span).slots[slot].key_use.promoted = Some(AttributeType::Str);
        let keys = collectors.finish();
        let json = keys.to_json();
        assert!(json.contains(r#""span":{"closed":true,"keys":{"http.route":"S"}}"#), "{json}");
        assert_eq!(AttributeKeys::from_json(&json), Some(keys));
        assert_eq!(AttributeKeys::from_json(r#"{"span": {"closed": true, "keys": {"a": "?"}}}"#), None);
    }

    #[test]
    fn a_list_without_a_scope_says_nothing_about_it() {
        let keys = AttributeKeys::from_json(r#"{"span": {"closed": true, "keys": {"a": "Fsn"}}}"#).unwrap();
        assert_eq!(keys.residual(AttributeScope::Event, "a"), TypeSet::ALL);
        assert_eq!(keys.residual(AttributeScope::Span, "b"), TypeSet::NONE);
        let float = TypeSet::of(AttributeType::Float).union(TypeSet::of(AttributeType::Str));
        let (scope, key, key_use) = keys.iter().next().unwrap();
        assert_eq!((scope, key, key_use.types(), key_use.has_nan), (AttributeScope::Span, "a", float, true));
    }

    #[test]
    fn a_scope_with_too_many_keys_is_open_and_lists_the_promoted_ones() {
        let mut collectors = KeyCollectors::default();
        let collector = collectors.of(AttributeScope::Span);
        for n in 0..=KEYS_MAX {
            collector.slot(&format!("key {n}"));
        }
        let slot = collector.insert("http.route");
        collector.slots[slot].key_use.promoted = Some(AttributeType::Str);
        let keys = collectors.finish();
        assert_eq!(keys.residual(AttributeScope::Span, "http.route"), TypeSet::NONE);
        assert_eq!(keys.residual(AttributeScope::Span, "key 7"), TypeSet::ALL);
        assert_eq!(keys.scope(AttributeScope::Span).keys.len(), 1);
    }

    #[test]
    fn merged_lists_hold_what_either_held() {
        let list = |span: &str| AttributeKeys::from_json(&format!(r#"{{"span": {span}}}"#)).unwrap();
        let mut merged = list(r#"{"closed": true, "keys": {"a": "I", "b": "s"}}"#);
        merged.merge(&list(r#"{"closed": true, "keys": {"a": "Sj", "c": "Fn"}}"#));
        let expected = list(r#"{"closed": true, "keys": {"a": "Isj", "b": "s", "c": "Fn"}}"#);
        assert_eq!(merged.scope(AttributeScope::Span), expected.scope(AttributeScope::Span));
        merged.merge(&list(r#"{"closed": false, "keys": {}}"#));
        let expected = list(r#"{"closed": false, "keys": {"a": "Isifbjen", "c": "Fsifbjen"}}"#);
        assert_eq!(merged.scope(AttributeScope::Span), expected.scope(AttributeScope::Span));
    }
}
