//! Bringing a guest's commits back.
//!
//! What comes is hostile: names and ids are checked here, and objects go through `git index-pack --strict`,
//! which takes nothing that is malformed or leads nowhere. No program, hook or setting of the guest's is
//! used on this side.

use std::fs::File;
use std::path::Path;

use banger_guest_proto::RelPath;
use serde::Serialize;

use crate::checkout::{GITLINK, parse_staged};
use crate::git::{Git, GitError};
use crate::incoming::Incoming;
use crate::prepare::is_object;

/// Why commits were not brought back.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// git failed, or refused what came.
    #[error("git refused what the guest sent, or failed")]
    Git(#[source] GitError),
    /// The guest names no references.
    #[error("the guest sent something that is no list of branches")]
    Malformed,
    /// It names too many.
    #[error("the guest has more than {MAX_REFS} branches, tags and kept commits")]
    TooMany,
    /// The branch that was asked for exists, and is elsewhere.
    #[error("the branch `{name}` exists here, and does not lead to what the guest has")]
    BranchExists {
        /// Its name.
        name: String,
    },
    /// What came cannot be put among the repository's objects.
    #[error("failed to put what the guest sent into the repository")]
    Keep(#[source] std::io::Error),
    /// What came cannot be read.
    #[error("failed to read what the guest sent")]
    Read(#[source] std::io::Error),
}

impl PullError {
    /// Whether there was no room here.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let full = [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::QuotaExceeded,
        ];
        match self {
            Self::Git(error) => error.is_disk_full(),
            Self::Keep(error) | Self::Read(error) => full.contains(&error.kind()),
            Self::Malformed | Self::TooMany | Self::BranchExists { .. } => false,
        }
    }
}

impl From<GitError> for PullError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

/// So many branches, tags and kept commits are taken of a guest.
const MAX_REFS: usize = 5000;

/// A name in the guest, and the commit that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The reference here.
    pub reference: String,
    /// The commit, or what a tag stands for.
    pub commit: String,
    /// Whether it is new here.
    pub new: bool,
}

impl Pulled {
    /// What [`NOTE_PULLED`](crate::NOTE_PULLED) is told of it.
    #[must_use]
    pub fn note(&self, vm: &str) -> String {
        let commit = &self.commit;
        let tag = self
            .reference
            .strip_prefix(&format!("refs/banger/{vm}/tags/"));
        let tag = tag.map(|name| format!("{commit} refs/tags/{name}\n"));
        format!("^{commit}\n{}", tag.unwrap_or_default())
    }
}

/// Run in the guest: notes the work that is not committed as one more commit, and lists what there is. The
/// same work gives the same commit: its times are those of the one before. A stash is named by its commit, as its
/// number changes with the next one. Tags that were sent just so are left out. The repository may belong to any user.
pub const SNAPSHOT: &str = r#"
set -eu
cd "$1"
git() { command git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c safe.directory='*' "$@"; }
own=$(git rev-parse --git-dir)/banger
index=$(mktemp)
trap 'rm -f "$index"' EXIT
cp "$(git rev-parse --git-path index)" "$index" 2>/dev/null || rm -f "$index"
export GIT_INDEX_FILE="$index"
git add -A
tree=$(git write-tree)
unset GIT_INDEX_FILE
head=$(git rev-parse -q --verify 'HEAD^{commit}' || true)
old=$( [ -z "$head" ] || git rev-parse "$head^{tree}" )
if [ "$tree" = "$old" ] || { [ -z "$head" ] && [ -z "$(git ls-tree "$tree")" ]; }; then
  git update-ref -d refs/banger/uncommitted
else
  date=$( [ -z "$head" ] && echo 0 || git show -s --format=%ct "$head" )
  export GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_AUTHOR_DATE="@$date +0000"
  export GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost GIT_COMMITTER_DATE="@$date +0000"
  commit=$(echo "Uncommitted work in the VM" | git commit-tree "$tree" ${head:+-p "$head"})
  git update-ref refs/banger/uncommitted "$commit"
fi
# Of a repository that is another user's, so is what was just made in it.
own_dir=$(git rev-parse --git-dir)
owner=$(stat -c %u:%g "$own_dir" || true)
[ "$owner" = "$(id -u):$(id -g)" ] || find "$own_dir" -user "$(id -u)" -exec chown -h "$owner" {} + || true
echo "${head:--} HEAD"
git for-each-ref --format='%(objectname) %(refname)' refs/heads refs/banger/uncommitted refs/banger/kept refs/banger/base
git stash list --format='%H refs/banger/stash/%H'
{
  git for-each-ref --format='%(objectname) %(refname)' refs/tags
  cat "$own/tags-sent" "$own/tags-sent" 2>/dev/null || true
} | sort | uniq -u
"#;

/// Run in the guest, with the ids that are wanted and, after `--not`, those that are known, on its
/// standard input: sends the objects.
pub const PACK: &str = r#"
set -eu
cd "$1"
git() { command git -c core.hooksPath=/dev/null -c safe.directory='*' "$@"; }
while read -r line; do
  case "$line" in
    ^*) git cat-file -e "${line#^}" 2>/dev/null || continue ;;
  esac
  echo "$line"
done | git pack-objects --revs --thin --stdout -q --delta-base-offset
"#;

/// What a guest has, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRefs {
    /// Names below `refs/`, and their commits.
    pub refs: Vec<(String, String)>,
    /// The commit of its `HEAD`.
    pub head: Option<String>,
}

/// Names of git's are any bytes. Here they are text, also as files, so of a line that is none each byte beyond ASCII is
/// written as in an address: `caf%e9`.
fn readable(output: &[u8]) -> String {
    let mut text = String::with_capacity(output.len());
    for line in output.split_inclusive(|byte| *byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) => line.iter().for_each(|byte| match byte {
                0..0x80 => text.push(char::from(*byte)),
                _ => text.push_str(&format!("%{byte:02x}")),
            }),
        }
    }
    text
}

impl GuestRefs {
    /// Takes in what [`SNAPSHOT`] printed.
    ///
    /// # Errors
    /// [`PullError::Malformed`] when it is no such list.
    pub fn parse(output: &[u8]) -> Result<Self, PullError> {
        let mut found = Self {
            refs: vec![],
            head: None,
        };
        let text = readable(output);
        for line in text.lines() {
            let (object, name) = line.split_once(' ').ok_or(PullError::Malformed)?;
            if name == "HEAD" {
                found.head = is_object(object).then(|| object.to_owned());
                continue;
            }
            let known = ["refs/heads/", "refs/tags/", "refs/banger/"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            if !known || !is_object(object) {
                return Err(PullError::Malformed);
            }
            if found.refs.len() == MAX_REFS {
                return Err(PullError::TooMany);
            }
            found.refs.push((name.to_owned(), object.to_owned()));
        }
        Ok(found)
    }

    /// The commit that holds all there is: the uncommitted work, or `HEAD`.
    #[must_use]
    pub fn tip(&self) -> Option<&str> {
        let uncommitted = self
            .refs
            .iter()
            .find(|(name, _)| name == "refs/banger/uncommitted");
        uncommitted
            .map(|(_, commit)| commit.as_str())
            .or(self.head.as_deref())
    }

    /// The commit that was sent into it last.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        self.refs
            .iter()
            .find(|(name, _)| name == "refs/banger/base")
            .map(|(_, commit)| commit.as_str())
    }
}

/// What of the guest's commits is not here: input for [`PACK`]. Nothing when all is.
///
/// # Errors
/// [`PullError`] when git fails.
pub fn wanted(git: &Git, vm: &str, guest: &GuestRefs) -> Result<Option<String>, PullError> {
    let commits: std::collections::BTreeSet<&str> = guest
        .refs
        .iter()
        .map(|(_, commit)| commit.as_str())
        .chain(guest.head.as_deref())
        .collect();
    let (known, missing): (Vec<&str>, Vec<&str>) =
        commits.into_iter().partition(|commit| has(git, commit));
    if missing.is_empty() {
        return Ok(None);
    }
    let mut input: String = missing.iter().map(|commit| format!("{commit}\n")).collect();
    let ours = git.run(&[
        "for-each-ref",
        "--format=%(objectname)",
        &format!("refs/banger/{vm}/"),
    ])?;
    let ours = String::from_utf8_lossy(&ours).into_owned();
    for commit in known.into_iter().chain(ours.lines()) {
        input.push_str(&format!("^{commit}\n"));
    }
    Ok(Some(input))
}

fn has(git: &Git, object: &str) -> bool {
    git.run(&["cat-file", "-e", object]).is_ok()
}

/// Takes the objects that came into the repository, and names the commits `refs/banger/<vm>/…`. A name that
/// led elsewhere keeps what it led to under another name: nothing that was pulled is ever lost.
///
/// # Errors
/// [`PullError`] when what came is not taken, or the branch exists.
pub fn fetch(
    git: &Git,
    vm: &str,
    guest: &GuestRefs,
    pack: Option<File>,
    branch: Option<&str>,
) -> Result<Vec<Pulled>, PullError> {
    let incoming = pack.map(|pack| Incoming::take(git, pack)).transpose()?;
    let with_incoming = incoming.as_ref().map_or(git, |incoming| &incoming.git);
    let mut named = vec![];
    for (name, commit) in &guest.refs {
        let inner = name.strip_prefix("refs/").ok_or(PullError::Malformed)?;
        let inner = inner.strip_prefix("banger/").unwrap_or(inner);
        if inner == "base" {
            continue;
        }
        named.push((format!("refs/banger/{vm}/{inner}"), commit));
    }
    let head = guest
        .head
        .iter()
        .map(|commit| (format!("refs/banger/{vm}/HEAD"), commit));
    named.extend(head);
    for (name, commit) in &named {
        git.run(&["check-ref-format", name])?;
        // All that it leads to is here, and is what it says.
        with_incoming.run(&["rev-list", "--objects", "--quiet", commit, "--not", "--all"])?;
    }
    if let Some(incoming) = incoming {
        incoming.keep().map_err(PullError::Keep)?;
    }
    let tip = guest.tip();
    if let (Some(branch), Some(tip)) = (branch, tip) {
        git.run(&["check-ref-format", "--branch", branch])?;
        let name = format!("refs/heads/{branch}");
        match git.maybe(&["rev-parse", "-q", "--verify", &name]) {
            Some(old) if old != tip => {
                return Err(PullError::BranchExists {
                    name: branch.to_owned(),
                });
            }
            Some(_) => {}
            None => drop(git.run(&[
                "update-ref",
                "--create-reflog",
                "-m",
                "banger: pulled",
                &name,
                tip,
                "",
            ])?),
        }
    }
    let cleared = clear_the_way(git, vm, &named)?;
    let mut pulled = vec![];
    let tags = format!("refs/banger/{vm}/tags/");
    for (reference, commit) in named {
        let old = git.maybe(&["rev-parse", "-q", "--verify", &reference]);
        if let Some(old) = old.as_deref().filter(|old| old != commit) {
            // A tag is an object of its own, which no later one leads to.
            let behind = !reference.starts_with(&tags)
                && git
                    .run(&["merge-base", "--is-ancestor", old, commit])
                    .is_ok();
            if !behind {
                keep(git, vm, old)?;
            }
        }
        let new = old.as_deref() != Some(commit.as_str());
        if new {
            git.run(&["update-ref", "-m", "banger: pulled", &reference, commit])?;
        }
        pulled.push(Pulled {
            reference,
            commit: commit.clone(),
            new,
        });
    }
    // What was not committed then, and is now or is gone: it keeps its name among the kept.
    let gone = format!("refs/banger/{vm}/uncommitted");
    if !pulled.iter().any(|one| one.reference == gone)
        && let Some(old) = git.maybe(&["rev-parse", "-q", "--verify", &gone])
    {
        keep(git, vm, &old)?;
        git.run(&["update-ref", "-d", &gone, &old])?;
    }
    for one in cleared {
        one.forget_when_led_to(git, vm, &pulled)?;
    }
    Ok(pulled)
}

/// Names a commit among the kept ones; whether it had no such name.
fn keep(git: &Git, vm: &str, object: &str) -> Result<bool, PullError> {
    let kept = format!("refs/banger/{vm}/kept/{object}");
    let new = git.maybe(&["rev-parse", "-q", "--verify", &kept]).is_none();
    git.run(&["update-ref", &kept, object])?;
    Ok(new)
}

/// A name that was in the way of new ones.
#[derive(Debug)]
struct Cleared {
    name: String,
    object: String,
    /// It was kept for this alone.
    new: bool,
}

/// git has no branch `x` beside `x/y`. Of names here that are in the way of what came, so that the guest no longer has
/// them, what they led to is kept first; then they go.
fn clear_the_way(
    git: &Git,
    vm: &str,
    named: &[(String, &String)],
) -> Result<Vec<Cleared>, PullError> {
    let prefix = format!("refs/banger/{vm}/");
    let kept = format!("{prefix}kept/");
    let ours = git.run(&["for-each-ref", "--format=%(objectname) %(refname)", &prefix])?;
    let mut cleared = vec![];
    for line in String::from_utf8_lossy(&ours).lines() {
        let Some((object, name)) = line.split_once(' ') else {
            continue;
        };
        let in_the_way = named.iter().any(|(new, _)| exclude(name, new));
        if in_the_way && !name.starts_with(&kept) {
            let new = keep(git, vm, object)?;
            git.run(&["update-ref", "-d", name, object])?;
            cleared.push(Cleared {
                name: name.to_owned(),
                object: object.to_owned(),
                new,
            });
        }
    }
    Ok(cleared)
}

/// Whether git cannot have both: the one would have to be a folder.
fn exclude(one: &str, other: &str) -> bool {
    let inside = |outer: &str, inner: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    inside(one, other) || inside(other, one)
}

impl Cleared {
    /// A new name that took its place may lead to it: then it needs no other.
    fn forget_when_led_to(&self, git: &Git, vm: &str, pulled: &[Pulled]) -> Result<(), PullError> {
        let mut places = pulled
            .iter()
            .filter(|one| exclude(&self.name, &one.reference));
        let leads = |one: &Pulled| {
            one.commit == self.object
                || git
                    .run(&["merge-base", "--is-ancestor", &self.object, &one.commit])
                    .is_ok()
        };
        if self.new && places.any(leads) {
            let kept = format!("refs/banger/{vm}/kept/{}", self.object);
            // The guest may have one of that name itself.
            if !pulled.iter().any(|one| one.reference == kept) {
                git.run(&["update-ref", "-d", &kept, &self.object])?;
            }
        }
        Ok(())
    }
}

/// The repository that a path is in.
///
/// # Errors
/// [`PullError`] when it is in none.
pub fn repository(path: &Path) -> Result<Git, PullError> {
    Ok(Git::new(
        Git::new(path).path(&["rev-parse", "--absolute-git-dir"])?,
    ))
}

/// The submodules of the checkout that a path is in, and theirs: each that is here, where it stands in the checkout, outer ones
/// first.
///
/// # Errors
/// [`PullError`] when git fails.
pub fn submodules(path: &Path) -> Result<Vec<(RelPath, Git)>, PullError> {
    let git = Git::new(path);
    // A bare repository has no place for them.
    let Ok(top) = git.path(&["rev-parse", "--show-toplevel"]) else {
        return Ok(vec![]);
    };
    let mut found = vec![];
    inside(&top, None, &mut found)?;
    Ok(found)
}

fn inside(
    folder: &Path,
    prefix: Option<&RelPath>,
    found: &mut Vec<(RelPath, Git)>,
) -> Result<(), PullError> {
    let staged = Git::new(folder).run(&["ls-files", "--stage", "-z"])?;
    for one in parse_staged(&staged) {
        let at = folder.join(one.path.as_path());
        if one.mode != GITLINK || !at.join(".git").exists() {
            continue;
        }
        let path = match prefix {
            Some(prefix) => prefix.join(one.path.as_bytes()),
            None => Ok(one.path),
        };
        let Ok(path) = path else { continue };
        found.push((path.clone(), repository(&at)?));
        inside(&at, Some(&path), found)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn a_name_and_one_inside_of_it_exclude_each_other() {
        for (one, other, both) in [
            ("refs/a/x", "refs/a/x/y", false),
            ("refs/a/x/y/z", "refs/a/x", false),
            ("refs/a/x", "refs/a/x", true),
            ("refs/a/x", "refs/a/x-y", true),
            ("refs/a/x/y", "refs/a/x/z", true),
        ] {
            assert_eq!(exclude(one, other), !both, "{one} {other}");
        }
    }

    #[test]
    fn a_guests_list_is_checked() {
        let list =
            format!("{ID} HEAD\n{ID} refs/heads/main\n{ID} refs/banger/base\n{ID} refs/tags/v1\n");
        let refs = GuestRefs::parse(list.as_bytes()).unwrap();
        assert_eq!(
            (refs.tip(), refs.base(), refs.refs.len()),
            (Some(ID), Some(ID), 3)
        );
        assert_eq!(GuestRefs::parse(b"- HEAD\n").unwrap().tip(), None);
        for bad in [
            format!("{ID}\n"),
            format!("{ID} refs/remotes/x\n"),
            "x refs/heads/a\n".to_owned(),
            format!("--upload-pack=x refs/heads/{ID}\n"),
            "\u{1b}[2J\n".to_owned(),
        ] {
            assert!(GuestRefs::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let names = [
            b"refs/heads/caf\xe9".as_slice(),
            "refs/heads/café".as_bytes(),
        ];
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [ID.as_bytes(), b" ", name, b"\n"].concat())
            .collect();
        let refs = GuestRefs::parse(&list).unwrap().refs;
        assert_eq!(
            [&refs[0].0, &refs[1].0],
            ["refs/heads/caf%e9", "refs/heads/café"]
        );
        let many = |count| {
            (0..count)
                .map(|n| format!("{ID} refs/heads/{n}\n"))
                .collect::<String>()
        };
        assert!(GuestRefs::parse(many(MAX_REFS).as_bytes()).is_ok());
        let refused = GuestRefs::parse(many(MAX_REFS + 1).as_bytes());
        assert!(matches!(refused, Err(PullError::TooMany)));
    }
}
