//! The lines of a commit, as the public Delta protocol has them.
//!
//! The same types decode commits and, by way of JSON, the rows of a checkpoint. Fields that others may write and that
//! we do not use are ignored in files and transactions; `metaData` keeps them, because we write it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One line of a commit; one field is set, none in a line that does not concern us.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// A file becomes live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    /// A file is no longer live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    /// Schema and properties.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<MetaData>,
    /// What readers and writers must understand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How far an application got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    /// Who committed, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<CommitInfo>,
}

/// A file becomes live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Relative to the table's folder, URL-encoded.
    pub path: String,
    /// Partition column to value.
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Length of the file in bytes.
    pub size: i64,
    /// When the file was written, in milliseconds since the epoch.
    pub modification_time: i64,
    /// Whether rows were added, not only moved.
    pub data_change: bool,
    /// Statistics, as a JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// Facts of ours about the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    /// Present in tables with a feature that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<Value>,
}

/// A file is no longer live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    /// As in the [`Add`].
    pub path: String,
    /// When it was removed, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    /// Whether rows were removed, not only moved.
    #[serde(default)]
    pub data_change: bool,
    /// Whether the next two fields are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    /// As in the [`Add`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    /// As in the [`Add`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
}

/// Schema and properties.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetaData {
    /// The table's UUID.
    pub id: String,
    /// The schema, as a JSON text.
    pub schema_string: String,
    /// Names of the partition columns.
    #[serde(default)]
    pub partition_columns: Vec<String>,
    /// Properties.
    #[serde(default)]
    pub configuration: BTreeMap<String, Option<String>>,
    /// Name, format and whatever else is there.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What readers and writers must understand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// Least version of a reader.
    pub min_reader_version: i32,
    /// Least version of a writer.
    pub min_writer_version: i32,
    /// Features that readers must know, from reader version 3 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    /// Features that writers must know, from writer version 7 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// How far an application got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// The application: for a flush, the UUID of the write-ahead log.
    pub app_id: String,
    /// Its progress: for a flush, the number of the last record in the committed files.
    pub version: i64,
    /// When, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// Who committed, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// When, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// `WRITE`, `OPTIMIZE`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Details for people.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub operation_parameters: Map<String, Value>,
    /// The committing program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<String>,
    /// Ours: by this a committer knows its own commit again when the store did not say whether it landed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_id: Option<String>,
}

impl From<Add> for Action {
    fn from(add: Add) -> Self {
        Action { add: Some(add), ..Action::default() }
    }
}

impl From<Remove> for Action {
    fn from(remove: Remove) -> Self {
        Action { remove: Some(remove), ..Action::default() }
    }
}

impl From<MetaData> for Action {
    fn from(meta_data: MetaData) -> Self {
        Action { meta_data: Some(meta_data), ..Action::default() }
    }
}

impl From<Protocol> for Action {
    fn from(protocol: Protocol) -> Self {
        Action { protocol: Some(protocol), ..Action::default() }
    }
}

impl From<Txn> for Action {
    fn from(txn: Txn) -> Self {
        Action { txn: Some(txn), ..Action::default() }
    }
}

impl From<CommitInfo> for Action {
    fn from(commit_info: CommitInfo) -> Self {
        Action { commit_info: Some(commit_info), ..Action::default() }
    }
}

/// Encodes a commit: one action per line.
pub fn encode(actions: &[Action]) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(actions.len() * 512);
    for action in actions {
        serde_json::to_writer(&mut bytes, action)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Decodes a commit.
pub fn decode(bytes: &[u8]) -> serde_json::Result<Vec<Action>> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
        .map(serde_json::from_slice)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_do_not_concern_us_are_skipped_and_unknown_fields_ignored() {
        let text = r#"{"domainMetadata":{"domain":"x"}}
{"add":{"path":"a","partitionValues":{"date":null},"size":1,"modificationTime":2,"dataChange":true,"baseRowId":7}}

{"txn":{"appId":"x","version":3}}"#;
        let actions = decode(text.as_bytes()).unwrap();
        assert_eq!(actions.len(), 3);
        assert_eq!(actions[1].add.as_ref().unwrap().partition_values["date"], None);
        assert_eq!(actions[2].txn.as_ref().unwrap().version, 3);
        assert!(decode(b"{\"add\":{\"path\":").is_err());
    }

    #[test]
    fn metadata_written_again_keeps_what_others_put_there() {
        let line = r#"{"metaData":{"id":"1","schemaString":"{}","partitionColumns":[],"configuration":{},"format":{"options":{},"provider":"parquet"},"name":"n"}}"#;
        let encoded = encode(&decode(line.as_bytes()).unwrap()).unwrap();
        let (before, after): (Value, Value) =
            (serde_json::from_str(line).unwrap(), serde_json::from_slice(&encoded).unwrap());
        assert_eq!(before, after);
    }
}
