//! What the README and the other documents show is what the program understands.

use std::{fs, path::PathBuf};

use tracehouse::{
    cli::check_arguments,
    config::{Effective, Sources},
};

/// The documents whose examples are checked, if they are there.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "sql/README.md",
    "src/maintain/README.md",
    "deploy/README.md",
    "deploy/METRICS.md",
    "examples/notebooks/README.md",
    "tests/clients/README.md",
];

/// A fenced block of a document.
struct Block {
    place: String,
    language: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut blocks = Vec::new();
    for document in DOCUMENTS {
        let Ok(text) = fs::read_to_string(root.join(document)) else { continue };
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            let place = format!("{document}:{}", number + 1);
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    open = Some(Block { place, language: language.trim().to_owned(), text: String::new() });
                }
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{document} ends in an open block");
    }
    blocks
}

/// The words of a shell command up to the first pipe, redirection or comment.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | '&' | ';' | '#') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "unbalanced quotes: {command}");
    words.extend(word);
    words
}

/// The tracehouse commands of a shell block, as arguments.
fn commands(block: &Block) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for line in block.text.replace("\\\n", " ").lines() {
        let line = line.trim().trim_start_matches("$ ");
        let without_variables = line.split(' ').skip_while(|word| word.contains('=') && !word.starts_with('-'));
        let line = without_variables.collect::<Vec<_>>().join(" ");
        if let Some(arguments) = line.strip_prefix("cargo run --release -- ") {
            commands.push([vec!["tracehouse".to_owned()], words(arguments)].concat());
        } else if line.starts_with("tracehouse ") {
            commands.push(words(&line));
        }
    }
    commands
}

fn is_shell(block: &Block) -> bool {
    ["sh", "shell", "bash", "console"].contains(&block.language.as_str())
}

/// Every command of the program in the documents, as arguments, with the place where it stands.
pub(crate) fn shown_commands() -> Vec<(String, Vec<String>)> {
    let blocks = blocks();
    let shells = blocks.iter().filter(|block| is_shell(block));
    shells.flat_map(|block| commands(block).into_iter().map(|command| (block.place.clone(), command))).collect()
}

/// Every command of a shell block that begins with `start`, whole, with the place of its block.
pub(crate) fn shown_shell_commands(start: &str) -> Vec<(String, String)> {
    let mut commands = Vec::new();
    for block in blocks().iter().filter(|block| is_shell(block)) {
        let mut command = String::new();
        for line in block.text.lines() {
            command.push_str(line);
            // A quoted body goes over several lines.
            if command.matches('\'').count().is_multiple_of(2) && !command.ends_with('\\') {
                if command.starts_with(start) {
                    commands.push((block.place.clone(), std::mem::take(&mut command)));
                }
                command.clear();
            } else {
                command.push('\n');
            }
        }
    }
    commands
}

#[test]
fn shown_commands_exist_with_their_arguments() {
    let mut faults = Vec::new();
    let shown = shown_commands();
    for (place, command) in &shown {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        if let Err(error) = check_arguments(&arguments) {
            faults.push(format!("{place}: {}\n{error}", command.join(" ")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(!shown.is_empty(), "the documents show no command");
}

#[test]
fn shown_settings_files_are_valid() {
    for block in blocks().iter().filter(|block| block.language == "toml") {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &block.text).unwrap();
        let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
        if let Err(error) = Effective::load(&sources) {
            panic!("{}: {error}", block.place);
        }
    }
}

#[test]
fn shown_settings_and_variables_exist() {
    let known: Vec<String> =
        Effective::load(&Sources::default()).unwrap().entries().into_iter().map(|entry| entry.key).collect();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let sections: Vec<&str> = known.iter().filter_map(|key| Some(key.split_once('.')?.0)).collect();
    for code in readme.split('`').skip(1).step_by(2) {
        let code = code.split([' ', '=']).next().unwrap_or_default();
        if let Some((section, _)) = code.split_once('.')
            && sections.contains(&section)
        {
            assert!(known.iter().any(|key| key == code), "README.md names the setting {code}, which does not exist");
        }
        if let Some(variable) = code.strip_prefix("TRACEHOUSE_")
            && !["CONFIG", "*"].contains(&variable)
            && !variable.contains('<')
        {
            let exists = known.iter().any(|key| key.replace('.', "_").eq_ignore_ascii_case(variable));
            assert!(exists, "README.md names TRACEHOUSE_{variable}, which does not exist");
        }
    }
}

#[test]
fn commands_are_split_like_a_shell_does() {
    assert_eq!(
        words("tracehouse sql 'SELECT \"a\" | 1' -o x.csv | head"),
        ["tracehouse", "sql", "SELECT \"a\" | 1", "-o", "x.csv"]
    );
    let text = "$ A=1 tracehouse config \\\n  --explain\ncargo run --release -- serve  # starts\ncurl x\n".to_owned();
    let block = Block { place: String::new(), language: "sh".to_owned(), text };
    assert_eq!(commands(&block), [vec!["tracehouse", "config", "--explain"], vec!["tracehouse", "serve"]]);
}
