//! `tracehouse compact`: merges the small files of a data folder that no server has open.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use indicatif::HumanBytes;

use super::{
    counted::counted,
    folder::{FolderArgs, block_on},
};

/// Arguments of `tracehouse compact`.
#[derive(Args, Debug)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

pub(super) fn run(args: &CompactArgs) -> anyhow::Result<()> {
    block_on(async {
        let folder =
            args.folder.own("a server merges its small files by itself ([compaction] of the settings)").await?;
        let reports = folder.compact().await;
        let closed = folder.close().await;
        let mut refused = Vec::new();
        let files = |count: usize| counted(count, "file");
        for (tenant, compacted, swept) in reports? {
            let (replaced, waiting) = (files(swept.files), files(swept.waiting_files));
            if compacted.merges == 0 && compacted.failures == 0 {
                writeln!(io::stdout(), "{tenant}: nothing to merge; {replaced} replaced deleted, {waiting} wait")?;
                continue;
            }
            let (before, after) = (HumanBytes(compacted.bytes_before), HumanBytes(compacted.bytes_after));
            writeln!(
                io::stdout(),
                "{tenant}: {} of {before} became {} of {after}, {} dropped, {} failed; {replaced} replaced \
                 deleted, {waiting} wait",
                files(compacted.files_before),
                files(compacted.files_after),
                counted(compacted.duplicates, "duplicate span"),
                counted(compacted.failures, "merge"),
            )?;
            refused.extend(compacted.refused);
        }
        if !refused.is_empty() {
            bail!("{} could not be merged, and the others were:\n{}", files(refused.len()), refused.join("\n"));
        }
        Ok(closed?)
    })
}
