//! The corpus: queries and what becomes of them, as data.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tracehouse::traceql::{self, TraceQlError};

const RULE: &str = "----";

/// A block of a corpus file.
enum Block {
    Comment(String),
    Case { query: String, expected: String },
}

fn read_blocks(path: &Path) -> Vec<Block> {
    let text = fs::read_to_string(path).unwrap();
    let mut blocks = Vec::new();
    for block in text.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()) {
        if block.starts_with('#') {
            blocks.push(Block::Comment(block.to_owned()));
            continue;
        }
        let (query, expected) = block.split_once(&format!("\n{RULE}")).unwrap_or((block, ""));
        blocks.push(Block::Case { query: query.to_owned(), expected: expected.trim_start_matches('\n').to_owned() });
    }
    blocks
}

fn corpus_files(class: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traceql").join(class);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs every case of a class: `answer` gives the text for the query, or says why the query is not of the class.
pub(super) fn check(class: &str, answer: impl Fn(&str) -> Result<String, String>) {
    let bless = env::var_os("TRACEHOUSE_BLESS").is_some();
    let mut faults = Vec::new();
    for path in corpus_files(class) {
        let mut blessed = Vec::new();
        for block in read_blocks(&path) {
            let (query, expected) = match block {
                Block::Comment(text) => {
                    blessed.push(text);
                    continue;
                }
                Block::Case { query, expected } => (query, expected),
            };
            let answer = answer(&query);
            if !bless && answer.as_ref() != Ok(&expected) {
                let answer = answer.clone().unwrap_or_else(|other| format!("(of another class) {other}"));
                faults.push(format!("{}\n{query}\n-- expected\n{expected}\n-- is\n{answer}\n", path.display()));
            } else if let Err(other) = &answer {
                faults.push(format!("{}\n{query}\n-- is of another class:\n{other}\n", path.display()));
            }
            blessed.push(format!("{query}\n{RULE}\n{}", answer.unwrap_or(expected)));
        }
        if bless {
            fs::write(&path, blessed.join("\n\n") + "\n").unwrap();
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_corpus_has_cases_of_every_class_and_five_hundred_in_all() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traceql");
    let cases = |class: &str| {
        let blocks = corpus_files(class).into_iter().flat_map(|path| read_blocks(&path));
        blocks.filter(|block| matches!(block, Block::Case { .. })).count()
    };
    let mut classes: Vec<String> = vec!["valid", "parse_error", "invalid", "no_search", "unsupported", "planned"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    let worlds = fs::read_dir(root.join("evaluated")).unwrap().map(|entry| entry.unwrap());
    let worlds = worlds.filter(|entry| entry.file_type().unwrap().is_dir());
    classes.extend(worlds.map(|entry| format!("evaluated/{}", entry.file_name().to_string_lossy())));
    let counts: Vec<(String, usize)> = classes.into_iter().map(|class| (class.clone(), cases(&class))).collect();
    assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
    let evaluated = counts.iter().filter(|(class, _)| class.starts_with("evaluated")).map(|(_, count)| count);
    assert!(evaluated.sum::<usize>() >= 250, "{counts:?}");
    assert!(counts.iter().map(|(_, count)| count).sum::<usize>() >= 500, "{counts:?}");
}

#[test]
fn valid_queries_print_their_canonical_text_which_reads_the_same() {
    check("valid", |text| {
        let query = traceql::compile(text).map_err(|error| error.to_string())?;
        let printed = query.to_string();
        let again = traceql::compile(&printed).map_err(|error| format!("printed as {printed}: {error}"))?;
        if again != query || again.to_string() != printed {
            return Err(format!("printed as {printed}, which reads as {again}"));
        }
        Ok(printed)
    });
}

#[test]
fn what_is_not_traceql_is_a_parse_error_with_its_place() {
    check("parse_error", |text| match traceql::parse(text) {
        Err(error @ TraceQlError::Parse { .. }) => Ok(error.to_string()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn what_the_types_forbid_is_invalid() {
    check("invalid", |text| match traceql::compile(text) {
        Err(error @ TraceQlError::Invalid { .. }) => Ok(error.to_string()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn what_is_not_built_says_so_by_name() {
    check("unsupported", |text| match traceql::search(text) {
        Err(error @ TraceQlError::Unsupported { .. }) => Ok(error.to_string()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_search_refuses_time_series_and_says_who_answers_them() {
    check("no_search", |text| match (traceql::compile(text), traceql::search(text)) {
        (Ok(_), Err(error @ TraceQlError::Invalid { .. })) => Ok(error.to_string()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn planned_filters_are_folded_and_list_what_is_shown() {
    check("planned", |text| match traceql::search(text) {
        Ok(search) => {
            let spansets = search.spansets;
            let shown: Vec<String> = spansets.shown.iter().map(ToString::to_string).collect();
            let [condition] = &spansets.conditions[..] else { return Err("more than one filter".to_owned()) };
            Ok(format!("{condition}\nshown: {}", shown.join(", ")).trim_end().to_owned())
        }
        Err(error) => Err(error.to_string()),
    });
}
