//! Files that could not be read or merged, and are left alone for a while: nothing is gained by reading them again at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// How long files are left alone, in nanoseconds.
const PAUSE_NANO: i64 = 10 * 60 * 1_000_000_000;

/// Until when files are left alone, in Unix nanoseconds, and why, by their path in the table.
#[derive(Debug, Default)]
pub(super) struct SetAside(Mutex<HashMap<Arc<str>, (i64, String)>>);

impl SetAside {
    /// Leaves a file alone from now on.
    pub(super) fn add(&self, path: &Arc<str>, now_unix_nano: i64, reason: String) {
        let mut files = self.0.lock();
        files.retain(|_, (until, _)| *until > now_unix_nano);
        files.insert(Arc::clone(path), (now_unix_nano.saturating_add(PAUSE_NANO), reason));
    }

    /// Why a file is to be left alone now, if it is.
    pub(super) fn reason(&self, path: &str, now_unix_nano: i64) -> Option<String> {
        let files = self.0.lock();
        files.get(path).filter(|(until, _)| *until > now_unix_nano).map(|(_, reason)| reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_alone_for_ten_minutes() {
        let aside = SetAside::default();
        let path = Arc::from("date=2026-11-22/a.parquet");
        aside.add(&path, 0, "it is damaged".to_owned());
        assert_eq!(aside.reason(&path, PAUSE_NANO - 1).as_deref(), Some("it is damaged"));
        assert_eq!(aside.reason(&path, PAUSE_NANO), None);
        assert_eq!(aside.reason("another", 1), None);
    }
}
