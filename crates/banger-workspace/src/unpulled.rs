//! What a guest's workspaces hold that was never brought back: commits that were neither sent nor pulled, and
//! files that are neither as they were sent nor in what was pulled last.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_guest_proto::{Entry, EntryKind, RelPath};
use serde::{Deserialize, Serialize};

use crate::manifest::{Entries, Manifest, same};
use crate::prepare::{GuestRepo, PrepareError, rel};

/// Where git keeps its references.
const REFS: &[u8] = b".git/refs";
/// So many names of files are told.
const MAX_NAMES: usize = 20;
/// The most workspaces that are looked at in one guest.
const MAX_WORKSPACES: usize = 100;

/// Run in the guest: the path of each workspace, with a zero byte. They are looked for as deep as they are likely to be.
pub const WORKSPACES: &str = r#"
for mark in /root/*/.git/banger/workspace /root/*/*/.git/banger/workspace /root/*/*/*/.git/banger/workspace; do
  [ ! -f "$mark" ] || printf '%s\0' "${mark%/.git/banger/workspace}"
done
"#;

/// Run in the guest: for each workspace its path, how many commits (those of stashes and tags among them) and how many tags
/// it has that are neither known to have been sent nor pulled, and the files that differ from its last commit (none when
/// they are as they were pulled); each ends with a zero byte, and the list of files with one more. What submodules hold
/// counts as the workspace's.
pub const UNPULLED: &str = r#"
command -v git >/dev/null || exit 0
git() { command git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c safe.directory='*' "$@"; }
index=$(mktemp) || exit 1
trap 'rm -f "$index"' EXIT
tab=$(printf '\t')
in_submodules() {
  git ls-files -s | sed -n "s/^160000 [0-9a-f]* [0-9]$tab//p" | while IFS= read -r sub; do
    [ -e "./$sub/.git" ] || continue
    (cd "./$sub" && prefix="$prefix$sub/" && "$@" && in_submodules "$@")
  done
}
counts() {
  own=$(git rev-parse --git-dir)/banger
  commits=$({
    git for-each-ref --format='%(objectname)' refs/heads refs/tags refs/banger/kept
    git rev-parse -q --verify 'HEAD^{commit}'
    git stash list --format=%H
    git for-each-ref --format='^%(objectname)' refs/banger/base
    cat "$own/known"
    git rev-parse -q --verify refs/banger/base >/dev/null || git for-each-ref --format='^%(objectname)' refs/remotes
  } | git rev-list --ignore-missing --count --stdin) || commits=0
  tags=$({
    git for-each-ref --format='%(objectname) %(refname)' refs/tags
    cat "$own/tags-sent" "$own/tags-sent" "$own/tags-pulled" "$own/tags-pulled"
  } | sort | uniq -u | wc -l)
  echo $commits $tags
}
names() {
  known=$(git rev-parse --git-dir)/banger/known
  pulled=$(git rev-parse -q --verify refs/banger/uncommitted) || pulled=
  if [ -n "$pulled" ] && grep -qxF "^$pulled" "$known"; then
    cp "$(git rev-parse --git-path index)" "$index"
    GIT_INDEX_FILE=$index git add -A
    [ "$(GIT_INDEX_FILE=$index git write-tree)" = "$(git rev-parse "$pulled^{tree}")" ] && return
  fi
  {
    git diff --name-only -z --no-renames --no-ext-diff --ignore-submodules HEAD -- || git ls-files -z
    git ls-files -z -o --exclude-standard
  } | if [ -z "$prefix" ]; then cat; else
    xargs -0 sh -c 'in=$1; shift; for name; do printf "%s%s\0" "$in" "$name"; done' sh "$prefix"
  fi
}
for mark in /root/*/.git/banger/workspace /root/*/*/.git/banger/workspace /root/*/*/*/.git/banger/workspace; do
  [ -f "$mark" ] || continue
  cd "${mark%/.git/banger/workspace}" || continue
  prefix=
  printf '%s\0' "$PWD"
  { counts; in_submodules counts; } | {
    commits=0 tags=0
    while read -r more_commits more_tags; do
      commits=$((commits + more_commits)) tags=$((tags + more_tags))
    done
    printf '%s %s\0' "$commits" "$tags"
  }
  names
  in_submodules names
  printf '\0'
done 2>/dev/null
"#;

/// Run in the guest, with lines `^<commit>` and `<object> refs/tags/<name>` on its standard input: these are on the host now. On a full
/// disk what was noted before stays as it is.
pub const NOTE_PULLED: &str = r#"
cd "$1" && own=$(command git -c safe.directory='*' rev-parse --git-dir)/banger && mkdir -p "$own" && cd "$own" || exit 0
trap 'rm -f noted.next known.next tags.next' EXIT
{ cat known tags-pulled 2>/dev/null; cat; } | sort -u >noted.next &&
  sed -n '/^^/p' noted.next >known.next &&
  sed -n '\, refs/tags/,p' noted.next >tags.next &&
  mv known.next known && mv tags.next tags-pulled
"#;

/// What one workspace holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpulled {
    /// The folder in the guest.
    pub path: String,
    /// Commits.
    pub commits: u64,
    /// Tags.
    #[serde(default)]
    pub tags: u64,
    /// Files that were changed, the first of them.
    pub files: Vec<String>,
    /// How many files there are beyond these.
    pub more_files: u64,
}

impl Unpulled {
    /// Whether there is anything.
    #[must_use]
    pub fn is_something(&self) -> bool {
        self.commits > 0 || self.tags > 0 || !self.files.is_empty()
    }
}

/// A workspace as the guest tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The folder.
    pub path: String,
    commits: u64,
    tags: u64,
    names: BTreeSet<RelPath>,
}

/// Takes in what [`UNPULLED`] printed. What makes no sense is left out: a guest that lies harms its own work only.
#[must_use]
pub fn told(output: &[u8]) -> Vec<Told> {
    let mut words = output.split(|byte| *byte == 0);
    let mut all = vec![];
    while let (Some(path), Some(count)) = (words.next(), words.next()) {
        let names = words.by_ref().take_while(|name| !name.is_empty());
        let names = names.filter_map(|name| RelPath::new(name).ok()).collect();
        let counts = std::str::from_utf8(count).unwrap_or_default();
        let mut counts = counts
            .split_whitespace()
            .map(|count| count.parse().unwrap_or_default());
        let path = String::from_utf8_lossy(path).into_owned();
        if !path.starts_with("/root/") || all.len() == MAX_WORKSPACES {
            break;
        }
        all.push(Told {
            path,
            commits: counts.next().unwrap_or_default(),
            tags: counts.next().unwrap_or_default(),
            names,
        });
    }
    all
}

/// Takes in what [`WORKSPACES`] printed; `None` when it makes no sense.
#[must_use]
pub fn workspaces(output: &[u8]) -> Option<Vec<PathBuf>> {
    let words = output.split_inclusive(|byte| *byte == 0).map(|word| {
        let path = word.strip_suffix(b"\0")?;
        path.starts_with(b"/root/")
            .then(|| PathBuf::from(OsStr::from_bytes(path)))
    });
    let all: Vec<PathBuf> = words.collect::<Option<_>>()?;
    (all.len() <= MAX_WORKSPACES).then_some(all)
}

impl GuestRepo<'_> {
    /// Whether the folder is just as it was sent, so that git need not be asked, which takes seconds in a slow guest. When
    /// in doubt it is not: of submodules, and of references that nobody here knows. Blocks for two round trips.
    ///
    /// # Errors
    /// [`PrepareError`] when the guest cannot be asked.
    pub fn is_as_sent(&self) -> Result<bool, PrepareError> {
        let state = self.state()?;
        let Some(sent) = &state.manifest else {
            return Ok(false);
        };
        if !state.names_only_what_is_known() {
            return Ok(false);
        }
        let names: BTreeSet<RelPath> = [rel(REFS)?, rel(b".git/modules")?].into();
        let mut names = self.list_all(&names)?;
        names.retain(|_, entry| !matches!(entry.kind, EntryKind::Folder | EntryKind::Missing));
        let is_branch = |path: &RelPath| path.as_bytes().starts_with(b".git/refs/heads/");
        let is_ours = |path: &RelPath| {
            let name = path.as_bytes().strip_prefix(b".git/refs/banger/");
            name.is_some_and(|name| !name.starts_with(b"kept/"))
        };
        let branches = names.keys().filter(|path| is_branch(path)).count();
        if branches != state.loose_count()
            || !names.keys().all(|path| is_branch(path) || is_ours(path))
        {
            return Ok(false);
        }
        let mut found = self.list_all(&BTreeSet::new())?;
        found.retain(|_, entry| entry.kind != EntryKind::Folder);
        let is_sent = |(path, entry): (&RelPath, &Entry)| {
            sent.entries.get(path).is_some_and(|sent| same(sent, entry))
        };
        Ok(found.len() == sent.entries.len() && found.iter().all(is_sent))
    }

    /// What of that was not sent just so. Blocks for two round trips.
    ///
    /// # Errors
    /// [`PrepareError`] when the guest cannot be asked.
    pub fn unpulled(&self, told: Told) -> Result<Unpulled, PrepareError> {
        let mut files = vec![];
        if !told.names.is_empty() {
            let sent = self.state()?.manifest.unwrap_or_default();
            let found = self.list(self.wire(), &told.names)?;
            files = changed(&told.names, &sent, &found);
        }
        let more_files = files.len().saturating_sub(MAX_NAMES) as u64;
        files.truncate(MAX_NAMES);
        Ok(Unpulled {
            path: told.path,
            commits: told.commits,
            tags: told.tags,
            files,
            more_files,
        })
    }
}

/// Those that are not as they were sent.
fn changed(names: &BTreeSet<RelPath>, sent: &Manifest, found: &Entries) -> Vec<String> {
    let as_sent = |path: &RelPath| {
        let there = found
            .get(path)
            .filter(|found| found.kind != EntryKind::Missing);
        match (sent.entries.get(path), there) {
            (Some(sent), Some(found)) => same(sent, found),
            (None, None) => true,
            // A submodule's folder was sent by its files.
            (None, Some(found)) => found.kind == EntryKind::Folder,
            (Some(_), None) => false,
        }
    };
    let changed = names.iter().filter(|path| !as_sent(path));
    changed.map(ToString::to_string).collect()
}

/// The home of workspaces in a guest.
#[must_use]
pub fn home() -> &'static Path {
    Path::new("/root")
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_guest_proto::FileTime;

    #[test]
    fn a_guests_tale_is_checked() {
        let all = told(b"/root/repo\x003 2\0a\nb\0c\0\0/root/x\0nonsense\0\0");
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].commits, all[0].tags, all[0].names.len()), (3, 2, 2));
        assert_eq!((all[1].commits, all[1].tags, all[1].names.len()), (0, 0, 0));
        for bad in [
            &b""[..],
            b"/etc\x001\0\0",
            b"/root/x",
            b"\0\0\0\0",
            b"\xff\0\xff\0\xff",
        ] {
            assert_eq!(told(bad), vec![], "{bad:?}");
        }
        let many = b"/root/x\x001\0\0".repeat(1000);
        assert_eq!(told(&many).len(), MAX_WORKSPACES);
        let up = told(b"/root/x\x001\0../../etc/passwd\0/abs\0\0");
        assert!(up[0].names.is_empty());
    }

    #[test]
    fn what_is_as_it_was_sent_is_no_work() {
        let path = |name: &str| RelPath::new(name).unwrap();
        let file = |name: &str, seconds| Entry {
            path: path(name),
            kind: EntryKind::File {
                size: 1,
                linked: false,
            },
            mode: 0o644,
            mtime: FileTime { seconds, nanos: 0 },
        };
        let entries = |all: &[(&str, i64)]| -> Entries {
            all.iter()
                .map(|(name, time)| (path(name), file(name, *time)))
                .collect()
        };
        let sent = Manifest {
            entries: entries(&[("same", 1), ("edited", 1), ("gone", 1)]),
            ..Manifest::default()
        };
        let found = entries(&[("same", 1), ("edited", 2), ("new", 1)]);
        let names = ["same", "edited", "gone", "new", "neither"]
            .map(path)
            .into();
        assert_eq!(changed(&names, &sent, &found), ["edited", "gone", "new"]);
    }
}
