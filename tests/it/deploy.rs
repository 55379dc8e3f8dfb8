//! The dashboards are JSON that Grafana takes, and ask what we answer.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tracehouse::traceql;

/// The data sources that are provisioned.
fn provisioned(root: &Path) -> BTreeSet<String> {
    let yaml = fs::read_to_string(root.join("deploy/grafana/provisioning/datasources/tracehouse.yaml")).unwrap();
    yaml.lines().filter_map(|line| line.trim().strip_prefix("uid: ")).map(str::to_owned).collect()
}

fn objects<'a>(value: &'a Value, found: &mut Vec<&'a serde_json::Map<String, Value>>) {
    match value {
        Value::Object(object) => {
            found.push(object);
            object.values().for_each(|value| objects(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, found)),
        _ => {}
    }
}

#[test]
fn dashboards_use_provisioned_data_sources_and_valid_traceql() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = provisioned(root);
    assert!(known.contains("tracehouse"), "{known:?}");
    let (mut uids, mut queries) = (BTreeSet::new(), 0);
    for entry in fs::read_dir(root.join("deploy/grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let place = path.display();
        assert!(uids.insert(board["uid"].as_str().unwrap().to_owned()), "{place}: the uid is not unique");
        let mut found = Vec::new();
        objects(&board, &mut found);
        for object in found {
            if let Some(uid) = object.get("datasource").and_then(|source| source["uid"].as_str()) {
                assert!(known.contains(uid), "{place}: no data source {uid}");
            }
            if let (Some(Value::String(query)), Some("traceql")) =
                (object.get("query"), object.get("queryType").and_then(Value::as_str))
            {
                let query = query.replace("$service", ".*");
                traceql::compile(&query).unwrap_or_else(|error| panic!("{place}: {query}: {error}"));
                queries += 1;
            }
        }
    }
    assert!(uids.len() >= 3 && queries >= 10, "{uids:?}, {queries} queries");
}
