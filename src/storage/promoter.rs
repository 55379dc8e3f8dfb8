//! Which attributes get a column of their own.
//!
//! A table starts with the standard attributes. An attribute joins them when a column of its own pays: by the bytes that
//! its values save over entries of a map, and by the queries that would read the whole map for it. It must do so in
//! [`FILES_AGREE`] flushes with the same type; from then on the table declares the column, and the type is fixed. A column
//! is never undeclared. Values of other types, names that the table format cannot hold and names that differ from a
//! declared one only in case stay in the maps, as does everything beyond `promotion.columns_max`.
//!
//! What a table declares is in its log, so every process writes the same columns; which attributes are on the way is in
//! memory, and starts anew with the process. The choice depends on nothing else, and ties go by name.
//!
//! Attributes of events and links stay in maps within their lists: on the demo's spans all of events is 1.1 % of the bytes of a
//! file and all of links another 1.1 %, attributes being 0.7 % and 0.4 % of it, so that no column could save half a byte
//! per span, and a query for one of them reads little else. Which keys are in a file its footer says, so that a query for an
//! absent one skips it.
//!
//! A flush asks [`Promoter::choose`]; whoever rewrites files takes what is there already, [`current`].

use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::Mutex;

use crate::{
    config::PromotionSettings,
    model::{
        attributes::{AttributeScope, AttributeType},
        keys::KeyCount,
        promotion::{self, PromotedAttribute, Promotion},
        tenant::TenantId,
    },
    storage::scan::demand::Asked,
};

/// In how many flushes an attribute has to pay, always with one type, before it gets a column.
pub const FILES_AGREE: u32 = 3;

/// What a value in a column is worth over one in a map, in bytes of the file. On the demo's spans a file gets smaller by a
/// quarter of a byte for each (from 5 bytes larger, where values are few, to 4 smaller, where each is another); the rest
/// stands for queries, which read a column instead of all maps, a fifth of the file.
const SAVED_BYTES_PER_VALUE: f64 = 1.0;

/// Bytes in a file that a column costs besides its values: footer, page headers, indexes.
const COLUMN_BYTES: f64 = 500.0;

/// What it is worth, per span of the flush, that a query need not read the map: a fraction of the bytes that it reads.
const ASKED_BYTES_PER_SPAN: f64 = 0.25;

/// The part of an attribute's values that must have the type of its column.
const SAME_TYPE_MIN: f64 = 0.9;

/// Tenants whose attributes are watched; beyond it those of tenants without a flush lately start anew.
const TENANTS_MAX: usize = 10_000;

/// The columns that a table declares.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// Those of attributes.
    pub attributes: Promotion,
    /// The names of all columns, in lower case: the table format compares them so.
    pub names: HashSet<String>,
}

/// What a file of the table gets columns for, before anything new is chosen: what the table declares, and the standard
/// attributes that do not contradict it.
pub fn current(settings: &PromotionSettings, declared: &Declared) -> Promotion {
    let standard = promotion::standard();
    let standard = standard.attributes().iter().filter(|attribute| !declared.names.contains(&lower(attribute)));
    let all = declared.attributes.attributes().iter().chain(standard);
    Promotion::new(all.filter(|attribute| !settings.denies(attribute)).cloned())
}

/// Chooses attributes for columns as tables grow.
#[derive(Debug)]
pub struct Promoter {
    settings: PromotionSettings,
    watched: Mutex<HashMap<TenantId, Watched>>,
}

/// What is known of a tenant's attributes.
#[derive(Debug, Default)]
struct Watched {
    candidates: Candidates,
    /// Those that were chosen. Their files may be committed later than the next choice is made, so their types hold.
    chosen: Vec<PromotedAttribute>,
}

/// Attributes that paid in the latest flushes: their type, and in how many flushes.
type Candidates = BTreeMap<(AttributeScope, String), (AttributeType, u32)>;

/// What a flush is about to write.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// Its number of spans.
    pub spans: usize,
    /// The keys in its maps.
    pub counts: &'a [KeyCount],
    /// What queries ask for.
    pub asked: &'a Asked,
}

impl Promoter {
    /// A promoter that has seen nothing.
    pub fn new(settings: PromotionSettings) -> Self {
        Self { settings, watched: Mutex::default() }
    }

    /// What the files of a flush get columns for.
    pub fn choose(&self, tenant: &TenantId, declared: &Declared, evidence: &Evidence<'_>) -> Promotion {
        let current = current(&self.settings, declared);
        let mut watched = self.watched.lock();
        if watched.len() >= TENANTS_MAX && !watched.contains_key(tenant) {
            watched.clear();
        }
        let Watched { candidates, chosen } = watched.entry(tenant.clone()).or_default();
        chosen.retain(|attribute| !declared.names.contains(&lower(attribute)));
        let mut taken = declared.names.clone();
        taken.extend(current.attributes().iter().chain(&*chosen).map(lower));
        let mut paying: Vec<(f64, PromotedAttribute)> = evidence
            .counts
            .iter()
            .filter_map(|count| self.paying(count, evidence))
            .filter(|(_, attribute)| !taken.contains(&lower(attribute)))
            .collect();
        paying.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.column.cmp(&y.column)));

        let mut room = self.settings.columns_max.saturating_sub(current.attributes().len() + chosen.len());
        let mut still = Candidates::new();
        for (_, attribute) in paying {
            let key = (attribute.scope, attribute.key.to_string());
            let before = candidates.get(&key).filter(|(value_type, _)| *value_type == attribute.value_type);
            let agreed = before.map_or(0, |(_, flushes)| *flushes).saturating_add(1).min(FILES_AGREE);
            still.insert(key, (attribute.value_type, agreed));
            let is_ready = agreed >= FILES_AGREE || self.settings.allows(&attribute);
            if is_ready && room > 0 && taken.insert(lower(&attribute)) {
                room -= 1;
                chosen.push(attribute);
            }
        }
        // What a flush does not hold keeps its standing; what it holds and no longer pays loses it.
        let held: HashSet<(AttributeScope, &str)> =
            evidence.counts.iter().map(|count| (count.scope, count.key.as_str())).collect();
        candidates.retain(|(scope, key), _| !held.contains(&(*scope, key.as_str())));
        candidates.extend(still);
        chosen.sort_by(|a, b| a.column.cmp(&b.column));
        Promotion::new(current.attributes().iter().chain(&*chosen).cloned())
    }

    /// The column that a key would get, and the bytes that it is worth, if that is more than nothing.
    fn paying(&self, count: &KeyCount, evidence: &Evidence<'_>) -> Option<(f64, PromotedAttribute)> {
        // The first of the most frequent types.
        let value_type = AttributeType::ALL.into_iter().rev().max_by_key(|of| count.by_type[*of as usize])?;
        let values = count.by_type[value_type as usize];
        let attribute = PromotedAttribute::new(count.scope, &count.key, value_type);
        if values == 0 || !attribute.has_storable_name() || self.settings.denies(&attribute) {
            return None;
        }
        if self.settings.allows(&attribute) {
            return Some((f64::INFINITY, attribute));
        }
        if (values as f64) < SAME_TYPE_MIN * count.spans as f64 {
            return None;
        }
        let asked = f64::from(evidence.asked.count(count.scope, &count.key));
        let worth =
            values as f64 * SAVED_BYTES_PER_VALUE + asked * evidence.spans as f64 * ASKED_BYTES_PER_SPAN - COLUMN_BYTES;
        (worth > 0.0).then_some((worth, attribute))
    }
}

impl PromotionSettings {
    fn allows(&self, attribute: &PromotedAttribute) -> bool {
        self.allow.iter().any(|name| **name == *attribute.column)
    }

    fn denies(&self, attribute: &PromotedAttribute) -> bool {
        self.deny.iter().any(|name| **name == *attribute.column)
    }
}

fn lower(attribute: &PromotedAttribute) -> String {
    attribute.column.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::scan::demand::KeyDemand;

    fn count(key: &str, by_type: [u64; 4]) -> KeyCount {
        let spans = by_type.iter().sum();
        KeyCount { scope: AttributeScope::Span, key: key.to_owned(), spans, by_type, text_bytes: 0 }
    }

    struct Flushes {
        promoter: Promoter,
        declared: Declared,
        asked: KeyDemand,
    }

    impl Flushes {
        fn new(settings: PromotionSettings) -> Self {
            Self { promoter: Promoter::new(settings), declared: Declared::default(), asked: KeyDemand::default() }
        }

        /// The new columns of a flush of 10,000 spans.
        fn flush(&self, counts: &[KeyCount]) -> Vec<String> {
            let asked = self.asked.take_half();
            let evidence = Evidence { spans: 10_000, counts, asked: &asked };
            let chosen = self.promoter.choose(&TenantId::single(), &self.declared, &evidence);
            let before = current(&self.promoter.settings, &self.declared);
            let new = chosen.attributes().iter().filter(|attribute| before.of_column(&attribute.column).is_none());
            new.map(|attribute| format!("{} {:?}", attribute.column, attribute.value_type)).collect()
        }
    }

    #[test]
    fn what_pays_in_three_flushes_with_one_type_gets_a_column() {
        let flushes = Flushes::new(PromotionSettings::default());
        let steady = count("queue.depth", [0, 5_000, 100, 0]);
        let rare = count("rare", [200, 0, 0, 0]);
        let torn = count("torn", [3_000, 3_000, 0, 0]);
        let first = [steady.clone(), rare.clone(), torn.clone(), count("late", [0, 0, 0, 900])];
        let counts = [steady, rare, torn];
        assert!(flushes.flush(&first).is_empty());
        assert!(flushes.flush(&counts).is_empty());
        assert_eq!(flushes.flush(&counts), ["span.queue.depth Int"]);
        let changed = [count("queue.depth", [5_000, 0, 0, 0])];
        assert_eq!(flushes.flush(&changed), ["span.queue.depth Int"], "what was chosen keeps its type");
    }

    #[test]
    fn queries_make_a_rare_attribute_pay() {
        let flushes = Flushes::new(PromotionSettings::default());
        let counts = [count("rare", [20, 0, 0, 0])];
        for _ in 0..2 {
            flushes.asked.note(AttributeScope::Span, "rare");
            assert!(flushes.flush(&counts).is_empty());
        }
        flushes.asked.note(AttributeScope::Span, "rare");
        assert_eq!(flushes.flush(&counts), ["span.rare Str"]);
    }

    #[test]
    fn lists_names_and_the_cap_are_kept_to() {
        let settings = PromotionSettings {
            columns_max: promotion::standard().attributes().len() + 2,
            allow: vec!["span.wanted".into()],
            deny: vec!["span.secret".into(), "span.http.route".into()],
        };
        let mut flushes = Flushes::new(settings);
        let before = current(&flushes.promoter.settings, &flushes.declared);
        assert!(before.of_column("span.http.route").is_none());
        let counts = ["secret", "a b", "wanted", "big", "Big", "bigger", "http.route", "HTTP.method"];
        let counts: Vec<_> = counts.iter().zip(1..).map(|(key, n)| count(key, [1_000 * n, 0, 0, 0])).collect();
        assert_eq!(flushes.flush(&counts), ["span.wanted Str"]);
        flushes.flush(&counts);
        // Room for three, one of them instead of the denied one; `Big` is `big` to the table format, and has more values.
        assert_eq!(flushes.flush(&counts), ["span.Big Str", "span.bigger Str", "span.wanted Str"]);
        flushes.promoter = Promoter::new(flushes.promoter.settings.clone());
        flushes.declared.names.insert("span.big".to_owned());
        let other = PromotedAttribute::new(AttributeScope::Span, "db.system", AttributeType::Int);
        flushes.declared.names.insert(lower(&other));
        flushes.declared.attributes = Promotion::new([other.clone()]);
        let now = current(&flushes.promoter.settings, &flushes.declared);
        assert_eq!(now.get(AttributeScope::Span, "db.system"), Some(&other), "the table's type counts");
        assert!(!flushes.flush(&counts).contains(&"span.Big Str".to_owned()));
    }
}
