//! Which request bodies were stored lately, so that a byte-identical retry is stored once.
//!
//! A sender that did not hear our OK sends the same bytes again. The log keeps the digests of the bodies in every
//! record, and carries those within the window along when it cuts records, so the memory survives a restart.
//!
//! The memory is bounded: it forgets by age, and above [`REQUESTS_MAX`] the oldest first. A retry of a request that was
//! forgotten is stored again, which compaction and the readers of traces mend.

use std::collections::{HashMap, VecDeque};

use crate::model::tenant::TenantId;

/// Most requests that are remembered, at some 150 bytes each.
pub const REQUESTS_MAX: usize = 1 << 20;

/// Digest of a decompressed request body: XXH3, 128 bits.
pub type Digest = u128;

/// The digest of a decompressed request body.
pub fn digest(body: &[u8]) -> Digest {
    twox_hash::XxHash3_128::oneshot(body)
}

/// Digests of stored request bodies, by tenant, within a window of time.
#[derive(Debug)]
pub struct DedupWindow {
    window_nano: i64,
    seen: HashMap<(TenantId, Digest), i64>,
    by_age: VecDeque<(i64, TenantId, Digest)>,
}

impl DedupWindow {
    /// An empty window of this length.
    pub fn new(window_nano: i64) -> Self {
        Self { window_nano, seen: HashMap::new(), by_age: VecDeque::new() }
    }

    /// Notes that a body was stored.
    pub fn insert(&mut self, tenant: &TenantId, digest: Digest, received_unix_nano: i64) {
        self.seen.insert((tenant.clone(), digest), received_unix_nano);
        self.by_age.push_back((received_unix_nano, tenant.clone(), digest));
        if self.by_age.len() > REQUESTS_MAX {
            self.forget_oldest(|_| true);
        }
    }

    /// Whether this body was stored within the window before `now_unix_nano`.
    pub fn contains(&self, tenant: &TenantId, digest: Digest, now_unix_nano: i64) -> bool {
        self.seen
            .get(&(tenant.clone(), digest))
            .is_some_and(|received| *received >= now_unix_nano.saturating_sub(self.window_nano))
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now_unix_nano: i64) {
        let oldest = now_unix_nano.saturating_sub(self.window_nano);
        while self.forget_oldest(|received| received < oldest) {}
    }

    /// Forgets the oldest entry if it was received at a time to forget; whether it was.
    fn forget_oldest(&mut self, is_due: impl Fn(i64) -> bool) -> bool {
        let Some((received, tenant, digest)) = self.by_age.pop_front_if(|(received, ..)| is_due(*received)) else {
            return false;
        };
        // The body may have been stored again since; then a later entry stands for it.
        let key = (tenant, digest);
        if self.seen.get(&key) == Some(&received) {
            self.seen.remove(&key);
        }
        true
    }

    /// What is within the window, oldest first: received time, tenant, digest.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &TenantId, Digest)> {
        self.by_age.iter().map(|(received, tenant, digest)| (*received, tenant, *digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_duplicate_within_the_window_and_for_its_tenant_only() {
        let (a, b) = (TenantId::single(), TenantId::parse("b").unwrap());
        let mut window = DedupWindow::new(100);
        window.insert(&a, 7, 1000);
        assert!(window.contains(&a, 7, 1100));
        assert!(!window.contains(&a, 7, 1101));
        assert!(!window.contains(&b, 7, 1000));
        assert!(!window.contains(&a, 8, 1000));
    }

    #[test]
    fn expiry_keeps_a_body_that_was_stored_again() {
        let tenant = TenantId::single();
        let mut window = DedupWindow::new(100);
        window.insert(&tenant, 7, 1000);
        window.insert(&tenant, 7, 1150);
        window.expire(1200);
        assert!(window.contains(&tenant, 7, 1200));
        window.expire(1300);
        assert_eq!(window.iter().count(), 0);
        assert!(!window.contains(&tenant, 7, 1200));
    }

    #[test]
    fn the_oldest_are_forgotten_above_the_limit() {
        let tenant = TenantId::single();
        let mut window = DedupWindow::new(100);
        for digest in 0..REQUESTS_MAX as u128 + 2 {
            window.insert(&tenant, digest, 1000);
        }
        assert_eq!((window.iter().count(), window.seen.len()), (REQUESTS_MAX, REQUESTS_MAX));
        assert!(!window.contains(&tenant, 1, 1000));
        assert!(window.contains(&tenant, 2, 1000));
    }
}
