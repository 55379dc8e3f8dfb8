//! From the buffer to the table: when, and in which order with the log.
//!
//! ```text
//!  seal prefix -> Parquet files, one per day -> synced in the store -> table commit: adds + txn{log, last number}
//!              -> release the prefix (the snapshot holds it now) -> cut the log
//! ```
//!
//! A crash or an error between any two steps loses and doubles nothing: before the commit the records are in the log
//! and the files are not in the table; after it the transaction tells replay and views that the records are stored.
//! A failed flush is retried with the same prefix and the same transaction, so that an unclear commit cannot win twice.
//! Where the tables lie in a bucket, all after the files is [`upload`](super::upload)'s.

use std::{cmp::Reverse, collections::HashSet, sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    commit::Command,
    log_load::{LogLoad, Relief},
    table_writer::TableWriter,
    upload::Uploads,
};
use crate::{
    catalog::Commit,
    clock::Clock,
    config::Settings,
    crashpoint,
    error::Result,
    live::{BufferLoad, Live},
    metrics::Metrics,
    model::tenant::TenantId,
};

/// How often the buffers' sizes and ages are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Pause after a failed flush; doubled with every further failure up to [`PAUSE_MAX`].
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest pause between tries.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);

/// When buffers are flushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlushPolicy {
    /// A tenant's buffer of this many bytes is flushed.
    bytes_max: usize,
    /// A tenant's buffer whose oldest record is this old is flushed, in nanoseconds.
    age_max_nano: i64,
    /// If all buffers together reach this many bytes, the largest are flushed, until the others have less: before writes are
    /// refused.
    pub(super) pressure_bytes: usize,
}

impl From<&Settings> for FlushPolicy {
    fn from(settings: &Settings) -> Self {
        Self {
            bytes_max: settings.flush.bytes_max.as_usize(),
            age_max_nano: settings.flush.age_max.as_nanos(),
            pressure_bytes: settings.buffer.bytes_max.as_usize() / 4 * 3,
        }
    }
}

/// What a flush wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Spans that are in the table now.
    pub spans: usize,
    /// Files that were added to tables.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl FlushReport {
    /// What a commit adds.
    pub(super) fn of(commit: &Commit) -> Self {
        Self {
            spans: commit.adds.iter().map(|add| usize::try_from(add.statistics.rows).unwrap_or(usize::MAX)).sum(),
            files: commit.adds.len(),
            bytes: commit.adds.iter().map(|add| add.size_bytes).sum(),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.spans += other.spans;
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Empties buffers that are due into their tables, and has the log cut behind them.
#[derive(Debug)]
pub(super) struct Flusher {
    writer: Arc<TableWriter>,
    policy: FlushPolicy,
    log_load: Arc<LogLoad>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    commands: mpsc::Sender<Command>,
    uploads: Arc<Uploads>,
    woken: Notify,
    stopped: CancellationToken,
}

/// What a flusher works with.
#[derive(Debug)]
pub(super) struct FlusherParts {
    pub(super) writer: Arc<TableWriter>,
    pub(super) policy: FlushPolicy,
    pub(super) log_load: Arc<LogLoad>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// The way to the committer, which must be running.
    pub(super) commands: mpsc::Sender<Command>,
}

impl Flusher {
    pub(super) fn new(parts: FlusherParts) -> Self {
        let FlusherParts { writer, policy, log_load, clock, metrics, commands } = parts;
        let uploads = Arc::new(Uploads::new(&writer, Arc::clone(&metrics), commands.clone()));
        let (woken, stopped) = (Notify::new(), CancellationToken::new());
        Self { writer, policy, log_load, clock, metrics, commands, uploads, woken, stopped }
    }

    /// Looks at the buffers now.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Ends [`Flusher::run`] and the uploads after what is under way.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
        self.uploads.stop();
    }

    /// Flushes what is due, until stopped.
    pub(super) async fn run(self: Arc<Self>) {
        if self.writer.files().staged().is_some() {
            tokio::spawn(Arc::clone(&self.uploads).run());
        }
        let mut pause = PAUSE_MIN;
        while !self.stopped.is_cancelled() {
            let wait = match self.flush_due().await {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    TICK
                }
                Err(cause) => {
                    warn!(error = %cause, source = ?std::error::Error::source(&cause), ?pause, "flush failed");
                    let wait = pause;
                    pause = PAUSE_MAX.min(pause * 2);
                    wait
                }
            };
            tokio::select! {
                () = self.stopped.cancelled() => {}
                () = self.woken.notified() => {}
                () = self.log_load.news() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn flush_due(&self) -> Result<()> {
        let loads = self.live().loads();
        self.observe(&loads);
        for tenant in due(&loads, &self.policy, self.log_load.relief(), self.clock.now_unix_nano()) {
            self.flush(&tenant).await?;
        }
        Ok(())
    }

    fn live(&self) -> &Arc<Live> {
        self.writer.live()
    }

    fn observe(&self, loads: &[(TenantId, BufferLoad)]) {
        let bytes: usize = loads.iter().map(|(_, load)| load.bytes).sum();
        let spans: usize = loads.iter().map(|(_, load)| load.spans).sum();
        let oldest = loads.iter().filter_map(|(_, load)| load.oldest_received_unix_nano);
        let oldest = oldest.chain(self.live().oldest_staged_unix_nano()).min();
        self.metrics.buffer_bytes.set(bytes.cast_signed() as i64);
        self.metrics.buffer_spans.set(spans.cast_signed() as i64);
        self.metrics.set_oldest_unflushed(oldest);
        let (files, bytes) = self.live().catalog().load();
        self.metrics.catalog_files.set(files.cast_signed() as i64);
        self.metrics.catalog_bytes.set(bytes.cast_signed());
    }

    /// Flushes all tenants' buffers, and returns when all is in the tables.
    pub(super) async fn flush_all(&self) -> Result<FlushReport> {
        let mut report = FlushReport::default();
        for (tenant, _) in self.live().loads() {
            report.add(self.flush(&tenant).await?);
        }
        report.add(self.uploads.upload_all().await?);
        self.observe(&self.live().loads());
        Ok(report)
    }

    /// Flushes one tenant's buffer, and returns when all is in the table.
    pub(super) async fn flush_one(&self, tenant: &TenantId) -> Result<FlushReport> {
        let mut report = FlushReport::default();
        // A flush that failed before is repeated as it was, without what has come since.
        if self.live().is_sealed(tenant) {
            report.add(self.flush(tenant).await?);
        }
        report.add(self.flush(tenant).await?);
        report.add(self.uploads.upload_all().await?);
        Ok(report)
    }

    async fn flush(&self, tenant: &TenantId) -> Result<FlushReport> {
        let Some(stored) = self.writer.store(tenant).await? else {
            self.uploads.wake();
            return Ok(FlushReport::default());
        };
        crashpoint::hit("flush.before_cut");
        // The committer may have closed the log already; then replay skips these records by their transaction.
        let _ = self.commands.send(Command::Cut { tenant: tenant.clone(), through: stored.through }).await;
        Ok(stored.report)
    }
}

/// The tenants whose buffers have to go now.
fn due(loads: &[(TenantId, BufferLoad)], policy: &FlushPolicy, relief: Relief, now_unix_nano: i64) -> Vec<TenantId> {
    let largest = largest(loads, policy.pressure_bytes);
    let oldest = loads.iter().min_by_key(|(_, load)| load.oldest_received_unix_nano);
    let is_due = |tenant: &TenantId, load: &BufferLoad| {
        let is_old = load
            .oldest_received_unix_nano
            .is_some_and(|oldest| now_unix_nano.saturating_sub(oldest) >= policy.age_max_nano);
        let is_in_the_way = match relief {
            Relief::None => false,
            Relief::Oldest => oldest.is_some_and(|(oldest, _)| oldest == tenant),
            Relief::All => true,
        };
        is_old || is_in_the_way || largest.contains(tenant) || load.bytes >= policy.bytes_max
    };
    loads.iter().filter(|(tenant, load)| is_due(tenant, load)).map(|(tenant, _)| tenant.clone()).collect()
}

/// The tenants with the largest buffers, without which the others have less than `pressure_bytes`. One at a time would not do
/// where thousands have a little each.
fn largest(loads: &[(TenantId, BufferLoad)], pressure_bytes: usize) -> HashSet<&TenantId> {
    let mut left: usize = loads.iter().map(|(_, load)| load.bytes).sum();
    if left < pressure_bytes {
        return HashSet::new();
    }
    let mut by_size: Vec<&(TenantId, BufferLoad)> = loads.iter().collect();
    by_size.sort_by_key(|(_, load)| Reverse(load.bytes));
    let is_pressed = |(_, load): &&&(TenantId, BufferLoad)| {
        let is_pressed = left >= pressure_bytes;
        left -= load.bytes;
        is_pressed
    };
    by_size.iter().take_while(is_pressed).map(|(tenant, _)| tenant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the tenants that are due among those with these bytes and received times.
    fn due_of(loads: &[(&str, usize, i64)], relief: Relief) -> Vec<String> {
        let policy = FlushPolicy { bytes_max: 100, age_max_nano: 1_000, pressure_bytes: 200 };
        let loads: Vec<_> = loads
            .iter()
            .map(|(name, bytes, received)| {
                let load = BufferLoad { bytes: *bytes, spans: 1, oldest_received_unix_nano: Some(*received) };
                (TenantId::parse(name).unwrap(), load)
            })
            .collect();
        due(&loads, &policy, relief, 5_000).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_buffer_is_due_by_its_size_its_age_the_size_of_all_and_the_state_of_the_log() {
        let none: [&str; 0] = [];
        assert_eq!(due_of(&[("a", 99, 4_001)], Relief::None), none);
        assert_eq!(due_of(&[("a", 100, 4_001), ("b", 1, 4_001)], Relief::None), ["a"]);
        assert_eq!(due_of(&[("a", 1, 4_000), ("b", 1, 4_001)], Relief::None), ["a"]);
        assert_eq!(due_of(&[("a", 60, 4_500), ("b", 70, 4_500), ("c", 70, 4_500)], Relief::None), ["b"]);
        assert_eq!(due_of(&[("a", 90, 4_500), ("b", 95, 4_500), ("c", 99, 4_500)], Relief::None), ["c"]);
        assert_eq!(
            due_of(&[("a", 99, 4_500), ("b", 98, 4_500), ("c", 97, 4_500), ("d", 1, 4_500)], Relief::None),
            ["a"]
        );
        let many = [("a", 80, 4_500), ("b", 99, 4_500), ("c", 70, 4_500), ("d", 90, 4_500), ("e", 60, 4_500)];
        assert_eq!(due_of(&many, Relief::None), ["a", "b", "d"], "399 - 99 - 90 are 210, and without 80 more 130");
        assert_eq!(due_of(&[("a", 50, 4_900), ("b", 1, 4_500)], Relief::Oldest), ["b"]);
        assert_eq!(due_of(&[("a", 50, 4_900), ("b", 1, 4_500)], Relief::All), ["a", "b"]);
        assert_eq!(due_of(&[], Relief::All), none);
    }
}
