//! What is sent, and what that would destroy. Pure.

use std::collections::{BTreeMap, BTreeSet};

use banger_guest_proto::{Entry, EntryKind, RelPath};

use crate::manifest::{Entries, same};

/// One thing to do in the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Remove what stands there.
    Remove(RelPath),
    /// Send what stands here.
    Send(RelPath),
}

/// What of the guest's would be gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// Where.
    pub path: RelPath,
    /// What.
    pub reason: LostReason,
}

/// Why something would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LostReason {
    /// It was sent, and the guest has changed it since.
    Changed,
    /// It was never sent.
    Own,
}

impl LostReason {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed in the guest",
            Self::Own => "the guest's own",
        }
    }
}

/// The paths of which the guest must be asked what stands there: what is to change, and the folders
/// that lead to what is new.
#[must_use]
pub(crate) fn questions(host: &Entries, sent: &Entries, all: bool) -> BTreeSet<RelPath> {
    let mut paths = BTreeSet::new();
    for (path, entry) in host {
        let known = sent.get(path);
        if known.is_some_and(|known| same(known, entry)) && !all {
            continue;
        }
        paths.insert(path.clone());
        if known.is_none() {
            paths.extend(
                path.parents()
                    .filter_map(|parent| RelPath::new(parent).ok()),
            );
        }
    }
    paths.extend(
        sent.keys()
            .filter(|path| !host.contains_key(*path))
            .cloned(),
    );
    paths
}

/// What is to be done, and what of the guest's own work that would destroy. `guest` has an answer for
/// each of the [`questions`]; where it has none, nothing is there.
#[must_use]
pub fn plan(host: &Entries, sent: &Entries, guest: &Entries, all: bool) -> (Vec<Step>, Vec<Lost>) {
    let mut steps = vec![];
    let mut lost = BTreeMap::new();
    let mut destroy = |path: &RelPath, reason| {
        lost.insert(path.clone(), reason);
    };
    // Removed first: what was a folder may become a file.
    for (path, known) in sent.iter().filter(|(path, _)| !host.contains_key(*path)) {
        match guest.get(path) {
            None => {}
            Some(found) if is_missing(found) => {}
            Some(found) => {
                if !same(found, known) {
                    destroy(path, LostReason::Changed);
                }
                steps.push(Step::Remove(path.clone()));
            }
        }
    }
    for (path, entry) in host {
        let known = sent.get(path);
        if known.is_some_and(|known| same(known, entry)) && !all {
            continue;
        }
        for parent in path
            .parents()
            .filter_map(|parent| RelPath::new(parent).ok())
        {
            let in_the_way = guest
                .get(&parent)
                .filter(|found| !is_missing(found) && found.kind != EntryKind::Folder);
            if let Some(found) = in_the_way
                && !sent.get(&parent).is_some_and(|known| same(known, found))
            {
                destroy(&parent, reason(sent, &parent));
            }
        }
        match guest.get(path).filter(|found| !is_missing(found)) {
            Some(found) if same(found, entry) => continue,
            Some(found) if !known.is_some_and(|known| same(known, found)) => {
                destroy(path, reason(sent, path));
            }
            _ => {}
        }
        steps.push(Step::Send(path.clone()));
    }
    let lost = lost.into_iter().map(|(path, reason)| Lost { path, reason });
    (steps, lost.collect())
}

fn is_missing(entry: &Entry) -> bool {
    entry.kind == EntryKind::Missing
}

fn reason(sent: &Entries, path: &RelPath) -> LostReason {
    match sent.contains_key(path) {
        true => LostReason::Changed,
        false => LostReason::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_guest_proto::FileTime;
    use proptest::prelude::*;

    fn file(path: &str, version: u32) -> (RelPath, Entry) {
        let path = RelPath::new(path).unwrap();
        let entry = Entry {
            path: path.clone(),
            kind: EntryKind::File {
                size: 1,
                linked: false,
            },
            mode: 0o644,
            mtime: FileTime {
                seconds: i64::from(version),
                nanos: 0,
            },
        };
        (path, entry)
    }

    fn tree(files: &[(&str, u32)]) -> Entries {
        files
            .iter()
            .map(|(path, version)| file(path, *version))
            .collect()
    }

    fn planned(
        host: &[(&str, u32)],
        sent: &[(&str, u32)],
        guest: &[(&str, u32)],
    ) -> (Vec<String>, Vec<String>) {
        let (steps, lost) = plan(&tree(host), &tree(sent), &tree(guest), false);
        let step = |step: &Step| match step {
            Step::Remove(path) => format!("-{path}"),
            Step::Send(path) => format!("+{path}"),
        };
        (
            steps.iter().map(step).collect(),
            lost.iter()
                .map(|lost| format!("{}: {}", lost.path, lost.reason.as_str()))
                .collect(),
        )
    }

    #[test]
    fn cases() {
        let none: &[&str] = &[];
        for (host, sent, guest, steps, lost) in [
            (&[("a", 1)][..], &[][..], &[][..], &["+a"][..], none),
            (&[("a", 1)], &[("a", 1)], &[("a", 9)], none, none),
            (&[("a", 2)], &[("a", 1)], &[("a", 1)], &["+a"], none),
            (&[("a", 2)], &[("a", 1)], &[("a", 2)], none, none),
            (
                &[("a", 2)],
                &[("a", 1)],
                &[("a", 9)],
                &["+a"],
                &["a: changed in the guest"],
            ),
            (&[("a", 2)], &[("a", 1)], &[], &["+a"], none),
            (
                &[("a", 1)],
                &[],
                &[("a", 9)],
                &["+a"],
                &["a: the guest's own"],
            ),
            (&[], &[("a", 1)], &[("a", 1)], &["-a"], none),
            (&[], &[("a", 1)], &[], none, none),
            (
                &[],
                &[("a", 1)],
                &[("a", 9)],
                &["-a"],
                &["a: changed in the guest"],
            ),
            (
                &[("d/a", 1)],
                &[],
                &[("d", 9)],
                &["+d/a"],
                &["d: the guest's own"],
            ),
            (
                &[("d/a", 1)],
                &[("d", 1)],
                &[("d", 1)],
                &["-d", "+d/a"],
                none,
            ),
        ] {
            let (is_steps, is_lost) = planned(host, sent, guest);
            assert_eq!(
                (
                    is_steps
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .as_slice(),
                    is_lost
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .as_slice()
                ),
                (steps, lost),
                "{host:?} {sent:?} {guest:?}"
            );
        }
    }

    fn trees() -> impl Strategy<Value = Entries> {
        let name = prop::sample::select(vec!["a", "b", "c", "x", "y"]);
        prop::collection::btree_map(name, 0..3_u32, 0..5).prop_map(|files| {
            files
                .into_iter()
                .map(|(path, version)| file(path, version))
                .collect()
        })
    }

    proptest! {
        /// Done on a model of the guest: what was not lost is as it was, and what the host has and the
        /// guest had left alone is as on the host.
        #[test]
        fn nothing_of_the_guests_goes_unannounced(host in trees(), sent in trees(), guest in trees()) {
            let asked = questions(&host, &sent, false);
            let answers: Entries = guest.iter().filter(|(path, _)| asked.contains(*path)).map(|(p, e)| (p.clone(), e.clone())).collect();
            let (steps, lost) = plan(&host, &sent, &answers, false);
            let mut after = guest.clone();
            for step in &steps {
                match step {
                    Step::Remove(path) => { after.remove(path); }
                    Step::Send(path) => { after.insert(path.clone(), host[path].clone()); }
                }
            }
            for (path, before) in &guest {
                let own = !sent.get(path).is_some_and(|known| same(known, before));
                let kept = after.get(path) == Some(before);
                prop_assert!(kept || !own || lost.iter().any(|lost| lost.path == *path), "{path}");
            }
            for (path, entry) in &host {
                if sent.get(path).is_none_or(|known| !same(known, entry)) {
                    prop_assert!(after.get(path).is_some_and(|now| same(now, entry)), "{path}");
                }
            }
            // With all: the whole is as on the host.
            let (steps, _) = plan(&host, &sent, &guest, true);
            let mut after = guest.clone();
            for step in steps {
                match step {
                    Step::Remove(path) => { after.remove(&path); }
                    Step::Send(path) => { after.insert(path.clone(), host[&path].clone()); }
                }
            }
            prop_assert!(host.iter().all(|(path, entry)| after.get(path).is_some_and(|now| same(now, entry))));
        }

        #[test]
        fn a_manifest_comes_back_and_a_hostile_one_is_nothing(sent in trees(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let manifest = crate::Manifest { git: Default::default(), entries: sent };
            prop_assert_eq!(crate::Manifest::decode(&manifest.encode()), Some(manifest));
            let _ = crate::Manifest::decode(&bytes);
        }
    }
}
