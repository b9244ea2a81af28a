//! What an image has and lacks as a sandbox: said when it is pulled, not when it is booted.

use banger_ext4::{Content, NodeId, Tree};

use crate::path;
use crate::seed::child;

const LINKS_MAX: usize = 40;
const SHELLS: [&str; 3] = ["bin/sh", "bin/bash", "usr/bin/sh"];
const SSHD: [&str; 2] = ["usr/sbin/sshd", "usr/bin/sshd"];
const INITS: [(&str, &str); 5] = [
    ("lib/systemd/systemd", "systemd"),
    ("usr/lib/systemd/systemd", "systemd"),
    ("sbin/openrc-init", "OpenRC"),
    ("sbin/runit", "runit"),
    ("bin/s6-svscan", "s6"),
];

/// What of note is in a tree, for people.
#[must_use]
pub fn facts(tree: &Tree) -> Vec<String> {
    let has = |path: &str| find(tree, path).is_some();
    let mut facts = Vec::new();
    let init = INITS.iter().find(|(path, _)| has(path));
    match init {
        Some((_, name)) => facts.push(format!("init: {name}")),
        None if has("sbin/init") => facts.push("init: /sbin/init".to_owned()),
        None => facts.push("no init: the agent is the first process".to_owned()),
    }
    if !SHELLS.iter().any(|path| has(path)) {
        facts.push("no shell: `vm exec` runs only what the image has".to_owned());
    }
    if !SSHD.iter().any(|path| has(path)) {
        facts.push("no sshd".to_owned());
    }
    facts
}

/// The file at a path, through links, which stay inside.
fn find(tree: &Tree, path: &str) -> Option<NodeId> {
    let mut open: Vec<Vec<u8>> = path::clean(path.as_bytes())
        .iter()
        .rev()
        .map(|part| part.to_vec())
        .collect();
    let mut at = vec![Tree::ROOT];
    let mut links = 0;
    while let Some(part) = open.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if at.len() > 1 {
                    at.pop();
                }
                continue;
            }
            _ => {}
        }
        let next = child(tree, *at.last()?, &part)?;
        if let Content::Symlink(target) = &tree.node(next).content {
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            if target.starts_with(b"/") {
                at.truncate(1);
            }
            open.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            continue;
        }
        at.push(next);
    }
    at.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Merger;
    use crate::tar::{Entry, EntryKind};
    use banger_ext4::{Attributes, FileData};

    fn tree(entries: &[(&str, Option<&str>)]) -> Tree {
        let mut merger = Merger::new(100);
        for (name, target) in entries {
            let kind = target.map_or(EntryKind::File, |target| EntryKind::Symlink(target.into()));
            let entry = Entry {
                name: (*name).into(),
                kind,
                attributes: Attributes::default(),
            };
            merger.apply(entry, FileData::default()).unwrap();
        }
        merger.finish()
    }

    #[test]
    fn what_is_found_through_links() {
        let full = tree(&[
            ("usr/lib/systemd/systemd", None),
            ("usr/bin/dash", None),
            ("usr/bin/sh", Some("dash")),
            ("bin", Some("usr/bin")),
            ("usr/sbin/sshd", None),
        ]);
        assert_eq!(facts(&full), ["init: systemd"]);
        let nothing = tree(&[
            ("app", None),
            ("bin", Some("/bin")),
            ("sbin/init", Some("../../app")),
        ]);
        assert_eq!(facts(&nothing).len(), 3);
        assert_eq!(facts(&nothing)[0], "init: /sbin/init");
    }
}
