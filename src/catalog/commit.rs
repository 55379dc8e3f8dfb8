//! What a commit asks for, whether it can follow a snapshot, and the actions that it becomes.
//!
//! The rules against other writers, checked against every snapshot that the commit is tried on:
//!
//! - A commit that removes files fails if one of them is no longer live: someone else replaced it.
//! - Adding files conflicts with nothing.
//! - A commit whose transaction is not ahead of the table's has been committed before. So has one whose added files are
//!   live and whose removed files are not.
//! - A deletion from a table that someone made append-only fails; replacing files does not.
//! - Columns that the table lacks are added; a column that it has with another type fails the commit.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::FieldRef;
use chrono::{Days, NaiveDate};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    catalog::{
        CatalogError, CatalogSettings, FORMAT_VERSION, FORMAT_VERSION_PROPERTY,
        action::{Action, Add, CommitInfo, MetaData, Protocol, Remove, Txn},
        schema::{Column, TableSchema},
        snapshot::{STATISTICS_COLUMNS_PROPERTY, Snapshot, format_column_list},
        statistics::{ColumnStatistics, FileStatistics},
    },
    model::schema::{column, promoted_field},
    storage::{
        paths::{self, TableFolder},
        trace_filters::{self, TRACES_TAG},
        writer::WrittenFile,
    },
};

/// Most bytes of keys and values in the tags of a file.
pub const TAGS_BYTES_MAX: usize = 1024;

/// The application whose transaction version counts the spans that were dropped because an equal one stays: checkpoints
/// keep it, and every commit that drops some sees the count before it.
pub(super) const DUPLICATES_APP_ID: &str = "tracehouse-duplicates";

/// A change of a table, all or nothing.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Why.
    pub operation: Operation,
    /// Files that become live. They must be durable already.
    pub adds: Vec<NewFile>,
    /// Paths in the log of files that are no longer live.
    pub removes: Vec<Arc<str>>,
    /// How far an application is with this commit.
    pub transaction: Option<Transaction>,
    /// Spans of the removed files that the added ones lack because an equal one stays.
    pub duplicates: u64,
    /// Columns that the added files hold; those that the table does not declare are added to it.
    pub columns: Vec<FieldRef>,
}

/// Why a table changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Spans are added.
    Write,
    /// Files are replaced by others with the same spans.
    Optimize,
    /// Spans are removed.
    Delete,
}

/// A file that becomes live.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Relative to the table's folder, as [`data_file`](crate::storage::paths::data_file) makes it.
    pub path: String,
    /// Its length.
    pub size_bytes: u64,
    /// The UTC day on which all its spans start.
    pub date: NaiveDate,
    /// Of the table's [statistics columns](Snapshot::statistics_columns) at least.
    pub statistics: FileStatistics,
    /// Facts about the file for later readers of the log, at most [`TAGS_BYTES_MAX`].
    pub tags: BTreeMap<String, String>,
}

/// The tag that holds the CRC-32C of a file's bytes, as [`checksum_text`].
pub(super) const CHECKSUM_TAG: &str = "crc32c";

/// A checksum as eight hexadecimal digits.
pub(super) fn checksum_text(crc32c: u32) -> String {
    format!("{crc32c:08x}")
}

impl NewFile {
    /// Describes a file that was written, under a name that tells when.
    pub fn of_written(file: &WrittenFile, now_unix_nano: i64) -> Self {
        let epoch = NaiveDate::default();
        let days = Days::new(u64::from(file.date.unsigned_abs()));
        let date = if file.date < 0 { epoch.checked_sub_days(days) } else { epoch.checked_add_days(days) };
        let date = date.unwrap_or(epoch);
        let ranges = file.ranges.iter();
        let columns = ranges
            .map(|range| (range.column.to_owned(), ColumnStatistics::of_ints(Some((range.min, range.max)), 0)))
            .collect();
        let checksum = checksum_text(crc32c::crc32c(&file.bytes));
        let mut tags = BTreeMap::from([(CHECKSUM_TAG.to_owned(), checksum)]);
        tags.extend(file.traces.iter().map(|bytes| (TRACES_TAG.to_owned(), trace_filters::tag_of(bytes))));
        Self {
            path: paths::data_file(date, paths::file_id(now_unix_nano)),
            size_bytes: file.bytes.len() as u64,
            date,
            statistics: FileStatistics { rows: file.rows as u64, columns },
            tags,
        }
    }
}

/// The columns that some written files hold, for [`Commit::columns`].
pub fn columns_of<'a>(files: impl IntoIterator<Item = &'a WrittenFile>) -> Vec<FieldRef> {
    let promoted = files.into_iter().flat_map(|file| &file.promoted);
    let mut columns: Vec<FieldRef> = promoted.map(|attribute| Arc::new(promoted_field(attribute))).collect();
    columns.sort_by(|a, b| a.name().cmp(b.name()));
    columns.dedup();
    columns
}

/// How far an application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The application: for a flush, the UUID of the write-ahead log.
    pub app_id: String,
    /// Its progress: for a flush, the number of the last record in the added files.
    pub version: i64,
}

/// How a commit ended well.
#[derive(Clone, Debug)]
pub enum CommitOutcome {
    /// It is in the table, by this call.
    Committed(Arc<Snapshot>),
    /// It was in the table before; nothing was written. Files of this call's commit that are not
    /// [live](Snapshot::file) never will be, and can be deleted.
    AlreadyCommitted(Arc<Snapshot>),
}

impl CommitOutcome {
    /// A snapshot that contains the commit.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        match self {
            CommitOutcome::Committed(snapshot) | CommitOutcome::AlreadyCommitted(snapshot) => snapshot,
        }
    }
}

/// What is to be done about a commit, given a snapshot.
#[derive(Debug)]
pub(super) enum Plan {
    /// These actions are to become the next commit.
    Write(Vec<Action>),
    /// It is in the snapshot.
    AlreadyCommitted,
}

/// What the actions of a commit need besides the commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanContext<'a> {
    pub(super) settings: &'a CatalogSettings,
    pub(super) now_unix_milli: i64,
    pub(super) commit_id: &'a str,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Write => "WRITE",
            Operation::Optimize => "OPTIMIZE",
            Operation::Delete => "DELETE",
        }
    }

    fn changes_data(self) -> bool {
        self != Operation::Optimize
    }
}

impl Commit {
    /// A commit that adds files.
    pub fn append(adds: Vec<NewFile>, transaction: Option<Transaction>, columns: Vec<FieldRef>) -> Self {
        Self { operation: Operation::Write, adds, removes: Vec::new(), transaction, duplicates: 0, columns }
    }

    /// A commit that puts files in the place of others with the same spans.
    pub fn replace(removes: Vec<Arc<str>>, adds: Vec<NewFile>, columns: Vec<FieldRef>) -> Self {
        Self { operation: Operation::Optimize, adds, removes, transaction: None, duplicates: 0, columns }
    }

    /// The actions of this commit after `base`.
    pub(super) fn plan(&self, base: &Snapshot, context: PlanContext<'_>) -> Result<Plan, CatalogError> {
        self.check(base.folder())?;
        if self.is_in(base) {
            return Ok(Plan::AlreadyCommitted);
        }
        if let Some(path) = self.removes.iter().find(|path| base.file(path).is_none()) {
            return Err(CatalogError::NotLive { table: base.folder().path().clone(), path: path.to_string() });
        }
        if self.operation == Operation::Delete && base.metadata().is_some_and(|metadata| metadata.is_append_only) {
            let detail = "the table's property delta.appendOnly forbids deletions".to_owned();
            return Err(CatalogError::InvalidCommit { table: base.folder().path().clone(), detail });
        }
        let mut actions = vec![Action::from(self.commit_info(context))];
        let (metadata_actions, statistics_columns) = self.metadata(base, context)?;
        actions.extend(metadata_actions);
        if let Some(Transaction { app_id, version }) = &self.transaction {
            let last_updated = Some(context.now_unix_milli);
            actions.push(Txn { app_id: app_id.clone(), version: *version, last_updated }.into());
        }
        if self.duplicates > 0 {
            let dropped = i64::try_from(self.duplicates).unwrap_or(i64::MAX);
            let version = base.duplicates().cast_signed().saturating_add(dropped);
            let (app_id, last_updated) = (DUPLICATES_APP_ID.to_owned(), Some(context.now_unix_milli));
            actions.push(Txn { app_id, version, last_updated }.into());
        }
        actions.extend(self.removes.iter().filter_map(|path| self.remove(base, path, context)));
        for file in &self.adds {
            actions.push(self.add(base, file, &statistics_columns, context)?.into());
        }
        Ok(Plan::Write(actions))
    }

    fn check(&self, folder: &TableFolder) -> Result<(), CatalogError> {
        let invalid = |detail: String| Err(CatalogError::InvalidCommit { table: folder.path().clone(), detail });
        if self.adds.is_empty() && self.removes.is_empty() && self.transaction.is_none() && self.columns.is_empty() {
            return invalid("it changes nothing".to_owned());
        }
        let mut paths = HashSet::new();
        let all_paths = self.adds.iter().map(|file| file.path.as_str()).chain(self.removes.iter().map(AsRef::as_ref));
        for path in all_paths {
            if !paths.insert(path) {
                return invalid(format!("it names {path} twice"));
            }
        }
        for file in &self.adds {
            let tags_bytes: usize = file.tags.iter().map(|(key, value)| key.len() + value.len()).sum();
            if tags_bytes > TAGS_BYTES_MAX {
                let path = &file.path;
                return invalid(format!("tags of {path} have {tags_bytes} bytes, more than {TAGS_BYTES_MAX}"));
            }
            if !file.path.starts_with(&format!("{}={}/", column::DATE, file.date)) {
                return invalid(format!("{} is not in the folder of its date {}", file.path, file.date));
            }
        }
        Ok(())
    }

    fn is_in(&self, base: &Snapshot) -> bool {
        if let Some(Transaction { app_id, version }) = &self.transaction {
            return base.transaction(app_id).is_some_and(|committed| committed >= *version);
        }
        !self.adds.is_empty()
            && self.adds.iter().all(|file| base.file(&file.path).is_some())
            && self.removes.iter().all(|path| base.file(path).is_none())
    }

    fn commit_info(&self, context: PlanContext<'_>) -> CommitInfo {
        let mut operation_parameters = Map::new();
        if self.operation == Operation::Write {
            operation_parameters.insert("mode".to_owned(), Value::from("Append"));
        }
        CommitInfo {
            timestamp: Some(context.now_unix_milli),
            operation: Some(self.operation.name().to_owned()),
            operation_parameters,
            engine_info: Some(concat!("tracehouse/", env!("CARGO_PKG_VERSION")).to_owned()),
            commit_id: Some(context.commit_id.to_owned()),
        }
    }

    /// The actions that create the table or add columns to it, and the table's statistics columns.
    fn metadata(&self, base: &Snapshot, context: PlanContext<'_>) -> Result<(Vec<Action>, Vec<String>), CatalogError> {
        let Some(metadata) = base.metadata() else {
            let settings = context.settings;
            let mut schema = TableSchema::of_fields(settings.columns.fields().iter().map(AsRef::as_ref))?;
            self.add_columns(&mut schema, base.folder())?;
            let metadata = new_metadata(settings, &schema, context.now_unix_milli);
            let protocol = Protocol { min_reader_version: 1, min_writer_version: 2, ..Protocol::default() };
            return Ok((vec![protocol.into(), metadata.into()], settings.statistics_columns.clone()));
        };
        let mut schema = metadata.schema.clone();
        let mut actions = Vec::new();
        if self.add_columns(&mut schema, base.folder())? {
            let schema_string = serialized(&schema);
            actions.push(MetaData { schema_string, ..metadata.action.clone() }.into());
        }
        Ok((actions, metadata.statistics_columns.clone()))
    }

    fn add_columns(&self, schema: &mut TableSchema, folder: &TableFolder) -> Result<bool, CatalogError> {
        let mut added = false;
        for field in &self.columns {
            let wanted = Column::of_field(field)?;
            match schema.column(&wanted.name) {
                None => {
                    // Files written before do not hold it.
                    schema.push(Column { nullable: true, ..wanted });
                    added = true;
                }
                Some(declared) if declared.name == wanted.name && declared.data_type == wanted.data_type => {}
                Some(declared) => {
                    return Err(CatalogError::ColumnType {
                        table: folder.path().clone(),
                        column: wanted.name.clone(),
                        declared: format!("{} {}", declared.name, declared.data_type),
                        wanted: format!("{} {}", wanted.name, wanted.data_type),
                    });
                }
            }
        }
        Ok(added)
    }

    fn add(
        &self,
        base: &Snapshot,
        file: &NewFile,
        statistics_columns: &[String],
        context: PlanContext<'_>,
    ) -> Result<Add, CatalogError> {
        let invalid = |detail: String| CatalogError::InvalidCommit { table: base.folder().path().clone(), detail };
        let stats = file
            .statistics
            .to_json(statistics_columns)
            .map_err(|missing| invalid(format!("{} has no statistics of column {missing}", file.path)))?;
        let tags = file.tags.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        Ok(Add {
            path: file.path.clone(),
            partition_values: BTreeMap::from([(column::DATE.to_owned(), Some(file.date.to_string()))]),
            size: i64::try_from(file.size_bytes).map_err(|_| invalid(format!("{} is too large", file.path)))?,
            modification_time: context.now_unix_milli,
            data_change: self.operation.changes_data(),
            stats: Some(stats),
            tags: (!file.tags.is_empty()).then_some(tags),
            deletion_vector: None,
        })
    }

    fn remove(&self, base: &Snapshot, path: &str, context: PlanContext<'_>) -> Option<Action> {
        let file = base.file(path)?;
        let remove = Remove {
            path: path.to_owned(),
            deletion_timestamp: Some(context.now_unix_milli),
            data_change: self.operation.changes_data(),
            extended_file_metadata: Some(true),
            partition_values: Some(file.partition_values().clone()),
            size: i64::try_from(file.size_bytes).ok(),
        };
        Some(remove.into())
    }
}

fn new_metadata(settings: &CatalogSettings, schema: &TableSchema, now_unix_milli: i64) -> MetaData {
    let interval = |duration: std::time::Duration| format!("interval {} seconds", duration.as_secs());
    let properties = [
        (FORMAT_VERSION_PROPERTY, FORMAT_VERSION.to_string()),
        (STATISTICS_COLUMNS_PROPERTY, format_column_list(&settings.statistics_columns)),
        ("delta.checkpointInterval", settings.checkpoint_interval_commits.to_string()),
        ("delta.logRetentionDuration", interval(settings.log_retention)),
        ("delta.deletedFileRetentionDuration", interval(settings.deleted_file_retention)),
    ];
    let rest = json!({
        "name": "spans",
        "format": { "provider": "parquet", "options": {} },
        "createdTime": now_unix_milli,
    });
    MetaData {
        id: Uuid::new_v4().to_string(),
        schema_string: serialized(schema),
        partition_columns: vec![column::DATE.to_owned()],
        configuration: properties.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect(),
        rest: rest.as_object().cloned().unwrap_or_default(),
    }
}

fn serialized(schema: &TableSchema) -> String {
    // Names and types are text, which always has a JSON form.
    serde_json::to_string(schema).unwrap_or_default()
}
