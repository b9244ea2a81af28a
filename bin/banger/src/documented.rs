//! `docs/json.md`, read by tests: which command prints what, and the shapes that are the command line's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md");
    fs::read_to_string(path).unwrap()
}

/// What stands in the table beside each command: `vm list` → `VmList`.
#[allow(dead_code, reason = "not every test that includes this file asks")]
pub(crate) fn commands() -> BTreeMap<String, String> {
    let text = text();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let command = cells.next().unwrap().trim_matches('`').to_owned();
        (command, cells.next().unwrap().to_owned())
    })
    .collect()
}

/// The example below the heading of that name.
pub(crate) fn example(name: &str) -> Value {
    let text = text();
    let section = text
        .split("\n### ")
        .find(|part| part.lines().next() == Some(name));
    let section = section.unwrap_or_else(|| panic!("docs/json.md has no section {name}"));
    let block = section
        .split("```")
        .nth(1)
        .unwrap()
        .trim_start_matches("json");
    serde_json::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Checks that something is as documented: the same keys and kinds of values, all the way down.
pub(crate) fn assert_documented(name: &str, value: &Value) {
    same_shape(name, &example(name), value);
}

fn same_shape(at: &str, documented: &Value, value: &Value) {
    match (documented, value) {
        (Value::Object(documented), Value::Object(value)) => {
            let keys = |object: &serde_json::Map<String, Value>| {
                object.keys().cloned().collect::<Vec<_>>()
            };
            assert_eq!(keys(value), keys(documented), "{at}");
            for (key, documented) in documented {
                same_shape(&format!("{at}.{key}"), documented, &value[key]);
            }
        }
        (Value::Array(documented), Value::Array(values)) => {
            for (number, value) in values.iter().enumerate() {
                let alike = documented.iter().find(|one| kind(one) == kind(value));
                let alike = alike.unwrap_or_else(|| panic!("{at} has no example of {value}"));
                // The first that has the same keys; else the first of all.
                let keyed =
                    documented
                        .iter()
                        .find(|one| match (one.as_object(), value.as_object()) {
                            (Some(one), Some(value)) => one.keys().eq(value.keys()),
                            _ => false,
                        });
                same_shape(&format!("{at}[{number}]"), keyed.unwrap_or(alike), value);
            }
        }
        // Nothing may stand where something else is documented, and the other way round.
        (Value::Null, _) | (_, Value::Null) => {}
        (documented, value) => assert_eq!(kind(value), kind(documented), "{at}"),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
