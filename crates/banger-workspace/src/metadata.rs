//! The guest's `.git`, made on this side: from nothing but objects, references, the index and a few
//! settings. Nothing of the host's configuration goes along (it may hold secrets), no hook, no history of
//! what was done here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::checkout::{CheckoutError, GITLINK, Mode, Repo, Staged};
use crate::git::{Git, GitError};

/// Writes a commit's files below `folder/tree`, and gives the index that fits them.
pub(crate) fn check_out(git: &Git, commit: &str, folder: &Path) -> Result<PathBuf, CheckoutError> {
    let (tree, index) = (folder.join("tree"), folder.join("index"));
    fs::create_dir(&tree)?;
    let inside = git.with("GIT_INDEX_FILE", &index);
    inside.run(&["read-tree", commit])?;
    let tree = tree.as_os_str();
    let mut args = vec!["--work-tree".as_ref(), tree];
    let words = ["checkout-index", "--all", "--index", "--quiet"];
    args.extend(words.map(AsRef::<std::ffi::OsStr>::as_ref));
    inside.run(&args)?;
    // The commit's time for all: the same commit again is then the same files.
    let seconds = git.line(&["show", "-s", "--format=%ct", commit])?;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.parse().unwrap_or_default());
    let staged = crate::checkout::parse_staged(&inside.run(&["ls-files", "--stage", "-z"])?);
    for one in staged {
        let path = Path::new(tree).join(one.path.as_path());
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
            fs::File::open(&path)?.set_times(fs::FileTimes::new().set_modified(time))?;
        }
    }
    let refresh = ["update-index", "-q", "--refresh"].map(AsRef::<std::ffi::OsStr>::as_ref);
    let mut args = vec!["--work-tree".as_ref(), tree];
    args.extend(refresh);
    let _ = inside.run(&args);
    Ok(index)
}

/// A setting, with its value quoted as git-config(1) has it.
fn setting(name: &str, value: &str) -> String {
    let quoted = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\t{name} = \"{quoted}\"\n")
}

/// A section with a name, quoted.
fn section(kind: &str, name: &str) -> String {
    let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[{kind} \"{quoted}\"]\n")
}

/// An address without a password; nothing for a folder of this host.
pub(crate) fn public_url(url: &str) -> Option<String> {
    if let Some((scheme, rest)) = url.split_once("://") {
        if scheme == "file" {
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match authority.rsplit_once('@') {
            // The user of ssh is part of the address; a password never is.
            Some((user, host)) if scheme.contains("ssh") => {
                format!("{}@{host}", user.split(':').next().unwrap_or_default())
            }
            Some((_, host)) => host.to_owned(),
            None => authority.to_owned(),
        };
        return Some(format!("{scheme}://{host}/{path}"));
    }
    // host:path, as scp(1) has it.
    let colon = url.find(':')?;
    let local = url.find('/').is_some_and(|slash| slash < colon);
    (!local).then(|| url.to_owned())
}

fn config(git: &Git, partial: bool) -> String {
    let format = git.maybe(&["rev-parse", "--show-object-format"]);
    let sha256 = format.as_deref() == Some("sha256");
    let sparse = git.maybe(&["config", "--get", "core.sparseCheckout"]);
    let mut text = "[core]\n".to_owned();
    let version = if sha256 || partial { "1" } else { "0" };
    // Only size and time (in seconds) are the same on both sides: with these two settings git in the
    // guest needs not read every file once.
    for (name, value) in [
        ("repositoryformatversion", version),
        ("filemode", "true"),
        ("bare", "false"),
        ("logallrefupdates", "true"),
        ("checkStat", "minimal"),
        ("trustctime", "false"),
    ] {
        text.push_str(&setting(name, value));
    }
    if sparse.as_deref() == Some("true") {
        text.push_str(&setting("sparseCheckout", "true"));
        if git
            .maybe(&["config", "--get", "core.sparseCheckoutCone"])
            .as_deref()
            == Some("true")
        {
            text.push_str(&setting("sparseCheckoutCone", "true"));
        }
    }
    if sha256 || partial {
        text.push_str("[extensions]\n");
        if sha256 {
            text.push_str(&setting("objectFormat", "sha256"));
        }
        if partial {
            text.push_str(&setting("partialClone", "origin"));
        }
    }
    let name = git.maybe(&["config", "--get", "user.name"]);
    let email = git.maybe(&["config", "--get", "user.email"]);
    if name.is_some() || email.is_some() {
        text.push_str("[user]\n");
        for (key, value) in [("name", name), ("email", email)] {
            text.push_str(&value.map(|value| setting(key, &value)).unwrap_or_default());
        }
    }
    for remote in git.maybe(&["remote"]).unwrap_or_default().lines() {
        let url = git.maybe(&["config", "--get", &format!("remote.{remote}.url")]);
        if let Some(url) = url.and_then(|url| public_url(&url)) {
            text.push_str(&section("remote", remote));
            text.push_str(&setting("url", &url));
            text.push_str(&setting(
                "fetch",
                &format!("+refs/heads/*:refs/remotes/{remote}/*"),
            ));
            if partial && remote == "origin" {
                text.push_str(&setting("promisor", "true"));
            }
        }
    }
    text
}

/// Makes a repository's `.git` in a folder that is empty. What it holds of objects is what `known`, an
/// earlier commit that the guest has, does not.
pub(crate) fn make(repo: &Repo, folder: &Path, known: Option<&str>) -> Result<(), CheckoutError> {
    let git = &repo.git;
    fs::create_dir_all(folder.join("objects/pack"))?;
    fs::create_dir_all(folder.join("objects/info"))?;
    fs::create_dir_all(folder.join("refs/heads"))?;
    fs::create_dir_all(folder.join("info"))?;
    let partial = is_partial(git);
    fs::write(folder.join("config"), config(git, partial))?;
    let commit = repo.head.commit.as_deref();
    let head = match (&repo.head.branch, commit) {
        (Some(branch), _) => format!("ref: {branch}\n"),
        (None, Some(commit)) => format!("{commit}\n"),
        (None, None) => "ref: refs/heads/main\n".to_owned(),
    };
    fs::write(folder.join("HEAD"), head)?;
    if let (Some(branch), Some(commit)) = (&repo.head.branch, commit) {
        let path = folder.join(branch);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, format!("{commit}\n"))?;
    }
    let path_of = |name: &str| git.path(&["rev-parse", "--git-path", name]);
    for name in ["info/exclude", "info/sparse-checkout"] {
        if let Ok(text) = fs::read(path_of(name)?) {
            fs::write(folder.join(name), text)?;
        }
    }
    shallow(repo, folder, &path_of("shallow")?)?;
    index(repo, folder, &path_of("index")?)?;
    if repo.mode == Mode::FullCopy {
        let refs = git.run(&["for-each-ref", "--format=%(objectname) %(refname)"])?;
        let mut text = b"# pack-refs with: sorted \n".to_vec();
        text.extend_from_slice(&refs);
        fs::write(folder.join("packed-refs"), text)?;
    }
    pack(repo, folder, partial, known)
}

/// Whether the repository may lack objects that a remote of its has: what says so has changed with git's years.
fn is_partial(git: &Git) -> bool {
    let older = ["config", "--get", "extensions.partialClone"];
    let promisor = r"^remote\..*\.promisor$";
    let newer = ["config", "--type=bool", "--get-regexp", promisor];
    let promised = git.maybe(&newer).unwrap_or_default();
    git.maybe(&older).is_some() || promised.lines().any(|line| line.ends_with(" true"))
}

fn shallow(repo: &Repo, folder: &Path, existing: &Path) -> Result<(), CheckoutError> {
    let mut text = match repo.mode {
        Mode::FullCopy => fs::read(existing).unwrap_or_default(),
        _ => vec![],
    };
    if let (Some(commit), true) = (&repo.head.commit, repo.mode != Mode::FullCopy) {
        // Whether it has parents says the commit itself, also in a clone that lacks them.
        let object = repo.git.run(&["cat-file", "commit", commit])?;
        let mut lines = object
            .split(|byte| *byte == b'\n')
            .take_while(|line| !line.is_empty());
        if lines.any(|line| line.starts_with(b"parent ")) {
            text = format!("{commit}\n").into_bytes();
        }
    }
    if !text.is_empty() {
        fs::write(folder.join("shallow"), text)?;
    }
    Ok(())
}

/// A copy of the index that any git can read.
///
/// Git in the guest takes a file for unchanged when its size and the second of its time are as the index has them
/// (`core.checkStat`); here the rest of stat(2) counts, too. So two things are told it: which files differ although
/// they may look the same there, and that what is of the second in which the index was read may still change in it
/// (what is not older than the index is compared by its content: git's Documentation/technical/racy-git).
fn index(repo: &Repo, folder: &Path, existing: &Path) -> Result<(), CheckoutError> {
    let source = repo.index.as_deref().unwrap_or(existing);
    let target = folder.join("index");
    let read_in = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    if fs::copy(source, &target).is_err() {
        // Nothing was ever added.
        return Ok(());
    }
    let git = repo.git.with("GIT_INDEX_FILE", &target);
    let plain = [
        "-c",
        "index.sparse=false",
        "update-index",
        "--no-split-index",
        "--no-untracked-cache",
        "--no-fsmonitor",
        "--force-write-index",
    ];
    git.run(&plain)?;
    if repo.index.is_none() {
        forget_stat_of_changed(repo, &git)?;
    }
    let time = UNIX_EPOCH + Duration::from_secs(read_in);
    fs::File::open(&target)?.set_times(fs::FileTimes::new().set_modified(time))?;
    Ok(())
}

/// Takes what stat(2) said from the index's lines of files that have changed: who reads it looks into them.
fn forget_stat_of_changed(repo: &Repo, copy: &Git) -> Result<(), CheckoutError> {
    let changed = ["diff-files", "--name-only", "--diff-filter=M", "-z"];
    // A look at what is here, with the index that is here: the copy is younger, and git would go by that.
    let changed = repo
        .git
        .run(&[&changed[..], &["--ignore-submodules"]].concat())?;
    let changed: BTreeSet<&[u8]> = changed.split(|byte| *byte == 0).collect();
    let mut lines = vec![];
    // What is not merged yet stays so.
    let plain = |one: &&Staged| one.mode != GITLINK && one.stage == 0;
    for one in repo.staged.iter().filter(plain) {
        if changed.contains(one.path.as_bytes()) {
            lines.extend_from_slice(format!("{:o} {} 0\t", one.mode, one.object).as_bytes());
            lines.extend_from_slice(one.path.as_bytes());
            lines.push(0);
        }
    }
    if !lines.is_empty() {
        copy.run_with(&["update-index", "-z", "--index-info"], &lines)?;
    }
    Ok(())
}

/// One pack with all objects that the guest needs.
fn pack(
    repo: &Repo,
    folder: &Path,
    partial: bool,
    known: Option<&str>,
) -> Result<(), CheckoutError> {
    let git = &repo.git;
    let mut objects: BTreeSet<String> = repo
        .staged
        .iter()
        .filter(|one| one.mode != GITLINK)
        .map(|one| one.object.clone())
        .collect();
    let list = |args: &[&str]| -> Result<Vec<String>, GitError> {
        let mut all = vec![
            "rev-list",
            "--objects",
            "--no-object-names",
            "--missing=print",
        ];
        all.extend_from_slice(args);
        let output = git.run(&all)?;
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok(text.lines().map(str::to_owned).collect())
    };
    let listed = match (&repo.head.commit, repo.mode) {
        (Some(commit), Mode::FullCopy) => list(&["--all", commit])?,
        (Some(commit), _) => list(&["--no-walk", commit])?,
        (None, Mode::FullCopy) => list(&["--all"])?,
        (None, _) => vec![],
    };
    let missing: BTreeSet<&str> = listed
        .iter()
        .filter_map(|line| line.strip_prefix('?'))
        .collect();
    objects.extend(listed.iter().filter(|line| !line.starts_with('?')).cloned());
    objects.retain(|object| !missing.contains(object.as_str()));
    // What an earlier commit brought; when it is gone here, all is sent again.
    for object in known
        .map(|known| list(&["--no-walk", known]))
        .and_then(Result::ok)
        .unwrap_or_default()
    {
        objects.remove(&object);
    }
    if partial {
        objects = present(git, objects)?;
    }
    if objects.is_empty() {
        return Ok(());
    }
    let input: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let base = folder.join("objects/pack/pack");
    let args = [
        "-c",
        "pack.compression=1",
        "pack-objects",
        "-q",
        "--window=0",
        "--delta-base-offset",
    ];
    let mut args: Vec<&std::ffi::OsStr> = args.iter().map(AsRef::as_ref).collect();
    args.push(base.as_os_str());
    // Not by way of the repository, which is only read, and may be on another file system.
    let git = git.writing_to(&folder.join("objects"))?;
    let name = git.run_with(&args, input.as_bytes())?;
    let name = String::from_utf8_lossy(&name).trim_end().to_owned();
    if partial {
        fs::write(
            folder.join(format!("objects/pack/pack-{name}.promisor")),
            "",
        )?;
    }
    Ok(())
}

/// Those of the objects that are here: a partial clone lacks some, and must not fetch them now.
fn present(git: &Git, objects: BTreeSet<String>) -> Result<BTreeSet<String>, GitError> {
    let input: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let output = git.run_with(
        &["cat-file", "--batch-check=%(objectname)"],
        input.as_bytes(),
    )?;
    let text = String::from_utf8_lossy(&output).into_owned();
    Ok(text
        .lines()
        .filter(|line| !line.ends_with(" missing"))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_leaves_in_an_address() {
        for (url, public) in [
            (
                "https://user:secret@example.com/x.git",
                Some("https://example.com/x.git"),
            ),
            (
                "https://token@example.com/x.git",
                Some("https://example.com/x.git"),
            ),
            (
                "ssh://git:pw@example.com:22/x",
                Some("ssh://git@example.com:22/x"),
            ),
            ("git@example.com:x/y.git", Some("git@example.com:x/y.git")),
            ("/home/me/x", None),
            ("../x", None),
            ("./a:b", None),
            ("file:///home/me/x", None),
        ] {
            assert_eq!(public_url(url).as_deref(), public, "{url}");
        }
    }

    #[test]
    fn settings_are_quoted() {
        assert_eq!(
            setting("name", "A \"B\" \\ C\n[core]"),
            "\tname = \"A \\\"B\\\" \\\\ C\\n[core]\"\n"
        );
    }
}
