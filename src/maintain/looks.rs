//! Which tables are looked at next: work in proportion to what changes, not to how many tables there are.
//!
//! A table is due when its state in memory is another than at the last look, which costs nothing to see and covers what this
//! process commits or learns. Commits of other processes, and the passing of time, are found by looking again after a
//! pause. It doubles while nothing is found, up to a number of rounds, so that a thousand idle tables cost a
//! few requests per round.

use std::collections::HashMap;

use crate::model::tenant::TenantId;

/// When each table is due.
#[derive(Debug)]
pub(super) struct Looks {
    /// Most rounds between two looks at a table that does not change.
    pause_rounds_max: u32,
    by_tenant: HashMap<TenantId, Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    /// The table's last commit as of the last look.
    version: Option<u64>,
    pause_rounds: u32,
    rest_rounds: u32,
}

impl Looks {
    /// No table was looked at yet.
    pub(super) fn new(pause_rounds_max: u32) -> Self {
        Self { pause_rounds_max, by_tenant: HashMap::new() }
    }

    /// Whether a table is due in this round; `version` is the last commit that is known.
    pub(super) fn is_due(&mut self, tenant: &TenantId, version: Option<u64>) -> bool {
        let Some(look) = self.by_tenant.get_mut(tenant) else { return true };
        look.rest_rounds = look.rest_rounds.saturating_sub(1);
        look.rest_rounds == 0 || look.version != version
    }

    /// Notes that a table was looked at, and how it is now. A look that failed is `None` and is repeated next time.
    pub(super) fn looked(&mut self, tenant: &TenantId, version: Option<Option<u64>>) {
        let Some(version) = version else {
            self.by_tenant.remove(tenant);
            return;
        };
        let before = self.by_tenant.get(tenant).filter(|before| before.version == version);
        let pause_rounds = before.map_or(1, |before| (before.pause_rounds * 2).min(self.pause_rounds_max));
        self.by_tenant.insert(tenant.clone(), Look { version, pause_rounds, rest_rounds: pause_rounds });
    }

    /// Forgets tables that are gone.
    pub(super) fn retain(&mut self, tenants: &[TenantId]) {
        if self.by_tenant.len() > tenants.len() {
            self.by_tenant.retain(|tenant, _| tenants.binary_search(tenant).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which of the first `rounds` rounds a table is looked at that changes in round `changed`.
    fn looks(rounds: u32, changed: u32) -> Vec<u32> {
        let tenant = TenantId::single();
        let mut looks = Looks::new(32);
        let mut at = Vec::new();
        for round in 0..rounds {
            let version = Some(u64::from(round >= changed));
            if looks.is_due(&tenant, version) {
                looks.looked(&tenant, Some(version));
                at.push(round);
            }
        }
        at
    }

    #[test]
    fn a_table_is_looked_at_when_it_changes_and_ever_less_often_while_it_does_not() {
        assert_eq!(looks(140, 1_000), [0, 1, 3, 7, 15, 31, 63, 95, 127]);
        assert_eq!(looks(30, 20), [0, 1, 3, 7, 15, 20, 21, 23, 27]);
        let mut failing = Looks::new(32);
        failing.looked(&TenantId::single(), None);
        assert!(failing.is_due(&TenantId::single(), None));
    }
}
