//! What an image build asks of its builder, also of one that has no programs of its own:
//!
//! - `build own OWNER MODE FOLDER`: gives the paths below the folder, which come on standard input with a zero byte
//!   after each, an owner and a mode; `-` leaves it as it is;
//! - `build sync`: brings all that was written to the disks;
//! - `build seal`: takes away what makes this guest itself, so that an image can be made of it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use banger_login::User;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use crate::console;

/// The most bytes of paths.
const MAX_PATHS: u64 = 256 << 20;

/// Runs one of the three.
pub(crate) fn build(args: &[OsString]) -> ExitCode {
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let done = match words[..] {
        ["own", owner, mode, folder] => own(owner, mode, folder),
        ["sync"] => {
            rustix::fs::sync();
            Ok(())
        }
        ["seal"] => {
            seal(Path::new("/"));
            rustix::fs::sync();
            Ok(())
        }
        _ => Err("`build` takes own, sync or seal".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            console::complain(&what);
            ExitCode::FAILURE
        }
    }
}

fn own(owner: &str, mode: &str, folder: &str) -> Result<(), String> {
    let owner = match owner {
        "-" => None,
        text => {
            let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
            let user = |name: &str| User::find(Some(name)).map(|user| (user.uid, user.gid));
            let (uid, gid) = parse_owner(text, user, &group)?;
            Some((uid, gid))
        }
    };
    let mode = match mode {
        "-" => None,
        text => Some(u32::from_str_radix(text, 8).map_err(|_| format!("`{text}` is no mode"))?),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(folder, flags, Mode::empty());
    let base = base.map_err(|error| format!("{folder}: {}", io::Error::from(error)))?;
    let mut paths = vec![];
    let read = io::stdin().lock().take(MAX_PATHS).read_to_end(&mut paths);
    read.map_err(|error| format!("failed to read the paths: {error}"))?;
    for path in paths
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
    {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let done = (|| {
            let stat = rustix::fs::statat(&base, path, AtFlags::SYMLINK_NOFOLLOW)?;
            if let Some((uid, gid)) = owner {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::chownat(&base, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                // A new owner takes setuid away.
                let mode = Mode::from_raw_mode(mode.unwrap_or(stat.st_mode & 0o7777));
                rustix::fs::chmodat(&base, path, mode, AtFlags::empty())?;
            }
            rustix::io::Result::Ok(())
        })();
        done.map_err(|error| format!("{}: {}", path.display(), io::Error::from(error)))?;
    }
    Ok(())
}

/// `user`, `user:group`, `:group`; names or numbers. A number without a group is also the group's.
fn parse_owner(
    text: &str,
    user: impl Fn(&str) -> Option<(u32, u32)>,
    groups: &str,
) -> Result<(u32, u32), String> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let (uid, own) = match (name, name.parse::<u32>()) {
        ("", _) => (0, 0),
        (_, Ok(number)) => (number, number),
        (name, Err(_)) => {
            user(name).ok_or_else(|| format!("there is no user `{name}` in the image"))?
        }
    };
    let Some(group) = group else {
        return Ok((uid, own));
    };
    if let Ok(number) = group.parse() {
        return Ok((uid, number));
    }
    let found = groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&group)).then(|| fields.get(2)?.parse().ok())?
    });
    let gid = found.ok_or_else(|| format!("there is no group `{group}` in the image"))?;
    Ok((uid, gid))
}

/// What each VM gets of its own, at its first boot or its host's hands. Nothing of it has to be there.
fn seal(root: &Path) {
    let at = |path: &str| root.join(path);
    // Empty asks for one, machine-id(5).
    if at("etc/machine-id").is_file() {
        let _ = std::fs::write(at("etc/machine-id"), "");
    }
    let copy = at("var/lib/dbus/machine-id");
    if copy.symlink_metadata().is_ok_and(|found| found.is_file()) {
        let _ = std::fs::remove_file(copy);
    }
    for path in ["etc/hostname", "var/lib/systemd/random-seed"] {
        let _ = std::fs::remove_file(at(path));
    }
    for entry in std::fs::read_dir(at("etc/ssh"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().as_bytes().starts_with(b"ssh_host_") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let user = |name: &str| (name == "me").then_some((1000, 100));
        let groups = "root:x:0:\nbroken\nstaff:x:50:me\n";
        for (text, owner) in [
            ("me", (1000, 100)),
            ("me:staff", (1000, 50)),
            ("me:7", (1000, 7)),
            ("33", (33, 33)),
            ("33:staff", (33, 50)),
            (":staff", (0, 50)),
            ("me:", (1000, 100)),
        ] {
            assert_eq!(parse_owner(text, user, groups), Ok(owner), "{text}");
        }
        assert!(parse_owner("you", user, groups).is_err());
        assert!(parse_owner("me:none", user, groups).is_err());
    }

    #[test]
    fn what_makes_a_guest_itself_goes_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("etc/ssh")).unwrap();
        for path in [
            "etc/machine-id",
            "etc/hostname",
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
        ] {
            std::fs::write(at(path), "x").unwrap();
        }
        seal(dir.path());
        assert_eq!(std::fs::read(at("etc/machine-id")).unwrap(), b"");
        assert!(!at("etc/hostname").exists() && !at("etc/ssh/ssh_host_rsa_key").exists());
        assert!(at("etc/ssh/sshd_config").exists());
        seal(&at("nothing"));
    }
}
