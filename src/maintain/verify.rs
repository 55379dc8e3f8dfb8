//! Does a table hold what it says it holds, and nothing that was deleted?
//!
//! Everything that can be checked is checked against something else: a file's bytes against the checksum and the size in the
//! table's log, its rows against the counts and ranges there and against the lists in its own footer, its columns against
//! those that the table declares, files on disk against the table, and files and buffered spans against the tombstones.
//! Reading the write-ahead log and the table's log checks those by their own checksums and rules.
//!
//! A problem does not end the check: the report lists all of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use bytes::Bytes;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{
    sweep::is_data_file,
    tombstone::{self, Tombstone},
};
use crate::{
    catalog::{Catalog, LiveFile, Snapshot},
    error::Result,
    live::Live,
    model::{
        attributes::AttributeScope,
        keys::{AttributeKeys, TypeSet},
        schema::column,
        tenant::TenantId,
    },
    query::QueryEngine,
    storage::{
        footer::{KEYS_METADATA, SORT_METADATA, VERSION_METADATA},
        order::date_of,
        writer::FORMAT_VERSION,
    },
};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8_192;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the table, or what else.
    pub place: String,
    /// What is wrong with it.
    pub message: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files that were read.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files in no table that wait for the sweep.
    pub garbage_files: usize,
    /// Spans in the log that are in no file yet.
    pub buffered_spans: usize,
    /// Deletions that were checked.
    pub tombstones: usize,
    /// What is wrong; nothing if all is well.
    pub problems: Vec<Problem>,
}

/// Checks tables.
#[derive(Debug)]
pub struct Verifier {
    catalog: Arc<Catalog>,
    engine: Arc<QueryEngine>,
    live: Arc<Live>,
}

impl Verifier {
    /// A verifier of the tables of `catalog`, and of what `live` buffers for them.
    pub fn new(catalog: Arc<Catalog>, engine: Arc<QueryEngine>, live: Arc<Live>) -> Self {
        Self { catalog, engine, live }
    }

    /// Checks one table.
    ///
    /// # Errors
    /// Only what keeps the check from going on: the store fails, or the table's log cannot be read.
    pub async fn verify(&self, tenant: &TenantId) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let table = self.catalog.table(tenant).await?;
        let view = self.live.view(tenant).await?;
        let snapshot = table.refresh().await?;
        let store = self.catalog.store();
        for file in snapshot.files() {
            report.files += 1;
            let problem = |message: String| Problem { place: file.path.to_string(), message };
            let Some(bytes) = store.get(&file.location).await? else {
                report.problems.push(problem("is live and not in the store".to_owned()));
                continue;
            };
            report.bytes += bytes.len() as u64;
            let (checked, known, declared) = (Arc::clone(file), bytes, declared_columns(&snapshot));
            let look = move || FileCheck::new(&checked, declared).run(&known);
            let outcome = tokio::task::spawn_blocking(look).await;
            let (rows, messages) = outcome.unwrap_or_else(|_| (0, vec!["its check ended early".to_owned()]));
            report.rows += rows;
            report.problems.extend(messages.into_iter().map(problem));
        }
        let live: HashSet<_> = snapshot.files().map(|file| &file.location).collect();
        let mut objects = store.list(table.folder().path());
        while let Some(object) = objects.try_next().await? {
            let is_garbage = is_data_file(table.folder(), &object.location) && !live.contains(&object.location);
            report.garbage_files += usize::from(is_garbage);
        }
        report.buffered_spans = view.buffered().map(|batch| batch.num_spans()).sum();
        let tombstones = tombstone::list(store, tenant).await?;
        report.tombstones = tombstones.len();
        for tombstone in &tombstones {
            self.check_deleted(&snapshot, tombstone, &mut report).await?;
            for batch in view.buffered() {
                let spans = self.engine.count_matches(batch, &tombstone.filter, tombstone.range()).await?;
                if spans > 0 {
                    let message =
                        format!("{spans} spans match deletion {}, and go soon after the next flush", tombstone.id);
                    report.problems.push(Problem { place: "log".to_owned(), message });
                }
            }
        }
        Ok(report)
    }

    async fn check_deleted(&self, snapshot: &Snapshot, tombstone: &Tombstone, report: &mut VerifyReport) -> Result<()> {
        for file in snapshot.files().filter(|file| file.can_hold(tombstone.range())) {
            let message = match self.engine.matching_rows(file, &tombstone.filter, tombstone.range()).await {
                Ok(None) => continue,
                Ok(Some(hits)) => format!("{} spans match deletion {}", hits.count_set_bits(), tombstone.id),
                Err(error) => format!("cannot be searched for deletion {}: {error}", tombstone.id),
            };
            report.problems.push(Problem { place: file.path.to_string(), message });
        }
        Ok(())
    }
}

/// Names of the columns that the table declares.
fn declared_columns(snapshot: &Snapshot) -> BTreeSet<String> {
    let columns = snapshot.schema().map(|schema| schema.columns()).unwrap_or_default();
    columns.iter().map(|column| column.name.clone()).collect()
}

/// The check of one file.
struct FileCheck<'a> {
    file: &'a LiveFile,
    declared: BTreeSet<String>,
    problems: Vec<String>,
    rows: u64,
    ranges: BTreeMap<&'static str, (i64, i64)>,
    days: BTreeSet<i32>,
    traces: HashSet<u128>,
    last_trace: Option<u128>,
    split_traces: u64,
    unlisted: BTreeSet<String>,
}

impl<'a> FileCheck<'a> {
    fn new(file: &'a LiveFile, declared: BTreeSet<String>) -> Self {
        Self {
            file,
            declared,
            problems: Vec::new(),
            rows: 0,
            ranges: BTreeMap::new(),
            days: BTreeSet::new(),
            traces: HashSet::new(),
            last_trace: None,
            split_traces: 0,
            unlisted: BTreeSet::new(),
        }
    }

    /// Rows of the file, and what is wrong with it.
    fn run(mut self, bytes: &Bytes) -> (u64, Vec<String>) {
        self.problems.extend(self.file.differences(bytes.len() as u64, crc32c::crc32c(bytes)));
        match ParquetRecordBatchReaderBuilder::try_new(bytes.clone()) {
            Err(error) => self.problems.push(format!("cannot be read: {error}")),
            Ok(builder) => {
                let entries = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
                let footer: BTreeMap<String, String> =
                    entries.into_iter().filter_map(|entry| Some((entry.key, entry.value?))).collect();
                for field in builder.schema().fields() {
                    if !self.declared.contains(field.name()) {
                        self.problems.push(format!("has column {}, which the table does not declare", field.name()));
                    }
                }
                match builder.with_batch_size(BATCH_ROWS).build() {
                    Err(error) => self.problems.push(format!("cannot be read: {error}")),
                    Ok(reader) => self.read(reader, &footer),
                }
            }
        }
        (self.rows, self.problems)
    }

    fn read(&mut self, reader: ParquetRecordBatchReader, footer: &BTreeMap<String, String>) {
        let version = footer.get(VERSION_METADATA).map(|text| text.parse::<u32>());
        if let Some(version) = version
            && !version.as_ref().is_ok_and(|version| *version <= FORMAT_VERSION)
        {
            self.problems.push(format!("has layout {version:?}, this release reads up to {FORMAT_VERSION}"));
        }
        let keys = footer.get(KEYS_METADATA).and_then(|json| AttributeKeys::from_json(json));
        if footer.contains_key(KEYS_METADATA) && keys.is_none() {
            self.problems.push("has a list of attributes that cannot be read".to_owned());
        }
        for batch in reader {
            match batch {
                Ok(batch) => self.add(&batch, keys.as_ref()),
                Err(error) => {
                    self.problems.push(format!("cannot be read after {} rows: {error}", self.rows));
                    return;
                }
            }
        }
        self.compare(footer.contains_key(SORT_METADATA));
    }

    fn add(&mut self, batch: &RecordBatch, keys: Option<&AttributeKeys>) {
        self.rows += batch.num_rows() as u64;
        for name in [column::START_TIME, column::DURATION] {
            let Some(values) = batch.column_by_name(name).and_then(|values| values.as_primitive_opt::<Int64Type>())
            else {
                continue;
            };
            for value in values.values() {
                let range = self.ranges.entry(name).or_insert((*value, *value));
                *range = (range.0.min(*value), range.1.max(*value));
                if name == column::START_TIME {
                    self.days.insert(date_of(*value));
                }
            }
        }
        if let Some(ids) = batch.column_by_name(column::TRACE_ID).and_then(|ids| ids.as_fixed_size_binary_opt()) {
            for id in ids.iter().flatten() {
                let trace = id.iter().fold(0, |id, byte| id << 8 | u128::from(*byte));
                if self.last_trace != Some(trace) && !self.traces.insert(trace) {
                    self.split_traces += 1;
                }
                self.last_trace = Some(trace);
            }
        }
        let Some(keys) = keys else { return };
        for scope in [AttributeScope::Resource, AttributeScope::Scope, AttributeScope::Span] {
            let map = scope.map_column().and_then(|name| batch.column_by_name(name)?.as_map_opt());
            let Some(map) = map else { continue };
            for key in map.keys().as_string::<i32>().iter().flatten() {
                if keys.residual(scope, key) == TypeSet::NONE && self.unlisted.len() < 10 {
                    self.unlisted.insert(format!("{}.{key}", scope.prefix()));
                }
            }
        }
    }

    /// Compares what was read with what the table says.
    fn compare(&mut self, is_sorted: bool) {
        if let Some(statistics) = &self.file.statistics {
            if statistics.rows != self.rows {
                self.problems.push(format!("has {} rows, the table says {}", self.rows, statistics.rows));
            }
            for (name, (min, max)) in &self.ranges {
                let Some((least, greatest)) = statistics.int_range(name) else { continue };
                if *min < least || *max > greatest {
                    let message = format!("has {name} from {min} to {max}, the table says from {least} to {greatest}");
                    self.problems.push(message);
                }
            }
        }
        if let Some(date) = self.file.date {
            let day = i32::try_from((date - chrono::NaiveDate::default()).num_days()).unwrap_or(i32::MAX);
            if self.days.iter().any(|found| *found != day) {
                self.problems.push(format!("has spans that do not start on {date}"));
            }
        }
        if is_sorted && self.split_traces > 0 {
            self.problems.push(format!("is said to be sorted and has {} traces in pieces", self.split_traces));
        }
        if !self.unlisted.is_empty() {
            let names = self.unlisted.iter().cloned().collect::<Vec<_>>().join(", ");
            self.problems.push(format!("has attributes that its list lacks: {names}"));
        }
    }
}
