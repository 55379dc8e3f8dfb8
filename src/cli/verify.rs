//! `tracehouse verify`: checks a data folder that no server has open.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::bail;
use clap::Args;
use indicatif::HumanBytes;

use super::{
    counted::counted,
    folder::{FolderArgs, READ_BESIDE_A_SERVER, block_on},
};
use crate::maintain::verify::Verifier;

/// Arguments of `tracehouse verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    block_on(async {
        // Opening it has read the whole write-ahead log, and its checksums.
        let folder = args.folder.open(READ_BESIDE_A_SERVER).await?;
        let (live, recovered) = (&folder.log.live, &folder.log.recovered);
        let mut out = io::stdout();
        writeln!(out, "log: {} of {}", counted(recovered.log.records, "record"), HumanBytes(recovered.log.bytes))?;
        let mut problems = 0;
        if let Some(torn) = &recovered.log.torn_tail {
            let path = torn.path.display();
            writeln!(
                out,
                "log: {path} ends in a write of {} bytes that was cut short; it was not acknowledged",
                torn.cut_bytes
            )?;
        }
        let verifier = Verifier::new(Arc::clone(live.catalog()), Arc::clone(&folder.engine), Arc::clone(live));
        let mut tenants = live.catalog().tenants().await?;
        tenants.extend(live.loads().into_iter().map(|(tenant, _)| tenant));
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            let report = verifier.verify(&tenant).await?;
            writeln!(
                out,
                "{tenant}: {} in {} of {}, {} in the log, {} checked; {} in no table, to be deleted",
                counted(report.rows, "span"),
                counted(report.files, "file"),
                HumanBytes(report.bytes),
                counted(report.buffered_spans, "span"),
                counted(report.tombstones, "deletion"),
                counted(report.garbage_files, "file"),
            )?;
            for problem in &report.problems {
                writeln!(out, "{tenant}: {}: {}", problem.place, problem.message)?;
            }
            problems += report.problems.len();
        }
        if problems > 0 {
            bail!("found {}", counted(problems, "problem"));
        }
        writeln!(out, "no problems")?;
        Ok(())
    })
}
