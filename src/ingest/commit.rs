//! The committer: the one thread that owns the log.
//!
//! It takes what waits in the queue as a group, merges small batches of a tenant into records of some size, appends and
//! syncs the group, makes its records visible, and acknowledges. The order is the promise: nothing is visible or
//! acknowledged before it is synced, and what is acknowledged is visible.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, mpsc as blocking},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::{
    RETRY_AFTER, WriteOutcome, WriteRequest,
    dedup::{DedupWindow, Digest},
    log_load::LogLoad,
    record::{Encoder, RecordError},
    settle::Cuts,
    unavailable,
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind, Result},
    live::Live,
    metrics::Metrics,
    model::{batch::SpanBatch, tenant::TenantId},
    wal::{CarriedDigest, Log, NewRecord, RecordNumber, Replay, WalError},
};

/// A record with at least this many spans is closed: joining more to it costs a copy and saves little.
const ENOUGH_SPANS: usize = 512;

/// A request that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) tenant: TenantId,
    pub(super) request: WriteRequest,
    pub(super) ack: oneshot::Sender<Result<WriteOutcome>>,
}

#[derive(Debug)]
pub(super) enum Command {
    /// Store this.
    Write(Pending),
    /// The table holds this tenant's records up to a number; the log may forget them.
    Cut { tenant: TenantId, through: RecordNumber },
    /// Give the records that are in the log now, and the sequence number that comes next.
    Replay(oneshot::Sender<(Replay, u64)>),
    /// Give the records from a sequence number on, and do nothing until they are in the buffers: then cut the log, and
    /// make records visible from now on. Goes on as before if nobody says so.
    Settle {
        sequence: u64,
        replay: oneshot::Sender<Replay>,
        resumed: blocking::Receiver<Cuts>,
        done: oneshot::Sender<()>,
    },
    /// Answer when everything before has been answered.
    Barrier(oneshot::Sender<()>),
    /// Close the log and end.
    Close(oneshot::Sender<Result<()>>),
}

#[derive(Debug)]
pub(super) struct Committer {
    pub(super) log: Log,
    pub(super) log_load: Arc<LogLoad>,
    /// Whether what the tables hold is known; until then records stay in the log and are not shown.
    pub(super) is_settled: bool,
    pub(super) live: Arc<Live>,
    pub(super) dedup: DedupWindow,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) group_bytes_max: usize,
    pub(super) encoder: Encoder,
    /// The payloads of the group that is being committed, one after the other.
    pub(super) payloads: Vec<u8>,
}

/// Requests of one tenant that become one record.
#[derive(Debug)]
struct Gathered {
    tenant: TenantId,
    batches: Vec<SpanBatch>,
    spans: usize,
    digests: Vec<Digest>,
    received_unix_nano: i64,
    acks: Vec<(oneshot::Sender<Result<WriteOutcome>>, WriteOutcome)>,
}

impl Gathered {
    fn new(tenant: TenantId, received_unix_nano: i64) -> Self {
        let (batches, digests, acks) = (Vec::new(), Vec::new(), Vec::new());
        Self { tenant, batches, spans: 0, digests, received_unix_nano, acks }
    }

    fn add(&mut self, batch: SpanBatch, digest: Digest) {
        self.spans += batch.num_spans();
        self.batches.push(batch);
        self.digests.push(digest);
    }

    fn answer(self, result: &Result<()>) {
        for (ack, outcome) in self.acks {
            // A sender that went away does not hear its answer.
            let _ = ack.send(match result {
                Ok(()) => Ok(outcome),
                Err(error) => Err(copy(error)),
            });
        }
    }
}

impl Committer {
    /// Serves commands until the log is closed or every sender is gone.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.observe_size();
        let mut next = None;
        while let Some(command) = next.take().or_else(|| commands.blocking_recv()) {
            match command {
                Command::Write(first) => {
                    let (group, after) = self.gather(first, &mut commands);
                    self.commit(group);
                    next = after;
                }
                Command::Cut { tenant, through } => self.cut(&tenant, through),
                Command::Replay(asked) => {
                    let _ = asked.send((self.log.replay(), self.log.next_sequence()));
                }
                Command::Settle { sequence, replay, resumed, done } => {
                    let _ = replay.send(self.log.replay_from(sequence));
                    if let Ok(cuts) = resumed.recv() {
                        self.settle(cuts);
                        let _ = done.send(());
                    }
                }
                Command::Barrier(done) => {
                    let _ = done.send(());
                }
                Command::Close(done) => {
                    commands.close();
                    let _ = done.send(self.log.close().map_err(Error::from));
                    return;
                }
            }
        }
    }

    /// Everything that waits, up to the group's limit, and the command that ended the gathering.
    fn gather(&mut self, first: Pending, commands: &mut mpsc::Receiver<Command>) -> (Vec<Gathered>, Option<Command>) {
        let mut group: Vec<Gathered> = Vec::new();
        // Where in the group a tenant's next batch goes, and where a request is that came before in the same group.
        let mut open: HashMap<TenantId, usize> = HashMap::new();
        let mut places: HashMap<(TenantId, Digest), usize> = HashMap::new();
        let now = self.clock.now_unix_nano();
        self.dedup.expire(now);
        let mut bytes = 0;
        let mut pending = first;
        loop {
            let Pending { tenant, request, ack } = pending;
            let earlier = places.get(&(tenant.clone(), request.digest)).copied();
            let duplicate = earlier.is_some() || self.dedup.contains(&tenant, request.digest, now);
            let place = earlier.or_else(|| open.get(&tenant).copied()).unwrap_or_else(|| {
                group.push(Gathered::new(tenant.clone(), request.received_unix_nano));
                open.insert(tenant.clone(), group.len() - 1);
                group.len() - 1
            });
            group[place].acks.push((ack, WriteOutcome { duplicate }));
            if !duplicate {
                bytes += request.batch.memory_bytes();
                places.insert((tenant.clone(), request.digest), place);
                group[place].add(request.batch, request.digest);
                if group[place].spans >= ENOUGH_SPANS {
                    open.remove(&tenant);
                }
            }
            if bytes >= self.group_bytes_max {
                return (group, None);
            }
            match commands.try_recv() {
                Ok(Command::Write(next)) => pending = next,
                Ok(other) => return (group, Some(other)),
                Err(_) => return (group, None),
            }
        }
    }

    fn commit(&mut self, group: Vec<Gathered>) {
        let mut encoded = Vec::with_capacity(group.len());
        self.payloads.clear();
        for gathered in group {
            if gathered.batches.is_empty() {
                gathered.answer(&Ok(()));
                continue;
            }
            match self.merge(&gathered.batches) {
                Ok((batch, payload)) => encoded.push((gathered, batch, payload)),
                Err(cause) => {
                    error!(tenant = %gathered.tenant, error = %cause, "cannot encode a log record");
                    let message = "the request cannot be written to the log";
                    gathered.answer(&Err(Error::new(ErrorKind::Internal, message).with_source(cause)));
                }
            }
        }
        // All of them were retries of what is stored: there is nothing to write, and no sync to measure.
        if encoded.is_empty() {
            return;
        }
        let records: Vec<NewRecord<'_>> = encoded
            .iter()
            .map(|(gathered, _, payload)| NewRecord {
                tenant: &gathered.tenant,
                received_unix_nano: gathered.received_unix_nano,
                digests: &gathered.digests,
                payload: &self.payloads[payload.clone()],
            })
            .collect();
        match self.log.append_group(&records) {
            Ok(appended) => {
                self.metrics.wal_sync_seconds.observe(appended.sync_duration.as_secs_f64());
                self.observe_size();
                self.log_load.set_refusing(false);
                for ((gathered, batch, _), number) in encoded.into_iter().zip(appended.numbers) {
                    if self.is_settled {
                        self.live.push(&gathered.tenant, number, batch, gathered.received_unix_nano);
                    }
                    for digest in &gathered.digests {
                        self.dedup.insert(&gathered.tenant, *digest, gathered.received_unix_nano);
                    }
                    gathered.answer(&Ok(()));
                }
            }
            Err(cause) => {
                self.log_load.set_refusing(matches!(cause, WalError::Full { .. }));
                self.metrics.wal_failures.inc();
                error!(error = %cause, "cannot append to the log");
                let result = Err(refusal(cause));
                for (gathered, ..) in encoded {
                    gathered.answer(&result);
                }
            }
        }
    }

    fn settle(&mut self, cuts: Cuts) {
        for (tenant, through) in cuts {
            self.cut(&tenant, through);
        }
        self.is_settled = true;
        self.live.set_settled();
    }

    fn cut(&mut self, tenant: &TenantId, through: RecordNumber) {
        self.dedup.expire(self.clock.now_unix_nano());
        let dedup = &self.dedup;
        // The records are in the table; those that stay in the log are skipped when it is replayed.
        if let Err(cause) = self.log.cut(tenant, through, || carried(dedup)) {
            self.metrics.wal_failures.inc();
            warn!(%tenant, %through, error = %cause, "cannot cut the log");
        }
        self.observe_size();
    }

    /// The batches of a record as one, and where its payload is among those of the group.
    fn merge(&mut self, batches: &[SpanBatch]) -> Result<(SpanBatch, Range<usize>), RecordError> {
        let batch = SpanBatch::concat(batches)?;
        let payload = self.encoder.encode(&batch, &mut self.payloads)?;
        Ok((batch, payload))
    }

    fn observe_size(&self) {
        let bytes = self.log.bytes();
        self.metrics.wal_bytes.set(bytes.cast_signed());
        self.log_load.set(bytes);
    }
}

/// What the log has to remember when it forgets the records that said so.
pub(super) fn carried(dedup: &DedupWindow) -> Vec<CarriedDigest> {
    dedup
        .iter()
        .map(|(received_unix_nano, tenant, digest)| CarriedDigest {
            tenant: tenant.clone(),
            digest,
            received_unix_nano,
        })
        .collect()
}

/// Any failure of the log means "retry"; a record that can never fit does not.
fn refusal(cause: WalError) -> Error {
    let error = Error::from(cause);
    match error.kind() {
        ErrorKind::Unavailable => error.with_retry_after(RETRY_AFTER),
        _ => error,
    }
}

/// The same error for one more waiter; the source stays with the log line.
fn copy(error: &Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable => unavailable(error.message().to_owned()),
        kind => Error::new(kind, error.message().to_owned()),
    }
}
