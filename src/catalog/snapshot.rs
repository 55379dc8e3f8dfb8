//! The state of a table after a commit: its live files, how far each application got, its columns.
//!
//! A snapshot never changes; the next one shares all but the difference with it. It is made by applying the actions of
//! commits in order, and the same code applies our own commits, other writers' and a whole replay from a checkpoint.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use imbl::OrdMap;
use object_store::path::Path;

use crate::{
    catalog::{
        CatalogError, FORMAT_VERSION, FORMAT_VERSION_PROPERTY, NewFile,
        action::{Action, Add, MetaData, Protocol},
        commit::{CHECKSUM_TAG, DUPLICATES_APP_ID, checksum_text},
        schema::TableSchema,
        statistics::FileStatistics,
    },
    model::{schema::column, time::TimeRange},
    storage::{
        paths::TableFolder,
        promoter::Declared,
        trace_filters::{self, FilterPlace, TRACES_TAG},
    },
};

/// The property that lists the columns with statistics.
pub(super) const STATISTICS_COLUMNS_PROPERTY: &str = "delta.dataSkippingStatsColumns";

/// Features that change nothing for a writer that only adds and removes whole files of ours.
const HARMLESS_WRITER_FEATURES: [&str; 2] = ["appendOnly", "invariants"];

/// A data file of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveFile {
    /// Its name in the log, relative to the table's folder; the key for replacing it.
    pub path: Arc<str>,
    /// Where it is in the store.
    pub location: Path,
    /// Its length.
    pub size_bytes: u64,
    /// The UTC day on which its spans start; `None` only in files of other writers.
    pub date: Option<NaiveDate>,
    /// Absent only in files of other writers.
    pub statistics: Option<FileStatistics>,
    /// Facts of ours about the file.
    pub tags: BTreeMap<String, String>,
    /// When it was written, in milliseconds since the epoch.
    pub modified_unix_milli: i64,
    partition_values: BTreeMap<String, Option<String>>,
}

impl LiveFile {
    fn of_add(folder: &TableFolder, add: &Add) -> Result<Self, CatalogError> {
        let corrupt = |detail: &str| CatalogError::Corrupt {
            table: folder.path().clone(),
            detail: format!("file {}: {detail}", add.path),
        };
        if add.deletion_vector.is_some() {
            return Err(unsupported(folder, "deletion vectors"));
        }
        // An absolute path or URL would lead out of the tenant's folder.
        if add.path.starts_with('/') || add.path.contains("://") {
            return Err(unsupported(folder, "files outside of its folder"));
        }
        let relative = Path::from_url_path(&add.path).map_err(|_| corrupt("its path is invalid"))?;
        let date = match add.partition_values.get(column::DATE) {
            Some(Some(date)) => Some(date.parse().map_err(|_| corrupt("its date is invalid"))?),
            _ => None,
        };
        let tags = add.tags.iter().flatten();
        Ok(Self {
            path: Arc::from(add.path.as_str()),
            location: Path::from_iter(folder.path().parts().chain(relative.parts())),
            size_bytes: u64::try_from(add.size).map_err(|_| corrupt("its size is negative"))?,
            date,
            statistics: add.stats.as_deref().and_then(FileStatistics::from_json),
            tags: tags.filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect(),
            modified_unix_milli: add.modification_time,
            partition_values: add.partition_values.clone(),
        })
    }

    /// What tells a file of this length and CRC-32C from the one that was written, as in `has 5 bytes instead of 7`. Files of
    /// other writers have no checksum, and are told by their length.
    pub fn differences(&self, size_bytes: u64, crc32c: u32) -> Vec<String> {
        let mut differences = Vec::new();
        if size_bytes != self.size_bytes {
            differences.push(format!("has {size_bytes} bytes instead of {}", self.size_bytes));
        }
        let found = checksum_text(crc32c);
        if let Some(expected) = self.tags.get(CHECKSUM_TAG).filter(|expected| **expected != found) {
            differences.push(format!("has checksum {found} instead of {expected}"));
        }
        differences
    }

    /// A file that a commit will add, before it is in the table.
    pub fn of_new(folder: &TableFolder, file: &NewFile) -> Self {
        Self {
            path: Arc::from(file.path.as_str()),
            location: folder.file(&file.path),
            size_bytes: file.size_bytes,
            date: Some(file.date),
            statistics: Some(file.statistics.clone()),
            tags: file.tags.clone(),
            modified_unix_milli: 0,
            partition_values: BTreeMap::from([(column::DATE.to_owned(), Some(file.date.to_string()))]),
        }
    }

    /// Number of spans, if the statistics are there.
    pub fn rows(&self) -> Option<u64> {
        self.statistics.as_ref().map(|statistics| statistics.rows)
    }

    /// Least and greatest start of a span in Unix nanoseconds, if the statistics are there.
    pub fn start_range_unix_nano(&self) -> Option<(i64, i64)> {
        self.statistics.as_ref()?.int_range(column::START_TIME)
    }

    /// Whether a span in this file can start within `range`.
    pub fn can_hold(&self, range: TimeRange) -> bool {
        self.start_range_unix_nano().is_none_or(|(min, max)| range.overlaps(min, max))
    }

    /// Where the filter of its traces is, if it has one.
    pub fn trace_filter(&self) -> Option<FilterPlace> {
        let bytes = trace_filters::range_of(self.tags.get(TRACES_TAG)?)?;
        (bytes.end <= self.size_bytes).then(|| FilterPlace { file: self.location.clone(), bytes })
    }

    pub(super) fn partition_values(&self) -> &BTreeMap<String, Option<String>> {
        &self.partition_values
    }
}

/// Schema and properties of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableMetadata {
    pub(super) action: MetaData,
    pub(super) schema: TableSchema,
    pub(super) statistics_columns: Vec<String>,
    /// Whether someone forbade deletions (not replacements).
    pub(super) is_append_only: bool,
}

/// The state of a table after a commit. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    folder: TableFolder,
    version: Option<u64>,
    protocol: Option<Arc<Protocol>>,
    metadata: Option<Arc<TableMetadata>>,
    files: OrdMap<Arc<str>, Arc<LiveFile>>,
    transactions: OrdMap<Arc<str>, i64>,
    size_bytes: u64,
    rows: u64,
}

impl Snapshot {
    /// The state of a table before its first commit.
    pub(super) fn empty(folder: TableFolder) -> Self {
        Self {
            folder,
            version: None,
            protocol: None,
            metadata: None,
            files: OrdMap::new(),
            transactions: OrdMap::new(),
            size_bytes: 0,
            rows: 0,
        }
    }

    /// The number of the last commit, `None` for a table that does not exist yet.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// The table's folder.
    pub fn folder(&self) -> &TableFolder {
        &self.folder
    }

    /// The live files in the order of their paths, hence of their days.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Arc<LiveFile>> {
        self.files.values()
    }

    /// The live file with this path in the log.
    pub fn file(&self, path: &str) -> Option<&Arc<LiveFile>> {
        self.files.get(path)
    }

    /// How far an application got: for the UUID of a write-ahead log, the last record that is in files.
    pub fn transaction(&self, app_id: &str) -> Option<i64> {
        self.transactions.get(app_id).copied()
    }

    /// Spans that were dropped from the table in its whole life because an equal one stays.
    pub fn duplicates(&self) -> u64 {
        self.transaction(DUPLICATES_APP_ID).unwrap_or_default().max(0).cast_unsigned()
    }

    /// The columns that the table declares; `None` for a table that does not exist yet.
    pub fn schema(&self) -> Option<&TableSchema> {
        self.metadata.as_ref().map(|metadata| &metadata.schema)
    }

    /// The columns that the table declares, for choosing what its next files have columns for. A rewrite of files takes
    /// [`current`](crate::storage::promoter::current) of it.
    pub fn declared(&self) -> Declared {
        self.schema().map(TableSchema::declared).unwrap_or_default()
    }

    /// The columns whose statistics every file must have; `None` for a table that does not exist yet.
    pub fn statistics_columns(&self) -> Option<&[String]> {
        self.metadata.as_ref().map(|metadata| metadata.statistics_columns.as_slice())
    }

    /// Length of all live files together.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Number of spans in all live files that have statistics.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The number that the next commit will have.
    pub(super) fn next_version(&self) -> u64 {
        self.version.map_or(0, |version| version + 1)
    }

    pub(super) fn metadata(&self) -> Option<&TableMetadata> {
        self.metadata.as_deref()
    }

    /// The state after the commit `version` with these actions, or after all of a replayed log up to it.
    ///
    /// # Errors
    /// A table that this release cannot read or write as a whole is refused as a whole.
    pub(super) fn apply(&self, version: u64, actions: &[Action]) -> Result<Self, CatalogError> {
        let mut next = self.clone();
        next.version = Some(version);
        for action in actions {
            if let Some(protocol) = &action.protocol {
                check_protocol(&self.folder, protocol)?;
                next.protocol = Some(Arc::new(protocol.clone()));
            }
            if let Some(action) = &action.meta_data {
                next.metadata = Some(Arc::new(TableMetadata::of_action(&self.folder, action)?));
            }
            if let Some(remove) = &action.remove {
                next.forget(&remove.path);
            }
            if let Some(add) = &action.add {
                // An add of a live file replaces what was known of it.
                next.forget(&add.path);
                let file = LiveFile::of_add(&self.folder, add)?;
                // Other writers' numbers can be absurd; wrapping keeps sums right once such a file is gone.
                next.size_bytes = next.size_bytes.wrapping_add(file.size_bytes);
                next.rows = next.rows.wrapping_add(file.rows().unwrap_or(0));
                next.files.insert(Arc::clone(&file.path), Arc::new(file));
            }
            if let Some(txn) = &action.txn {
                next.transactions.insert(Arc::from(txn.app_id.as_str()), txn.version);
            }
        }
        if next.metadata.is_none() || next.protocol.is_none() {
            let detail = format!("commit {version} has no schema or protocol before it");
            return Err(CatalogError::Corrupt { table: self.folder.path().clone(), detail });
        }
        Ok(next)
    }

    fn forget(&mut self, path: &str) {
        if let Some(file) = self.files.remove(path) {
            self.size_bytes = self.size_bytes.wrapping_sub(file.size_bytes);
            self.rows = self.rows.wrapping_sub(file.rows().unwrap_or(0));
        }
    }
}

impl TableMetadata {
    fn of_action(folder: &TableFolder, action: &MetaData) -> Result<Self, CatalogError> {
        let property = |name: &str| action.configuration.get(name).and_then(Option::as_deref);
        // A table without the property was made by someone else; it counts as of the first version.
        if let Some(found) = property(FORMAT_VERSION_PROPERTY)
            && !found.parse::<u32>().is_ok_and(|version| version <= FORMAT_VERSION)
        {
            return Err(CatalogError::NewerFormat { table: folder.path().clone(), found: found.to_owned() });
        }
        if action.partition_columns != [column::DATE] {
            return Err(unsupported(folder, &format!("partition columns {:?}", action.partition_columns)));
        }
        if property("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
            return Err(unsupported(folder, "column mapping"));
        }
        let schema = serde_json::from_str(&action.schema_string).map_err(|error| CatalogError::Corrupt {
            table: folder.path().clone(),
            detail: format!("schema: {error}"),
        })?;
        let statistics_columns = property(STATISTICS_COLUMNS_PROPERTY).map(parse_column_list).unwrap_or_default();
        let is_append_only = property("delta.appendOnly") == Some("true");
        Ok(Self { action: action.clone(), schema, statistics_columns, is_append_only })
    }
}

/// Writes a list of column names for a property: dotted names in backticks.
pub(super) fn format_column_list(columns: &[String]) -> String {
    let quoted = columns.iter().map(|name| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain { name.clone() } else { format!("`{}`", name.replace('`', "``")) }
    });
    quoted.collect::<Vec<_>>().join(",")
}

fn parse_column_list(text: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('`') {
            Some(quoted) => quoted.split_once('`').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        columns.push(name.trim().to_owned());
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    columns
}

fn check_protocol(folder: &TableFolder, protocol: &Protocol) -> Result<(), CatalogError> {
    let reader_features = protocol.reader_features.as_deref().unwrap_or_default();
    let writer_features = protocol.writer_features.as_deref().unwrap_or_default();
    if let Some(feature) = reader_features.first() {
        return Err(unsupported(folder, &format!("reader feature {feature}")));
    }
    if let Some(feature) = writer_features.iter().find(|name| !HARMLESS_WRITER_FEATURES.contains(&name.as_str())) {
        return Err(unsupported(folder, &format!("writer feature {feature}")));
    }
    // From reader version 3 and writer version 7 on, the lists above say what is needed.
    if !matches!(protocol.min_reader_version, 1 | 3) {
        return Err(unsupported(folder, &format!("reader version {}", protocol.min_reader_version)));
    }
    if !matches!(protocol.min_writer_version, 1 | 2 | 7) {
        return Err(unsupported(folder, &format!("writer version {}", protocol.min_writer_version)));
    }
    Ok(())
}

fn unsupported(folder: &TableFolder, needed: &str) -> CatalogError {
    CatalogError::UnsupportedTable { table: folder.path().clone(), needed: needed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_lists_are_read_back_as_written() {
        for columns in [vec![], vec!["a"], vec!["span.http.route", "b_1", "c d"]] {
            let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
            assert_eq!(parse_column_list(&format_column_list(&columns)), columns);
        }
        assert_eq!(parse_column_list(" a , `b.c` ,d"), ["a", "b.c", "d"]);
    }

    #[test]
    fn protocols_that_need_more_than_whole_files_are_refused() {
        let folder = TableFolder::of_tenant(&crate::model::tenant::TenantId::single());
        let check = |reader, writer, reader_features: &[&str], writer_features: &[&str]| {
            let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
            let protocol = Protocol {
                min_reader_version: reader,
                min_writer_version: writer,
                reader_features: names(reader_features),
                writer_features: names(writer_features),
            };
            check_protocol(&folder, &protocol).is_ok()
        };
        assert!(check(1, 2, &[], &[]));
        assert!(check(1, 7, &[], &["appendOnly", "invariants"]));
        assert!(!check(1, 7, &[], &["appendOnly", "rowTracking"]));
        assert!(!check(3, 7, &["deletionVectors"], &["deletionVectors"]));
        assert!(!check(2, 5, &[], &[]));
        assert!(!check(4, 7, &[], &[]));
    }
}
