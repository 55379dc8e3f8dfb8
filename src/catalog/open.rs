//! Opening a table: its newest checkpoint and the commits after it become a snapshot.
//!
//! The kernel finds the checkpoint (of any of Delta's kinds) and reads the rows of checkpoint and commits, newest first.
//! What is replayed from them is ours: its own scan knows no tags and looks transactions up one by one.

use std::collections::HashSet;

use arrow::{array::RecordBatch, json::LineDelimitedWriter};
use delta_kernel::{
    KernelError, KernelResult, Snapshot as KernelSnapshot, actions::get_commit_schema,
    engine::arrow_data::ArrowEngineData,
};

use crate::{
    catalog::{
        CatalogError,
        action::{self, Action},
        kernel::{self, KernelEngine},
        log,
        snapshot::Snapshot,
    },
    storage::{paths::TableFolder, store::Store},
};

/// The actions that make up a table's state.
const REPLAYED: [&str; 5] = ["add", "remove", "metaData", "protocol", "txn"];

/// Reads the newest state of a table from the store; a table that does not exist has an empty one.
pub(super) async fn open(store: &Store, folder: &TableFolder) -> Result<Snapshot, CatalogError> {
    let empty = Snapshot::empty(folder.clone());
    if !log::exists(store, folder).await? {
        return Ok(empty);
    }
    let (version, actions) = kernel::run(store, folder, replay).await?;
    empty.apply(version, &actions)
}

fn replay(engine: &KernelEngine, address: &str) -> KernelResult<(u64, Vec<Action>)> {
    let snapshot = KernelSnapshot::builder_for(address).build(engine)?;
    let mut replay = Replay::default();
    for batch in snapshot.log_segment().read_actions(engine, get_commit_schema().project(&REPLAYED)?)? {
        let batch = ArrowEngineData::try_from_engine_data(batch?.actions)?;
        for action in decode(batch.record_batch())? {
            replay.add_older(action);
        }
    }
    Ok((snapshot.version(), replay.actions))
}

/// Decodes rows of actions by way of JSON, so that commits and checkpoints have one decoder.
fn decode(batch: &RecordBatch) -> KernelResult<Vec<Action>> {
    let mut writer = LineDelimitedWriter::new(Vec::with_capacity(batch.num_rows() * 512));
    writer.write(batch).and_then(|()| writer.finish()).map_err(KernelError::generic_err)?;
    action::decode(&writer.into_inner()).map_err(KernelError::generic_err)
}

/// Keeps, of actions that come newest first, those that no newer one overrides.
#[derive(Debug, Default)]
struct Replay {
    actions: Vec<Action>,
    paths: HashSet<String>,
    app_ids: HashSet<String>,
    has_metadata: bool,
    has_protocol: bool,
}

impl Replay {
    fn add_older(&mut self, action: Action) {
        let is_newest = if let Some(add) = &action.add {
            self.paths.insert(add.path.clone())
        } else if let Some(remove) = &action.remove {
            // What it removes is older; it has nothing to add to the state itself.
            self.paths.insert(remove.path.clone());
            false
        } else if let Some(txn) = &action.txn {
            self.app_ids.insert(txn.app_id.clone())
        } else if action.meta_data.is_some() {
            !std::mem::replace(&mut self.has_metadata, true)
        } else if action.protocol.is_some() {
            !std::mem::replace(&mut self.has_protocol, true)
        } else {
            false
        };
        if is_newest {
            self.actions.push(action);
        }
    }
}
