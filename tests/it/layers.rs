//! The house rules on structure: imports point down the layers, and files stay small.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The layers from the bottom up. Modules on one line never import each other.
const LAYERS: &[&[&str]] = &[
    &["error", "config", "clock", "metrics", "crashpoint"],
    &["model", "functions"],
    &["otlp", "traceql", "storage", "auth"],
    &["wal", "catalog"],
    &["live"],
    &["ingest", "query"],
    &["receiver", "api", "export", "maintain", "demo"],
    &["server"],
    &["cli"],
];

/// Imports within a layer that are part of the design: functions work on the model's types, and the variable that crash
/// tests set is not a setting.
const ALLOWED: &[(&str, &str)] =
    &[("functions", "model"), ("metrics", "error"), ("config", "error"), ("config", "crashpoint")];

const FILE_LINES_MAX: usize = 800;

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The top-level modules named in `source` as `crate::module`, `crate::{a, b::c}` included.
fn imported_modules(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .map(|line| line.trim_start())
        .filter(|line| !line.starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            modules.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start_of_item = true;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start_of_item = true,
                c if start_of_item && !c.is_whitespace() => {
                    modules.push(word(&group[index..]));
                    start_of_item = false;
                }
                _ => {}
            }
        }
    }
    modules.retain(|module| !module.is_empty());
    modules
}

#[test]
fn imports_point_down_the_layers() {
    let level: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(level, names)| names.iter().map(move |name| (*name, level))).collect();
    let src = root().join("src");
    let mut faults = Vec::new();
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let top = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = top.trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = level.get(module) else {
            faults.push(format!("src/{module} is in no layer"));
            continue;
        };
        for target in imported_modules(&fs::read_to_string(&file).unwrap()) {
            if target == module || ALLOWED.contains(&(module, target.as_str())) {
                continue;
            }
            match level.get(target.as_str()) {
                Some(other) if other < own => {}
                Some(_) => faults.push(format!("{} imports {target}, which is not below it", relative.display())),
                None => faults.push(format!("{} imports {target}, which is in no layer", relative.display())),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_stay_below_the_wall() {
    let faults: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .map(|folder| root().join(folder))
        .filter(|folder| folder.exists())
        .flat_map(|folder| rust_files(&folder))
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > FILE_LINES_MAX).then(|| format!("{} has {lines} lines", file.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn grouped_and_plain_imports_are_seen() {
    let source = "use crate::{error::{Error, Result}, model};\n// crate::server\nlet x = crate::wal::Log::open();";
    assert_eq!(imported_modules(source), ["error", "model", "wal"]);
}
