//! `tracehouse inspect`: what is in a data folder that no server has open.

use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::{
    folder::{FolderArgs, READ_BESIDE_A_SERVER, block_on, tenant},
    output::OutputArgs,
};
use crate::maintain::inspect::Inspector;

/// Arguments of `tracehouse inspect`.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// What to show.
    #[arg(value_enum, default_value = "tables")]
    what: What,
    /// Tenant whose files or columns are shown; without it, the only one of a server without tenants.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What there is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Every tenant's table: files, spans, bytes, times, and spans that are only in the log.
    Tables,
    /// The files of one table.
    Files,
    /// The columns of one table: bytes, share, and which attributes are promoted.
    Columns,
    /// The write-ahead log: every tenant's records, and up to which one they are in its table.
    Log,
}

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    block_on(async {
        let folder = args.folder.open(READ_BESIDE_A_SERVER).await?;
        let live = &folder.log.live;
        let inspector = Inspector::new(Arc::clone(live.catalog()), Arc::clone(live));
        let tenant = tenant(args.tenant.as_deref())?;
        let batch = match args.what {
            What::Tables => inspector.tables().await?,
            What::Files => inspector.files(&tenant).await?,
            What::Columns => inspector.columns(&tenant).await?,
            What::Log => inspector.log(&folder.log).await?,
        };
        args.output.write(batch.schema(), futures::stream::iter([Ok(batch)])).await
    })
}
