//! `tracehouse compact`: merges the small files of a data folder that no server has open.

use std::io::{self, Write};

use clap::Args;

use super::folder::{FolderArgs, block_on};
use crate::config::ByteSize;

/// Arguments of `tracehouse compact`.
#[derive(Args, Debug)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

pub(super) fn run(args: &CompactArgs) -> anyhow::Result<()> {
    block_on(async {
        let folder = args.folder.own().await?;
        let reports = folder.compact().await;
        let closed = folder.close().await;
        for (tenant, compacted, swept) in reports? {
            let (before, after) = (ByteSize::from_bytes(compacted.bytes_before), compacted.bytes_after);
            let after = ByteSize::from_bytes(after);
            writeln!(
                io::stdout(),
                "{tenant}: {} files of {before} became {} files of {after}, {} duplicate spans dropped, {} merges failed; \
                 {} replaced files deleted, {} wait",
                compacted.files_before,
                compacted.files_after,
                compacted.duplicates,
                compacted.failures,
                swept.files,
                swept.waiting_files,
            )?;
        }
        Ok(closed?)
    })
}
