//! The data folder that a command works on, for commands that need it for themselves.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;

use super::settings::{SourceArgs, flag};
use crate::{
    clock::SystemClock,
    config::Settings,
    error::Error,
    model::tenant::TenantId,
    server::{LocalFolder, OwnedFolder},
    wal::WalError,
};

/// What to do instead of reading a folder that a server has open.
pub(super) const READ_BESIDE_A_SERVER: &str =
    "stop it first, ask it with SQL (system.files, system.columns), or read a backup";

/// Which folder.
#[derive(Args, Debug)]
pub(super) struct FolderArgs {
    /// Data folder, without it the one of the settings; no server may have it open.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    #[command(flatten)]
    sources: SourceArgs,
}

impl FolderArgs {
    /// The settings with this folder.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let flags = self.data.iter().map(|folder| flag("--data", "data", folder)).collect();
        Ok(self.sources.load(flags)?.settings().clone())
    }

    /// Opens the folder to read it; `instead` is what to do if a server has it open.
    pub(super) async fn open(&self, instead: &str) -> anyhow::Result<LocalFolder> {
        let opened = Box::pin(LocalFolder::open(&self.settings()?, Arc::new(SystemClock))).await;
        opened.map_err(|error| in_use(error, instead))
    }

    /// Opens the folder to change it; `instead` is what to do if a server has it open.
    pub(super) async fn own(&self, instead: &str) -> anyhow::Result<OwnedFolder> {
        let opened = Box::pin(OwnedFolder::open(&self.settings()?, Arc::new(SystemClock))).await;
        opened.map_err(|error| in_use(error, instead))
    }
}

/// The error of a folder that could not be opened. If somebody else has it open, that is most likely a server, and the error
/// says what to do `instead`.
pub(super) fn in_use(error: Error, instead: &str) -> anyhow::Error {
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    let Some(WalError::Locked { dir }) = source else { return error.into() };
    let folder = dir.parent().unwrap_or(dir).display();
    anyhow!("a tracehouse server, or another command, has the folder {folder} open; {instead}")
}

/// Runs a command's work to its end.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(work)
}

/// The tenant of this name, or the only one.
pub(super) fn tenant(name: Option<&str>) -> anyhow::Result<TenantId> {
    Ok(name.map_or(Ok(TenantId::single()), TenantId::parse)?)
}
