//! What an image has and lacks as a sandbox: said when it is pulled, not when it is booted.

use banger_core::{ImageFiles, find_init};
use banger_ext4::{Content, NodeId, Tree};

use crate::path;
use crate::seed::child;

const LINKS_MAX: usize = 40;
const SHELLS: [&str; 3] = ["bin/sh", "bin/bash", "usr/bin/sh"];
const SSHD: [&str; 2] = ["usr/sbin/sshd", "usr/bin/sshd"];
/// What of note is in a tree, for people.
#[must_use]
pub fn facts(tree: &Tree) -> Vec<String> {
    let has = |path: &str| find(tree, path).is_some();
    let mut facts = Vec::new();
    match find_init(&Files(tree)) {
        Some(found) => facts.push(format!("init: {}", found.family)),
        None => facts.push("no init: the agent is the first process".to_owned()),
    }
    if !SHELLS.iter().any(|path| has(path)) {
        facts.push("no shell: `vm exec` runs only what the image has".to_owned());
    }
    if !SSHD.iter().any(|path| has(path)) {
        facts.push("no sshd: banger's own serves `vm ssh`, over vsock".to_owned());
    }
    facts
}

/// A tree as an image's files.
struct Files<'a>(&'a Tree);

impl ImageFiles for Files<'_> {
    type File = NodeId;

    fn program(&self, path: &str) -> Option<NodeId> {
        let found = find(self.0, path)?;
        let node = self.0.node(found);
        let is_file = matches!(node.content, Content::File(_));
        (is_file && node.attributes.mode & 0o111 != 0).then_some(found)
    }

    fn real_path(&self, path: &str) -> Option<String> {
        let names = walk(self.0, path)?.into_iter();
        let parts = names.map(|(name, _)| format!("/{}", String::from_utf8_lossy(&name)));
        Some(parts.collect())
    }
}

/// The file at a path, through links, which stay inside.
fn find(tree: &Tree, path: &str) -> Option<NodeId> {
    Some(walk(tree, path)?.last().map_or(Tree::ROOT, |(_, id)| *id))
}

/// The names that lead to the file at a path when links are followed, each with what it stands for.
fn walk(tree: &Tree, path: &str) -> Option<Vec<(Vec<u8>, NodeId)>> {
    let mut open: Vec<Vec<u8>> = path::clean(path.as_bytes())
        .iter()
        .rev()
        .map(|part| part.to_vec())
        .collect();
    let mut at: Vec<(Vec<u8>, NodeId)> = vec![];
    let mut links = 0;
    while let Some(part) = open.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => {}
        }
        let here = at.last().map_or(Tree::ROOT, |(_, id)| *id);
        let next = child(tree, here, &part)?;
        if let Content::Symlink(target) = &tree.node(next).content {
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            open.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
            continue;
        }
        at.push((part, next));
    }
    Some(at)
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
                attributes: Attributes {
                    mode: 0o755,
                    ..Attributes::default()
                },
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
        let busybox = tree(&[
            ("bin/busybox", None),
            ("bin/sh", Some("busybox")),
            ("sbin/init", Some("/bin/busybox")),
        ]);
        let no_init = "no init: the agent is the first process";
        assert_eq!(facts(&busybox)[0], no_init, "as it boots");
        let runit = tree(&[
            ("usr/sbin/runit-init", None),
            ("sbin", Some("usr/sbin")),
            ("usr/sbin/init", Some("runit-init")),
        ]);
        assert_eq!(facts(&runit)[0], "init: runit");
    }
}
