//! Which attributes queries ask for.
//!
//! A scan notes each attribute that an expression on its rows reads, once. A flush takes the counts into account when it
//! chooses what gets a column ([`crate::storage::promoter`]), and halves them, so that what nobody asks for any more is
//! forgotten. The counts live in memory only, one set per tenant.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::model::attributes::AttributeScope;

/// Most attributes that are counted; further ones wait until counts have gone down to nothing.
const KEYS_MAX: usize = 1_000;

type Key = (AttributeScope, String);

/// How often scans of one tenant's spans read an attribute lately.
#[derive(Debug, Default)]
pub struct KeyDemand {
    counts: Mutex<HashMap<Key, u32>>,
}

impl KeyDemand {
    /// Counts one scan that reads the attribute.
    pub fn note(&self, scope: AttributeScope, key: &str) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&(scope, key.to_owned())) {
            *count = count.saturating_add(1);
        } else if counts.len() < KEYS_MAX {
            counts.insert((scope, key.to_owned()), 1);
        }
    }

    /// The counts; afterwards they are half of that.
    pub fn take_half(&self) -> Asked {
        let mut counts = self.counts.lock();
        let asked = Asked(counts.clone());
        counts.retain(|_, count| {
            *count /= 2;
            *count > 0
        });
        asked
    }
}

/// How often attributes were asked for, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Asked(HashMap<Key, u32>);

impl Asked {
    /// Scans that read the attribute.
    pub fn count(&self, scope: AttributeScope, key: &str) -> u32 {
        self.0.get(&(scope, key.to_owned())).copied().unwrap_or(0)
    }
}

/// The demand of one scan: however many files it opens, it asks for an attribute once.
#[derive(Debug)]
pub(crate) struct ScanDemand {
    demand: Arc<KeyDemand>,
    noted: Mutex<HashSet<Key>>,
}

impl ScanDemand {
    pub(crate) fn new(demand: &Arc<KeyDemand>) -> Self {
        Self { demand: Arc::clone(demand), noted: Mutex::default() }
    }

    pub(crate) fn note(&self, scope: AttributeScope, key: &str) {
        if self.noted.lock().insert((scope, key.to_owned())) {
            self.demand.note(scope, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_counts_once_and_what_is_not_asked_for_again_is_forgotten() {
        let demand = Arc::new(KeyDemand::default());
        for _ in 0..3 {
            let scan = ScanDemand::new(&demand);
            (0..5).for_each(|_| scan.note(AttributeScope::Span, "a"));
        }
        let asked = |key| demand.take_half().count(AttributeScope::Span, key);
        assert_eq!((asked("b"), asked("a"), asked("a")), (0, 1, 0));
        (0..2 * KEYS_MAX).for_each(|n| demand.note(AttributeScope::Span, &n.to_string()));
        assert_eq!(demand.counts.lock().len(), KEYS_MAX);
    }
}
