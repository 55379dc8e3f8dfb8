//! The committer: the one thread that owns the log.
//!
//! It takes what waits in the queue as a group, merges the batches of each tenant into one record, appends and syncs
//! the group, makes its records visible, and acknowledges. The order is the promise: nothing is visible or
//! acknowledged before it is synced, and what is acknowledged is visible.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::{
    RETRY_AFTER, WriteOutcome, WriteRequest,
    dedup::{DedupWindow, Digest},
    log_load::LogLoad,
    record::{Encoder, RecordError},
    unavailable,
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind, Result},
    live::Live,
    metrics::Metrics,
    model::{batch::SpanBatch, tenant::TenantId},
    wal::{CarriedDigest, Log, NewRecord, RecordNumber, WalError},
};

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
    /// Answer when everything before has been answered.
    Barrier(oneshot::Sender<()>),
    /// Close the log and end.
    Close(oneshot::Sender<Result<()>>),
}

#[derive(Debug)]
pub(super) struct Committer {
    pub(super) log: Log,
    pub(super) log_load: Arc<LogLoad>,
    pub(super) live: Arc<Live>,
    pub(super) dedup: DedupWindow,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) group_bytes_max: usize,
    pub(super) encoder: Encoder,
    /// The payloads of the group that is being committed, one after the other.
    pub(super) payloads: Vec<u8>,
}

/// The requests of one tenant within a group.
#[derive(Debug, Default)]
struct TenantGroup {
    batches: Vec<SpanBatch>,
    digests: Vec<Digest>,
    received_unix_nano: i64,
    acks: Vec<(oneshot::Sender<Result<WriteOutcome>>, WriteOutcome)>,
}

impl TenantGroup {
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
    fn gather(
        &mut self,
        first: Pending,
        commands: &mut mpsc::Receiver<Command>,
    ) -> (BTreeMap<TenantId, TenantGroup>, Option<Command>) {
        let mut groups: BTreeMap<TenantId, TenantGroup> = BTreeMap::new();
        let mut in_group: HashMap<TenantId, Vec<Digest>> = HashMap::new();
        let now = self.clock.now_unix_nano();
        self.dedup.expire(now);
        let mut bytes = 0;
        let mut pending = first;
        loop {
            let Pending { tenant, request, ack } = pending;
            let earlier = in_group.entry(tenant.clone()).or_default();
            let duplicate = self.dedup.contains(&tenant, request.digest, now) || earlier.contains(&request.digest);
            let group = groups.entry(tenant).or_default();
            group.acks.push((ack, WriteOutcome { duplicate }));
            if !duplicate {
                bytes += request.batch.memory_bytes();
                if group.batches.is_empty() {
                    group.received_unix_nano = request.received_unix_nano;
                }
                group.batches.push(request.batch);
                group.digests.push(request.digest);
                earlier.push(request.digest);
            }
            if bytes >= self.group_bytes_max {
                return (groups, None);
            }
            match commands.try_recv() {
                Ok(Command::Write(next)) => pending = next,
                Ok(other) => return (groups, Some(other)),
                Err(_) => return (groups, None),
            }
        }
    }

    fn commit(&mut self, groups: BTreeMap<TenantId, TenantGroup>) {
        let mut encoded = Vec::with_capacity(groups.len());
        self.payloads.clear();
        for (tenant, group) in groups {
            if group.batches.is_empty() {
                group.answer(&Ok(()));
                continue;
            }
            match self.merge(&group.batches) {
                Ok((batch, payload)) => encoded.push((tenant, group, batch, payload)),
                Err(cause) => {
                    error!(%tenant, error = %cause, "cannot encode a log record");
                    let message = "the request cannot be written to the log";
                    group.answer(&Err(Error::new(ErrorKind::Internal, message).with_source(cause)));
                }
            }
        }
        // All of them were retries of what is stored: there is nothing to write, and no sync to measure.
        if encoded.is_empty() {
            return;
        }
        let records: Vec<NewRecord<'_>> = encoded
            .iter()
            .map(|(tenant, group, _, payload)| NewRecord {
                tenant,
                received_unix_nano: group.received_unix_nano,
                digests: &group.digests,
                payload: &self.payloads[payload.clone()],
            })
            .collect();
        match self.log.append_group(&records) {
            Ok(appended) => {
                self.metrics.wal_sync_seconds.observe(appended.sync_duration.as_secs_f64());
                self.observe_size();
                self.log_load.set_refusing(false);
                for ((tenant, group, batch, _), number) in encoded.into_iter().zip(appended.numbers) {
                    self.live.push(&tenant, number, batch, group.received_unix_nano);
                    for digest in &group.digests {
                        self.dedup.insert(&tenant, *digest, group.received_unix_nano);
                    }
                    group.answer(&Ok(()));
                }
            }
            Err(cause) => {
                self.log_load.set_refusing(matches!(cause, WalError::Full { .. }));
                self.metrics.wal_failures.inc();
                error!(error = %cause, "cannot append to the log");
                let result = Err(refusal(cause));
                for (_, group, ..) in encoded {
                    group.answer(&result);
                }
            }
        }
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

    /// The batches of a tenant as one, and where its payload is among those of the group.
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
