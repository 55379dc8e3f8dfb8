//! The data folder that a command works on, for commands that need it for themselves.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::settings::{SourceArgs, flag};
use crate::{
    clock::SystemClock,
    config::Settings,
    model::tenant::TenantId,
    server::{LocalFolder, OwnedFolder},
};

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

    /// Opens the folder to read it.
    pub(super) async fn open(&self) -> anyhow::Result<LocalFolder> {
        Ok(Box::pin(LocalFolder::open(&self.settings()?, Arc::new(SystemClock))).await?)
    }

    /// Opens the folder to change it.
    pub(super) async fn own(&self) -> anyhow::Result<OwnedFolder> {
        Ok(Box::pin(OwnedFolder::open(&self.settings()?, Arc::new(SystemClock))).await?)
    }
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
