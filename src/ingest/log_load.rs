//! How full the log is: told by the committer, which fills it, to the flusher, which makes room.
//!
//! The log fills up before the buffers do when it is small, or when the one old record of a quiet tenant keeps it from
//! being cut while others write. Waiting for `flush.age_max` then means that senders hear 503 for minutes. So the log
//! has marks, at every eighth of `wal.bytes_max` from the half on, and passing one asks for a flush:
//!
//! ```text
//!  0        4/8       5/8       6/8       7/8     full
//!  |---------|---------|---------|---------|--------|
//!            the tenant with the   everything        everything, as long as
//!            oldest record                           appends are refused
//! ```
//!
//! A mark counts once until the log has shrunk below it. What a flush leaves in the log, such as a last segment that
//! still takes appends, does not make small files without end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Marks in the length of a full log.
const MARKS: u64 = 8;

/// The lowest mark that asks for a flush.
const MARK_MIN: u64 = 4;

/// The lowest mark that asks for a flush of everything.
const MARK_ALL: u64 = 6;

/// What the state of the log asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relief {
    /// Nothing.
    None,
    /// A flush of the tenant with the oldest record, which is what the log cannot be cut behind.
    Oldest,
    /// A flush of all tenants.
    All,
}

/// The length of the log as the committer knows it.
#[derive(Debug)]
pub(super) struct LogLoad {
    bytes: AtomicU64,
    bytes_max: u64,
    /// An append was refused because the log is full, and none has succeeded since.
    is_refusing: AtomicBool,
    /// The highest mark that was acted on and is still passed.
    acted_on: AtomicU64,
    news: Notify,
}

impl LogLoad {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            bytes_max: bytes_max.max(1),
            is_refusing: AtomicBool::new(false),
            acted_on: AtomicU64::new(0),
            news: Notify::new(),
        }
    }

    /// Notes the log's length.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if self.mark(bytes) > self.mark(before) && self.mark(bytes) >= MARK_MIN {
            self.news.notify_one();
        }
    }

    /// Notes whether the last append found no room.
    pub(super) fn set_refusing(&self, is_refusing: bool) {
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
        if is_refusing {
            self.news.notify_one();
        }
    }

    /// Returns when [`LogLoad::relief`] may ask for something new.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// What has to be done now. Each mark asks once.
    pub(super) fn relief(&self) -> Relief {
        let mark = self.mark(self.bytes.load(Ordering::Relaxed));
        let acted_on = self.acted_on.swap(mark, Ordering::Relaxed);
        if self.is_refusing.load(Ordering::Relaxed) {
            return Relief::All;
        }
        match mark {
            mark if mark <= acted_on || mark < MARK_MIN => Relief::None,
            mark if mark < MARK_ALL => Relief::Oldest,
            _ => Relief::All,
        }
    }

    fn mark(&self, bytes: u64) -> u64 {
        u64::try_from(u128::from(bytes) * u128::from(MARKS) / u128::from(self.bytes_max)).unwrap_or(MARKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_asks_once_until_the_log_has_shrunk_below_it() {
        let load = LogLoad::new(800);
        let relief_at = |bytes| {
            load.set(bytes);
            load.relief()
        };
        assert_eq!(relief_at(399), Relief::None);
        assert_eq!(relief_at(400), Relief::Oldest);
        assert_eq!(relief_at(499), Relief::None);
        assert_eq!(relief_at(500), Relief::Oldest);
        assert_eq!(relief_at(620), Relief::All);
        assert_eq!(relief_at(650), Relief::None);
        assert_eq!(relief_at(450), Relief::None, "on the way down");
        assert_eq!(relief_at(550), Relief::Oldest, "and up again");
        assert_eq!(relief_at(u64::MAX), Relief::All);
    }

    #[test]
    fn a_log_that_refuses_asks_until_it_takes_records_again() {
        let load = LogLoad::new(800);
        load.set(790);
        load.set_refusing(true);
        assert_eq!([load.relief(), load.relief()], [Relief::All, Relief::All]);
        load.set_refusing(false);
        assert_eq!(load.relief(), Relief::None);
    }

    #[tokio::test]
    async fn a_passed_mark_is_news_and_growth_below_the_half_is_not() {
        let load = LogLoad::new(800);
        load.set(399);
        let heard = tokio::time::timeout(std::time::Duration::ZERO, load.news()).await;
        assert!(heard.is_err());
        load.set(400);
        load.news().await;
    }
}
