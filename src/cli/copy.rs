//! `tracehouse backup` and `tracehouse restore`: copies of the tables in another folder or bucket.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{anyhow, bail};
use clap::Args;
use indicatif::HumanBytes;

use super::{
    counted::counted,
    folder::block_on,
    settings::{SourceArgs, flag},
};
use crate::{
    catalog::{Catalog, CatalogSettings},
    clock::SystemClock,
    config::{DataLocation, Settings},
    maintain::copy::{copy_tables, has_tables},
    metrics::Metrics,
    storage::store::Store,
};

/// Arguments of `tracehouse backup`.
#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// Folder or bucket whose tables are copied, without it the one of the settings; a server may have it open.
    #[arg(long, value_name = "PLACE")]
    data: Option<String>,
    /// Folder or bucket that the copy goes to; an earlier copy there is brought up to date.
    #[arg(long, value_name = "PLACE")]
    to: String,
    #[command(flatten)]
    sources: SourceArgs,
}

/// Arguments of `tracehouse restore`.
#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// Folder or bucket that has the copy.
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Folder or bucket that the tables go to, without it the one of the settings; it may not have tables.
    #[arg(long, value_name = "PLACE")]
    data: Option<String>,
    #[command(flatten)]
    sources: SourceArgs,
}

pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let settings = settings(&args.sources, args.data.as_deref())?;
    let target = elsewhere(&settings, &args.to)?;
    block_on(copy(settings, target))
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let target = settings(&args.sources, args.data.as_deref())?;
    let source = elsewhere(&target, &args.from)?;
    block_on(async {
        if has_tables(&open(&target).await?).await? {
            bail!("{} has tables already; restore into a place without any", target.data);
        }
        copy(source, target).await
    })
}

fn settings(sources: &SourceArgs, data: Option<&str>) -> anyhow::Result<Settings> {
    let flags = data.iter().map(|place| flag("--data", "data", place)).collect();
    Ok(sources.load(flags)?.settings().clone())
}

/// The same settings for another place.
fn elsewhere(settings: &Settings, place: &str) -> anyhow::Result<Settings> {
    let data: DataLocation = place.parse().map_err(|_| {
        anyhow!("{place:?} is no place for tables; use a folder, or s3://, gs:// or az:// with a bucket and a prefix")
    })?;
    if data == settings.data {
        bail!("the tables cannot be copied from {data} to itself");
    }
    Ok(Settings { data, ..settings.clone() })
}

/// A store without files that wait for their upload, which are the server's.
async fn open(settings: &Settings) -> anyhow::Result<Store> {
    Ok(Store::open_to_read(settings, &Arc::new(Metrics::new()?)).await?)
}

async fn copy(from: Settings, to: Settings) -> anyhow::Result<()> {
    if let Some(folder) = from.data.folder().filter(|folder| !folder.is_dir()) {
        bail!("there is no folder {}", folder.display());
    }
    let tables = Catalog::open(open(&from).await?, Arc::new(SystemClock), CatalogSettings::default());
    let target = open(&to).await?;
    target.verify_conditional_put().await?;
    let mut out = io::stdout();
    let reports = copy_tables(&tables, &target).await?;
    if reports.is_empty() {
        writeln!(out, "{} has no tables", from.data)?;
    }
    for (tenant, report) in reports {
        writeln!(
            out,
            "{tenant}: {} as of commit {}; {} of {} copied, {} there already",
            counted(report.spans, "span"),
            report.version,
            counted(report.files, "file"),
            HumanBytes(report.bytes),
            report.files_there,
        )?;
    }
    Ok(())
}
