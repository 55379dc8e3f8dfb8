//! Which attributes a file holds, and where: the list in its footer.
//!
//! The list is JSON under the footer key [`KEYS_METADATA`]:
//!
//! ```text
//! {"resource": {"closed": true, "keys": {"service.name": "S", "host.ip": "j"}},
//!  "instrumentation": {"closed": true, "keys": {}},
//!  "span": {"closed": true, "keys": {"http.route": "S", "http.response.status_code": "Is", "queue.depth": "if"}}}
//! ```
//!
//! A code says how the key occurs. A capital is its promoted column: `S` text, `I` int, `F` double, `B` boolean. Small
//! letters are types of values in the residual map: `s`, `i`, `f`, `b` likewise, `j` JSON (bytes, arrays, maps), `e` empty.
//! So `Is` is a promoted int of which some spans have text instead.
//!
//! A scope with more than [`KEYS_MAX`] keys is not *closed*: only its promoted keys are listed, and other keys may be
//! there. The writer of the file writes the list; nobody changes it. A reader without it believes that anything can be in
//! the residual.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, MapArray, StringArray, StructArray};
use serde::{Deserialize, Serialize};

use crate::model::attributes::{
    AttributeScope, AttributeType, VALUE_BOOL, VALUE_FLOAT, VALUE_INT, VALUE_JSON, VALUE_STR,
};

/// The footer key of the list.
pub const KEYS_METADATA: &str = "tracehouse.keys";

/// Most keys of one scope that a footer lists.
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

    /// The type of the value at `entry`.
    fn of_value(values: &StructArray, entry: usize) -> Self {
        let index = [VALUE_STR, VALUE_INT, VALUE_FLOAT, VALUE_BOOL, VALUE_JSON]
            .into_iter()
            .find(|index| values.column(*index).is_valid(entry));
        // After the five fields comes the bit of the empty value.
        Self(1 << index.unwrap_or(VALUE_JSON + 1))
    }
}

/// How one key occurs in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyUse {
    /// The type of its promoted column, where the file has one.
    pub promoted: Option<AttributeType>,
    /// The types of its values in the residual map.
    pub residual: TypeSet,
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
        promoted.into_iter().chain(residual.map(|(_, letter)| char::from(*letter))).collect()
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
    /// Whether keys that are not listed are not in the file.
    pub closed: bool,
    /// The keys.
    pub keys: BTreeMap<String, KeyUse>,
}

impl ScopeKeys {
    /// What the residual map can hold under `key`.
    fn residual(&self, key: &str) -> TypeSet {
        match self.keys.get(key) {
            Some(key_use) => key_use.residual,
            None if self.closed => TypeSet::NONE,
            None => TypeSet::ALL,
        }
    }

    fn union(&self, other: &Self) -> Self {
        let mut keys = BTreeMap::new();
        for key in self.keys.keys().chain(other.keys.keys()) {
            let promoted = |scope: &Self| scope.keys.get(key).and_then(|key_use| key_use.promoted);
            // An open list that does not name a key says nothing about it.
            let residual = self.residual(key).union(other.residual(key));
            keys.insert(key.clone(), KeyUse { promoted: promoted(self).or_else(|| promoted(other)), residual });
        }
        let closed = self.closed && other.closed && keys.len() <= KEYS_MAX;
        keys.retain(|_, key_use| closed || key_use.promoted.is_some());
        Self { closed, keys }
    }
}

/// The keys of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileKeys {
    resource: ScopeKeys,
    instrumentation: ScopeKeys,
    span: ScopeKeys,
}

impl FileKeys {
    /// Reads the list of a footer; `None` if it is not one.
    pub fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The list as the footer holds it.
    pub fn to_json(&self) -> String {
        // Maps of text to text always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The keys of one scope; events and links have none.
    pub fn scope(&self, scope: AttributeScope) -> Option<&ScopeKeys> {
        match scope {
            AttributeScope::Resource => Some(&self.resource),
            AttributeScope::Scope => Some(&self.instrumentation),
            AttributeScope::Span => Some(&self.span),
            AttributeScope::Event | AttributeScope::Link => None,
        }
    }

    /// The keys of two sets of spans together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            resource: self.resource.union(&other.resource),
            instrumentation: self.instrumentation.union(&other.instrumentation),
            span: self.span.union(&other.span),
        }
    }

    pub(crate) fn set_scope(&mut self, scope: AttributeScope, keys: ScopeKeys) {
        match scope {
            AttributeScope::Resource => self.resource = keys,
            AttributeScope::Scope => self.instrumentation = keys,
            AttributeScope::Span => self.span = keys,
            AttributeScope::Event | AttributeScope::Link => {}
        }
    }

    /// What the residual map can hold under `key`.
    pub fn residual(&self, scope: AttributeScope, key: &str) -> TypeSet {
        self.scope(scope).map_or(TypeSet::ALL, |keys| keys.residual(key))
    }
}

/// Collects the keys of one scope.
#[derive(Debug, Default)]
pub(crate) struct KeyCollector {
    keys: Vec<(String, KeyUse)>,
    by_key: std::collections::HashMap<String, usize>,
    overflown: bool,
    /// The slot that the n-th entry of the row before had: rows tend to have the same keys in the same places.
    slots: Vec<usize>,
}

impl KeyCollector {
    /// Notes a promoted column; all of them come before the first residual map.
    pub(crate) fn add_promoted(&mut self, key: &str, value_type: AttributeType) {
        let slot = self.slot(key);
        if let Some(slot) = slot {
            self.keys[slot].1.promoted = Some(value_type);
        }
    }

    /// Notes the entries of some rows of a residual map.
    pub(crate) fn add_residual(&mut self, map: &MapArray, rows: impl Iterator<Item = usize>) {
        let offsets = map.value_offsets();
        let keys: &StringArray = map.keys().as_string();
        let values = map.values().as_struct();
        for row in rows {
            let entries = offsets[row] as usize..offsets[row + 1] as usize;
            for (place, entry) in entries.enumerate() {
                let key = keys.value(entry);
                let known = self.slots.get(place).copied().filter(|slot| self.keys[*slot].0 == key);
                let Some(slot) = known.or_else(|| self.slot(key)) else { continue };
                match self.slots.len() {
                    known if place < known => self.slots[place] = slot,
                    known if place == known => self.slots.push(slot),
                    _ => {}
                }
                let residual = &mut self.keys[slot].1.residual;
                *residual = residual.union(TypeSet::of_value(values, entry));
            }
        }
    }

    /// The place of a key, which is new or known; `None` if there are too many.
    fn slot(&mut self, key: &str) -> Option<usize> {
        if let Some(slot) = self.by_key.get(key) {
            return Some(*slot);
        }
        if self.keys.len() >= KEYS_MAX {
            self.overflown = true;
            return None;
        }
        let slot = self.keys.len();
        self.keys.push((key.to_owned(), KeyUse::default()));
        self.by_key.insert(key.to_owned(), slot);
        Some(slot)
    }

    pub(crate) fn finish(self) -> ScopeKeys {
        let closed = !self.overflown;
        let listed = |(_, key_use): &(String, KeyUse)| closed || key_use.promoted.is_some();
        ScopeKeys { closed, keys: self.keys.into_iter().filter(listed).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_was_written() {
        let mut collector = KeyCollector::default();
        collector.add_promoted("http.route", AttributeType::Str);
        let mut keys = FileKeys::default();
        keys.set_scope(AttributeScope::Span, collector.finish());
        let json = keys.to_json();
        assert!(json.contains(r#""span":{"closed":true,"keys":{"http.route":"S"}}"#), "{json}");
        assert_eq!(FileKeys::from_json(&json), Some(keys));
        assert_eq!(FileKeys::from_json(r#"{"span": {"closed": true, "keys": {"a": "?"}}}"#), None);
    }

    #[test]
    fn a_scope_with_too_many_keys_is_open_and_lists_the_promoted_ones() {
        let mut collector = KeyCollector::default();
        collector.add_promoted("http.route", AttributeType::Str);
        for n in 0..KEYS_MAX {
            collector.slot(&format!("key {n}"));
        }
        let mut keys = FileKeys::default();
        keys.set_scope(AttributeScope::Span, collector.finish());
        assert_eq!(keys.residual(AttributeScope::Span, "http.route"), TypeSet::NONE);
        assert_eq!(keys.residual(AttributeScope::Span, "key 7"), TypeSet::ALL);
        assert_eq!(keys.span.keys.len(), 1);
    }
}
