//! From the log to the buffers: the records that the tables do not hold, at the start.
//!
//! ```text
//!  the store answers   probe it -> list the tables -> replay each record above its table's transaction -> cut -> settled
//!  the bucket is away  leap over record numbers -> serve: requests go into the log, and nowhere else
//!                      -> try again and again: replay beside the writers
//!                         -> stop the committer, replay the last records -> cut -> settled
//! ```
//!
//! A server must take spans although the bucket is away when it starts: senders have nowhere else to send them. What it
//! cannot know then is which records of the log the tables hold. To show them would show some twice, and to flush them
//! would store some twice; so until the tables have been asked, records stay in the log, where their senders' acknowledgement
//! has put them, and queries are refused: an answer without the tables would lack nearly everything and not say so. For the
//! same reason there is no copy of a table's state on this machine to start from. It could be older than the last commit,
//! and the data files are in the bucket anyway.
//!
//! Numbers leap because the log can be an older copy of itself, or lack a tail that was not synced: which numbers it has
//! given and forgotten is what only the tables tell.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock, mpsc as blocking},
};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Recovered, Screen,
    commit::Command,
    dedup::DedupWindow,
    flush::{PAUSE_MAX, PAUSE_MIN},
    record,
    table_writer::TableWriter,
    unavailable,
};
use crate::{
    catalog::{Commit, Transaction},
    crashpoint,
    error::{Error, ErrorKind, Result},
    live::{Live, flushed_through},
    model::tenant::TenantId,
    wal::{Record, RecordNumber, Replay},
};

/// Tenants, and up to which record their tables hold them.
pub(super) type Cuts = Vec<(TenantId, RecordNumber)>;

/// A number above all that were given before this moment, and below all that will be given by a later start: there is room
/// for a million records per millisecond.
pub(super) fn number_floor(now_unix_nano: i64) -> RecordNumber {
    RecordNumber::new((now_unix_nano.max(0).unsigned_abs() / 1_000_000) << 20)
}

/// Replays a log. After an error it goes on where it stopped.
#[derive(Debug)]
pub(super) struct Replayer {
    live: Arc<Live>,
    writer: Arc<TableWriter>,
    /// Bytes of buffers that are flushed before more is replayed.
    pressure_bytes: usize,
    screen: Arc<OnceLock<Screen>>,
    tenants: BTreeSet<TenantId>,
    fenced: BTreeSet<TenantId>,
    /// The last records that were dealt with.
    replayed: HashMap<TenantId, RecordNumber>,
}

impl Replayer {
    pub(super) fn new(writer: &Arc<TableWriter>, pressure_bytes: usize, screen: &Arc<OnceLock<Screen>>) -> Self {
        Self {
            live: Arc::clone(writer.live()),
            writer: Arc::clone(writer),
            pressure_bytes,
            screen: Arc::clone(screen),
            tenants: BTreeSet::new(),
            fenced: BTreeSet::new(),
            replayed: HashMap::new(),
        }
    }

    /// Makes sure that the store answers and keeps the rules, before any commit, and learns which tables there are.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        self.writer.files().verify_conditional_put().await?;
        if let Some(screen) = self.screen.get() {
            (screen.ready)().await?;
        }
        self.tenants.extend(self.live.catalog().tenants().await?);
        Ok(())
    }

    /// Brings records to the buffers; if they are too many, from there to the tables.
    pub(super) async fn run(
        &mut self,
        replay: Replay,
        mut dedup: Option<&mut DedupWindow>,
        recovered: &mut Recovered,
    ) -> Result<()> {
        for record in replay {
            let record = record?;
            if let Some(dedup) = dedup.as_deref_mut() {
                for digest in &record.digests {
                    dedup.insert(&record.tenant, *digest, record.received_unix_nano);
                }
            }
            if self.replayed.get(&record.tenant).is_some_and(|replayed| record.number <= *replayed) {
                continue;
            }
            if self.writer.files().staged().is_some()
                && !self.fenced.contains(&record.tenant)
                && fence(&self.live, &record).await?
            {
                self.fenced.insert(record.tenant.clone());
            }
            replay_record(&self.live, &record, self.screen.get(), recovered).await?;
            self.replayed.insert(record.tenant.clone(), record.number);
            self.tenants.insert(record.tenant);
            crashpoint::hit("replay.after_record");
            if self.live.buffered_bytes() >= self.pressure_bytes {
                for (tenant, _) in self.live.loads() {
                    self.writer.store(&tenant).await?;
                }
            }
        }
        Ok(())
    }

    /// What the log can forget now, and what its numbers have to continue behind.
    pub(super) async fn cuts(&self) -> Result<Cuts> {
        let mut cuts = Cuts::with_capacity(self.tenants.len());
        for tenant in &self.tenants {
            let table = self.live.catalog().table(tenant).await?;
            cuts.push((tenant.clone(), flushed_through(&table.snapshot(), self.live.log())));
        }
        Ok(cuts)
    }
}

/// Whether a start goes on without the tables.
pub(super) fn is_away(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

/// Replays the log of a server that runs already, once the bucket is there.
#[derive(Debug)]
pub(super) struct Settler {
    live: Arc<Live>,
    commands: mpsc::Sender<Command>,
    /// `None` once everything is settled.
    replayer: Mutex<Option<Replayer>>,
    stopped: CancellationToken,
}

impl Settler {
    /// `replayer` has what is left to do; `None` if everything is settled.
    pub(super) fn new(live: &Arc<Live>, commands: &mpsc::Sender<Command>, replayer: Option<Replayer>) -> Self {
        let (live, commands) = (Arc::clone(live), commands.clone());
        Self { live, commands, replayer: Mutex::new(replayer), stopped: CancellationToken::new() }
    }

    /// Ends [`Settler::run`].
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Tries until all is settled, or stopped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        loop {
            tokio::select! {
                () = self.stopped.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match self.settle().await {
                Ok(()) => return,
                Err(error) => {
                    warn!(%error, ?pause, "the tables cannot be asked; spans are taken in, queries are refused");
                    pause = PAUSE_MAX.min(pause * 2);
                }
            }
        }
    }

    /// Replays everything that is in the log, unless that has been done.
    pub(super) async fn settle(&self) -> Result<()> {
        if self.live.is_settled() {
            return Ok(());
        }
        let mut left = self.replayer.lock().await;
        let Some(replayer) = left.as_mut() else { return Ok(()) };
        replayer.prepare().await?;
        let mut recovered = Recovered::new(crate::wal::Recovery::default());
        let (asked, answer) = oneshot::channel();
        self.send(Command::Replay(asked)).await?;
        let (replay, sequence) = answer.await.map_err(|_| closed())?;
        replayer.run(replay, None, &mut recovered).await?;

        // What came meanwhile is replayed while nothing comes.
        let (asked, answer) = oneshot::channel();
        let (resume, resumed) = blocking::channel();
        let (done, settled) = oneshot::channel();
        self.send(Command::Settle { sequence, replay: asked, resumed, done }).await?;
        let replay = answer.await.map_err(|_| closed())?;
        replayer.run(replay, None, &mut recovered).await?;
        let cuts = replayer.cuts().await?;
        resume.send(cuts).map_err(|_| closed())?;
        settled.await.map_err(|_| closed())?;
        *left = None;
        info!(records = recovered.records, spans = recovered.spans, skipped = recovered.skipped, "settled the log");
        Ok(())
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| closed())
    }
}

fn closed() -> Error {
    unavailable("the server is shutting down")
}

/// Makes sure that no request of a process that is gone can still commit records of the log.
///
/// Such a request names the number of its commit. It may be on its way to the bucket when its process dies, and arrive
/// after the next process has read the table's log; the same records would then be committed twice. A commit of our own
/// takes that number, or shows that the request has arrived. `false` if the table holds the record, so that nothing is
/// needed for it.
async fn fence(live: &Live, record: &Record) -> Result<bool> {
    let table = live.catalog().table(&record.tenant).await?;
    let snapshot = table.snapshot();
    if record.number <= flushed_through(&snapshot, live.log()) {
        return Ok(false);
    }
    let app_id = format!("{}-start", live.log());
    let version = snapshot.transaction(&app_id).unwrap_or_default() + 1;
    table.commit(&Commit::append(Vec::new(), Some(Transaction { app_id, version }), Vec::new())).await?;
    Ok(true)
}

/// Puts a record into its buffer, unless its table holds it.
pub(super) async fn replay_record(
    live: &Live,
    record: &Record,
    screen: Option<&Screen>,
    recovered: &mut Recovered,
) -> Result<()> {
    let table = live.catalog().table(&record.tenant).await?;
    if record.number <= flushed_through(&table.snapshot(), live.log()) {
        recovered.skipped += 1;
        return Ok(());
    }
    let mut batch = record::decode(&record.payload).map_err(|cause| corrupt(&record.tenant, record, cause))?;
    if let Some(screen) = screen {
        batch = (screen.pass)(&record.tenant, batch).batch().await;
    }
    recovered.records += 1;
    recovered.spans += batch.num_spans();
    live.push(&record.tenant, record.number, batch, record.received_unix_nano);
    Ok(())
}

fn corrupt(tenant: &TenantId, record: &Record, cause: record::RecordError) -> Error {
    Error::new(ErrorKind::Corrupt, format!("record {} of tenant {tenant} in the log cannot be read", record.number))
        .with_source(cause)
}
