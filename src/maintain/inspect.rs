//! What is in a table, for people: the table, its files, its columns, and the log before it. Everything comes from the
//! catalogue, the footers and the frames of the log; no row is read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array},
    error::ArrowError,
};
use chrono::{DateTime, SecondsFormat};

use super::merge::{Keep, input::Input};
use crate::{
    catalog::Catalog,
    error::{Error, ErrorKind, Result},
    ingest::ReadOnly,
    live::{Live, flushed_through},
    model::{schema::CORE_COLUMNS, tenant::TenantId},
    wal::Record,
};

/// A look at the tables of a catalogue.
#[derive(Debug)]
pub struct Inspector {
    catalog: Arc<Catalog>,
    live: Arc<Live>,
}

impl Inspector {
    /// Looks at the tables of `catalog`, and at what `live` buffers for them.
    pub fn new(catalog: Arc<Catalog>, live: Arc<Live>) -> Self {
        Self { catalog, live }
    }

    /// One row per tenant: files, rows, bytes, times, and what is in the log only.
    pub async fn tables(&self) -> Result<RecordBatch> {
        let mut tenants = self.catalog.tenants().await?;
        tenants.extend(self.live.loads().into_iter().map(|(tenant, _)| tenant));
        tenants.sort_unstable();
        tenants.dedup();
        let mut snapshots = Vec::new();
        let mut buffered = Vec::new();
        for tenant in &tenants {
            snapshots.push(self.catalog.table(tenant).await?.snapshot());
            let view = self.live.view(tenant).await?;
            buffered.push(view.buffered().map(|batch| batch.num_spans() as u64).sum::<u64>());
        }
        let starts = |first: bool| {
            let of_snapshot = snapshots.iter().map(move |snapshot| {
                let ranges = snapshot.files().filter_map(|file| file.start_range_unix_nano());
                let edge = if first { ranges.map(|range| range.0).min() } else { ranges.map(|range| range.1).max() };
                edge.map(moment)
            });
            Arc::new(StringArray::from_iter(of_snapshot)) as ArrayRef
        };
        let numbers = |values: Vec<u64>| Arc::new(UInt64Array::from(values)) as ArrayRef;
        batch([
            ("tenant", Arc::new(StringArray::from_iter_values(tenants.iter().map(TenantId::as_str)))),
            ("version", Arc::new(UInt64Array::from_iter(snapshots.iter().map(|snapshot| snapshot.version())))),
            ("files", numbers(snapshots.iter().map(|snapshot| snapshot.files().len() as u64).collect())),
            ("spans", numbers(snapshots.iter().map(|snapshot| snapshot.rows()).collect())),
            ("bytes", numbers(snapshots.iter().map(|snapshot| snapshot.size_bytes()).collect())),
            ("first_start", starts(true)),
            ("last_start", starts(false)),
            ("spans_in_log", numbers(buffered)),
            ("duplicates_dropped", numbers(snapshots.iter().map(|snapshot| snapshot.duplicates()).collect())),
        ])
    }

    /// One row per live file of a tenant.
    pub async fn files(&self, tenant: &TenantId) -> Result<RecordBatch> {
        let snapshot = self.catalog.table(tenant).await?.snapshot();
        let files = || snapshot.files();
        let start = |last: bool| {
            let of_file = files().map(move |file| {
                let (min, max) = file.start_range_unix_nano()?;
                Some(moment(if last { max } else { min }))
            });
            Arc::new(StringArray::from_iter(of_file)) as ArrayRef
        };
        batch([
            ("path", Arc::new(StringArray::from_iter_values(files().map(|file| &*file.path)))),
            ("spans", Arc::new(UInt64Array::from_iter(files().map(|file| file.rows())))),
            ("bytes", Arc::new(UInt64Array::from_iter_values(files().map(|file| file.size_bytes)))),
            ("first_start", start(false)),
            ("last_start", start(true)),
        ])
    }

    /// One row per tenant with records in the write-ahead log: how many, which, and up to which one its table has them.
    pub async fn log(&self, log: &ReadOnly) -> Result<RecordBatch> {
        let mut of_tenant: BTreeMap<TenantId, LogPart> = BTreeMap::new();
        for record in log.records() {
            let record = record?;
            let part = of_tenant.entry(record.tenant.clone()).or_insert_with(|| LogPart::new(&record));
            part.records += 1;
            part.bytes += record.payload.len() as u64;
            part.last = part.last.max(record.number.get());
            part.oldest_unix_nano = part.oldest_unix_nano.min(record.received_unix_nano);
            part.newest_unix_nano = part.newest_unix_nano.max(record.received_unix_nano);
        }
        for (tenant, part) in &mut of_tenant {
            let snapshot = self.catalog.table(tenant).await?.snapshot();
            part.stored = flushed_through(&snapshot, self.live.log()).get();
        }
        let parts = || of_tenant.values();
        let numbers = |of: fn(&LogPart) -> u64| Arc::new(UInt64Array::from_iter_values(parts().map(of))) as ArrayRef;
        let moments = |of: fn(&LogPart) -> i64| {
            Arc::new(StringArray::from_iter_values(parts().map(|part| moment(of(part))))) as ArrayRef
        };
        batch([
            ("tenant", Arc::new(StringArray::from_iter_values(of_tenant.keys().map(TenantId::as_str)))),
            ("records", numbers(|part| part.records)),
            ("bytes", numbers(|part| part.bytes)),
            ("first_number", numbers(|part| part.first)),
            ("last_number", numbers(|part| part.last)),
            ("stored_through", numbers(|part| part.stored)),
            ("oldest_received", moments(|part| part.oldest_unix_nano)),
            ("newest_received", moments(|part| part.newest_unix_nano)),
        ])
    }

    /// One row per column of a tenant's files, the largest first: its bytes, its share, and whether it is a promoted
    /// attribute.
    pub async fn columns(&self, tenant: &TenantId) -> Result<RecordBatch> {
        let snapshot = self.catalog.table(tenant).await?.snapshot();
        let mut columns: BTreeMap<String, ColumnSize> = BTreeMap::new();
        for file in snapshot.files() {
            let input = Input::open(self.catalog.store(), Arc::clone(file), Keep::All).await?;
            for group in input.metadata().row_groups() {
                for leaf in group.columns() {
                    let Some(name) = leaf.column_path().parts().first() else { continue };
                    let size = columns.entry(name.clone()).or_default();
                    size.encoded_bytes += leaf.compressed_size().max(0).unsigned_abs();
                    size.decoded_bytes += leaf.uncompressed_size().max(0).unsigned_abs();
                }
            }
            for field in input.schema().fields() {
                let size = columns.entry(field.name().clone()).or_default();
                size.files += 1;
                size.data_type = field.data_type().to_string();
            }
        }
        let mut columns: Vec<(String, ColumnSize)> = columns.into_iter().collect();
        columns.sort_by_key(|(name, size)| (std::cmp::Reverse(size.encoded_bytes), name.clone()));
        let all: u64 = columns.iter().map(|(_, size)| size.encoded_bytes).sum();
        let is_core = |name: &str| CORE_COLUMNS.iter().any(|core| core.field.name() == name);
        let share = |size: &ColumnSize| (size.encoded_bytes as f64 / all.max(1) as f64 * 1e4).round() / 1e4;
        let sizes = || columns.iter().map(|(_, size)| size);
        batch([
            ("column", Arc::new(StringArray::from_iter_values(columns.iter().map(|(name, _)| name)))),
            ("type", Arc::new(StringArray::from_iter_values(sizes().map(|size| short_type(&size.data_type))))),
            (
                "promoted",
                Arc::new(BooleanArray::from(columns.iter().map(|(name, _)| !is_core(name)).collect::<Vec<_>>())),
            ),
            ("files", Arc::new(Int64Array::from_iter_values(sizes().map(|size| size.files)))),
            ("bytes", Arc::new(UInt64Array::from_iter_values(sizes().map(|size| size.encoded_bytes)))),
            ("share", Arc::new(Float64Array::from_iter_values(sizes().map(share)))),
            ("decoded_bytes", Arc::new(UInt64Array::from_iter_values(sizes().map(|size| size.decoded_bytes)))),
        ])
    }
}

/// What the log has of one tenant.
#[derive(Debug)]
struct LogPart {
    records: u64,
    bytes: u64,
    first: u64,
    last: u64,
    stored: u64,
    oldest_unix_nano: i64,
    newest_unix_nano: i64,
}

impl LogPart {
    fn new(first: &Record) -> Self {
        let (number, received) = (first.number.get(), first.received_unix_nano);
        Self {
            records: 0,
            bytes: 0,
            first: number,
            last: number,
            stored: 0,
            oldest_unix_nano: received,
            newest_unix_nano: received,
        }
    }
}

#[derive(Debug, Default)]
struct ColumnSize {
    data_type: String,
    files: i64,
    encoded_bytes: u64,
    decoded_bytes: u64,
}

/// The outermost word of a type.
fn short_type(data_type: &str) -> &str {
    data_type.split(['(', '<', ' ']).next().unwrap_or(data_type)
}

pub(super) fn moment(unix_nano: i64) -> String {
    DateTime::from_timestamp_nanos(unix_nano).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch> {
    RecordBatch::try_from_iter(columns).map_err(|cause: ArrowError| {
        Error::new(ErrorKind::Internal, "cannot make a table of what was found").with_source(cause)
    })
}
