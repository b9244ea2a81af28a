//! Where in the file each key stands, and which of them no key is.

use banger_core::nearest;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, LATER};

/// A key as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `vm_defaults.vcpu`, `file_sync[0].host`.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: u32,
    /// The value as it is written.
    pub(crate) value: String,
}

/// The keys of a file that is TOML, in its order.
///
/// # Errors
/// The first key that is none, with its line and the nearest one.
pub(super) fn find(text: &str) -> Result<Vec<Place>, String> {
    let Ok(table) = DeTable::parse(text) else {
        // Whoever reads the values says what is wrong, and where.
        return Ok(vec![]);
    };
    let mut places = vec![];
    visit(text, table.get_ref(), "", "", &mut places)?;
    places.sort_by_key(|place| place.line);
    Ok(places)
}

/// `section` is the name by which keys are known, `shown` also counts the tables of an array.
fn visit(
    text: &str,
    table: &DeTable<'_>,
    section: &str,
    shown: &str,
    places: &mut Vec<Place>,
) -> Result<(), String> {
    for (key, value) in table {
        let (name, line) = (key.get_ref().as_ref(), line_of(text, key.span().start));
        let path = join(section, name);
        let shown = join(shown, name);
        match (value.get_ref(), kind(&path)) {
            (DeValue::Table(inner), Kind::Section) => visit(text, inner, &path, &shown, places)?,
            (DeValue::Array(inner), Kind::Section) => {
                for (at, item) in inner.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        visit(text, inner, &path, &format!("{shown}[{at}]"), places)?;
                    }
                }
            }
            // A section that is no table: whoever reads the values says so.
            (_, Kind::Section) => {}
            (_, Kind::Key) => places.push(Place {
                path: shown,
                line,
                value: text.get(value.span()).unwrap_or_default().to_owned(),
            }),
            (_, Kind::Unknown) => return Err(unknown(section, name, line)),
        }
    }
    Ok(())
}

enum Kind {
    Key,
    Section,
    Unknown,
}

fn kind(path: &str) -> Kind {
    if KEYS.iter().any(|key| key.path == path) {
        Kind::Key
    } else if KEYS.iter().any(|key| key.parts().0 == path) {
        Kind::Section
    } else {
        Kind::Unknown
    }
}

fn unknown(section: &str, name: &str, line: u32) -> String {
    let shown: String = name
        .chars()
        .take(60)
        .flat_map(char::escape_default)
        .collect();
    if let Some((_, what)) = LATER
        .iter()
        .find(|(key, _)| section.is_empty() && *key == name)
    {
        return format!(
            "line {line}: `{shown}` comes with {what}, which this banger does not have yet"
        );
    }
    let beside = KEYS
        .iter()
        .map(|key| key.parts())
        .filter(|(of, _)| *of == section);
    let sections = KEYS
        .iter()
        .map(|key| key.parts().0)
        .filter(|_| section.is_empty());
    let beside = beside.map(|(_, key)| key).chain(sections);
    let told = format!("line {line}: there is no key `{shown}`");
    if let Some(known) = nearest(name, beside) {
        return format!("{told}; did you mean `{known}`?");
    }
    // One of another section, often for want of its header.
    let elsewhere = KEYS
        .iter()
        .map(|key| key.parts())
        .find(|(_, key)| *key == name);
    match elsewhere {
        Some(("", key)) => format!("{told} in [{section}]; `{key}` belongs above all sections"),
        Some((section, key)) => format!("{told} here; `{key}` belongs into [{section}]"),
        None => format!("{told}; docs/configuration.md has all of them"),
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

fn line_of(text: &str, at: usize) -> u32 {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let breaks = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(breaks + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_key_has_its_line_and_its_value_as_written() {
        let text = "# a comment\nlog_level = \"debug\"\n\n[vm_defaults]\nvcpu = 3 # few\n\
                    [[file_sync]]\nhost = \"~/a\"\nguest = \"~/a\"\n[[file_sync]]\nhost = '~/b'\n";
        let found: Vec<(String, u32, String)> = find(text)
            .unwrap()
            .into_iter()
            .map(|place| (place.path, place.line, place.value))
            .collect();
        let expected = [
            ("log_level", 2, "\"debug\""),
            ("vm_defaults.vcpu", 5, "3"),
            ("file_sync[0].host", 7, "\"~/a\""),
            ("file_sync[0].guest", 8, "\"~/a\""),
            ("file_sync[1].host", 10, "'~/b'"),
        ];
        let expected =
            expected.map(|(path, line, value)| (path.to_owned(), line, value.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(
            find("vm_defaults.vcpu = 1").unwrap()[0].path,
            "vm_defaults.vcpu"
        );
    }

    #[test]
    fn a_key_that_is_none_is_told_with_its_line_and_what_was_meant() {
        for (text, told) in [
            (
                "\ndefault_image = \"x\"",
                "line 2: there is no key `default_image`; did you mean `default_image_name`?",
            ),
            (
                "[vm_default]\nvcpu = 1",
                "line 1: there is no key `vm_default`; did you mean `vm_defaults`?",
            ),
            (
                "[vm_defaults]\nvcpus = 1",
                "line 2: there is no key `vcpus`; did you mean `vcpu`?",
            ),
            (
                "vcpu = 1",
                "line 1: there is no key `vcpu` here; `vcpu` belongs into [vm_defaults]",
            ),
            (
                "[vm_defaults]\n\ncidr = \"x\"",
                "line 3: there is no key `cidr` in [vm_defaults]; `cidr` belongs above all sections",
            ),
            (
                "[[file_sync]]\nhost = \"~/a\"\nmodus = \"1\"",
                "line 3: there is no key `modus`; did you mean `mode`?",
            ),
            (
                "qqqqqq = 1",
                "line 1: there is no key `qqqqqq`; docs/configuration.md has all of them",
            ),
            (
                "web_listen_addr = \"x\"",
                "line 1: `web_listen_addr` comes with the web page, which this banger does not have yet",
            ),
            (
                "\"\\u001b[2J\" = 1",
                "line 1: there is no key `\\u{1b}[2J`; docs/configuration.md has all of them",
            ),
        ] {
            assert_eq!(find(text).unwrap_err(), told);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = find(&text);
        }

        #[test]
        fn no_toml_makes_it_panic(key in "[a-z_.]{1,20}", value in any::<i64>(), section in "[a-z_]{1,12}") {
            let _ = find(&format!("{key} = {value}\n[{section}]\n{key} = [{value}]\n[[{section}]]\n"));
        }
    }
}
