//! `tracehouse config`: the effective settings, in the form of a settings file.

use std::io::{self, Write};

use clap::Args;

use super::settings::{ServerFlags, SourceArgs};
use crate::config::{Effective, EffectiveEntry};

/// Arguments of `tracehouse config`.
#[derive(Args, Debug)]
pub(super) struct ConfigArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    flags: ServerFlags,
    /// Prints above each setting what it does and the form of its values.
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let effective = args.sources.load(args.flags.flags())?;
    io::stdout().write_all(render(&effective, args.explain).as_bytes())?;
    Ok(())
}

/// A valid settings file that gives the same settings, with the source of each as a comment.
fn render(effective: &Effective, explain: bool) -> String {
    let entries = effective.entries();
    let assignment = |entry: &EffectiveEntry| format!("{} = {}", entry.key, entry.value);
    let width = entries.iter().map(|entry| assignment(entry).len()).max().unwrap_or(0);
    let mut text = String::new();
    for entry in &entries {
        if explain {
            text.push_str(&format!("\n# {}\n# Expected: {}.\n", entry.explanation, entry.expected));
        }
        text.push_str(&format!("{:width$}  # {}\n", assignment(entry), entry.source));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::settings::flag, config::Sources};

    #[test]
    fn the_printed_settings_are_a_file_that_gives_them_again() {
        let flags = vec![flag("--set", "ingest.cors_allowed_origins", "https://a.example,https://b.example")];
        let first = Effective::load(&Sources { flags, ..Sources::default() }).unwrap();
        for explain in [false, true] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), render(&first, explain)).unwrap();
            let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
            assert_eq!(Effective::load(&sources).unwrap().settings(), first.settings());
        }
    }

    #[test]
    fn every_line_names_the_source_of_its_value() {
        let flags = vec![flag("--data", "data", "/srv/traces")];
        let effective = Effective::load(&Sources { flags, ..Sources::default() }).unwrap();
        let text = render(&effective, false);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(line("data = \"/srv/traces\" ").ends_with("  # flag --data"));
        assert!(line("flush.age_max = \"5m\" ").ends_with("  # default"));
    }
}
