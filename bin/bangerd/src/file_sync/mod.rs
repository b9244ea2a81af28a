//! Reading what `[[file_sync]]` names, for one start of one guest. What cannot be read is left out and told:
//! a VM starts all the same.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_guest_proto::{FileKind, GuestFile, MAX_FILES, MAX_FILES_SIZE, RelPath};
use rustix::fs::{Mode, OFlags};

use crate::config::SyncedPath;

/// So much is told of one start.
const MAX_WARNINGS: usize = 20;

/// What a guest gets, and what it does not get.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) files: Vec<GuestFile>,
    pub(crate) warnings: Vec<String>,
    size: usize,
}

/// Reads every entry.
pub(crate) fn collect(entries: &[SyncedPath], home: &Path) -> Collected {
    let mut collected = Collected::default();
    // The home may be reached by a link itself.
    let home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    for entry in entries {
        let before = (collected.files.len(), collected.size);
        if let Err(why) = collected.entry(entry, &home) {
            collected.files.truncate(before.0);
            collected.size = before.1;
            collected.warn(format!("file_sync: {} {why}", entry.host.display()));
        }
    }
    collected
}

impl Collected {
    fn warn(&mut self, what: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(what);
        }
    }

    fn entry(&mut self, entry: &SyncedPath, home: &Path) -> Result<(), String> {
        // A link is followed here, to what the owner keeps elsewhere in the home.
        let real = fs::canonicalize(&entry.host).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "is not there; the guest does not get it".to_owned(),
            _ => format!("cannot be read ({error}); the guest does not get it"),
        })?;
        if !real.starts_with(home) {
            let real = real.display();
            return Err(format!(
                "is a link out of your home, to {real}; the guest does not get it"
            ));
        }
        self.visit(&real, entry.guest.clone(), entry.mode)
    }

    fn visit(&mut self, path: &Path, guest: RelPath, mode: Option<u32>) -> Result<(), String> {
        let unreadable = |error: io::Error| format!("cannot be read: {}: {error}", path.display());
        let found = fs::symlink_metadata(path).map_err(unreadable)?;
        let kind = found.file_type();
        let given = found.permissions().mode();
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(unreadable)?;
            let content = target.as_os_str().as_bytes().to_vec();
            return self.add(guest, FileKind::Link, 0, content);
        }
        if kind.is_dir() {
            self.add(guest.clone(), FileKind::Folder, folder_mode(mode), vec![])?;
            let entries = fs::read_dir(path).map_err(unreadable)?;
            let mut names: Vec<PathBuf> = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<_, _>>()
                .map_err(unreadable)?;
            // The same tree makes the same drive.
            names.sort();
            for inner in names {
                let name = inner.file_name().unwrap_or_default();
                let bytes = [guest.as_bytes(), b"/", name.as_bytes()].concat();
                let guest = RelPath::new(bytes).map_err(|error| error.to_string())?;
                self.visit(&inner, guest, mode)?;
            }
            return Ok(());
        }
        if !kind.is_file() {
            self.warn(format!(
                "file_sync: {} is neither file, folder nor link; the guest does not get it",
                path.display()
            ));
            return Ok(());
        }
        let left = MAX_FILES_SIZE.saturating_sub(self.size);
        if found.size() > left as u64 {
            return Err(too_much());
        }
        let content = read(path, left).map_err(unreadable)?;
        self.add(guest, FileKind::File, file_mode(mode, given), content)
    }

    fn add(
        &mut self,
        path: RelPath,
        kind: FileKind,
        mode: u32,
        content: Vec<u8>,
    ) -> Result<(), String> {
        self.size += path.as_bytes().len() + content.len();
        if self.size > MAX_FILES_SIZE || self.files.len() >= MAX_FILES {
            return Err(too_much());
        }
        self.files.push(GuestFile {
            path,
            kind,
            mode,
            content,
        });
        Ok(())
    }
}

fn too_much() -> String {
    format!(
        "is too much: all entries together may have {} MiB and {MAX_FILES} files; the guest does not get it",
        MAX_FILES_SIZE >> 20
    )
}

/// Reads a regular file that may be exchanged meanwhile, without waiting for anybody.
fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    let mut content = vec![];
    file.take(most as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// As configured; else for the owner alone, executable where it is.
fn file_mode(configured: Option<u32>, on_host: u32) -> u32 {
    configured.unwrap_or(if on_host & 0o100 == 0 { 0o600 } else { 0o700 })
}

/// Whoever may read the files may enter the folders.
fn folder_mode(configured: Option<u32>) -> u32 {
    configured.map_or(0o700, |mode| mode | ((mode & 0o444) >> 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("me")).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("me").join(name)
        }

        fn collect(&self, name: &str, mode: Option<u32>) -> Collected {
            let entry = SyncedPath {
                host: self.path(name),
                guest: RelPath::new(b"to".to_vec()).unwrap(),
                mode,
            };
            collect(&[entry], &self.0.path().join("me"))
        }
    }

    fn shown(collected: &Collected) -> Vec<String> {
        let show = |file: &GuestFile| {
            let path = String::from_utf8_lossy(file.path.as_bytes()).into_owned();
            let content = String::from_utf8_lossy(&file.content).into_owned();
            format!("{path} {:?} {:o} {content}", file.kind, file.mode)
        };
        collected.files.iter().map(show).collect()
    }

    #[test]
    fn a_tree_has_its_files_links_and_modes_in_order() {
        let home = Home::new();
        fs::create_dir_all(home.path("tree/inner")).unwrap();
        fs::write(home.path("tree/b"), "B").unwrap();
        fs::write(home.path("tree/inner/run"), "#!").unwrap();
        fs::set_permissions(
            home.path("tree/inner/run"),
            PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        symlink("/anywhere", home.path("tree/a")).unwrap();
        let collected = home.collect("tree", None);
        assert_eq!(collected.warnings, [""; 0]);
        let expected = [
            "to Folder 700 ",
            "to/a Link 0 /anywhere",
            "to/b File 600 B",
            "to/inner Folder 700 ",
            "to/inner/run File 700 #!",
        ];
        assert_eq!(shown(&collected), expected);
        let open = home.collect("tree", Some(0o644));
        assert_eq!(shown(&open)[0], "to Folder 755 ");
        assert_eq!(shown(&open)[4], "to/inner/run File 644 #!");
    }

    #[test]
    fn what_is_missing_or_leads_out_is_left_out_and_told() {
        let home = Home::new();
        let missing = home.collect("none", None);
        assert!(missing.files.is_empty());
        assert!(missing.warnings[0].contains("is not there"), "{missing:?}");
        fs::write(home.0.path().join("secret"), "x").unwrap();
        symlink("../secret", home.path("out")).unwrap();
        let out = home.collect("out", None);
        assert!(
            out.files.is_empty() && out.warnings[0].contains("out of your home"),
            "{out:?}"
        );
        fs::write(home.path("real"), "x").unwrap();
        symlink("real", home.path("in")).unwrap();
        assert_eq!(shown(&home.collect("in", None)), ["to File 600 x"]);
    }

    #[test]
    fn pipes_and_sockets_hold_nobody_up() {
        let home = Home::new();
        fs::create_dir(home.path("tree")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(home.path("tree/s")).unwrap();
        fs::write(home.path("tree/z"), "z").unwrap();
        let collected = home.collect("tree", None);
        assert_eq!(shown(&collected), ["to Folder 700 ", "to/z File 600 z"]);
        assert!(
            collected.warnings[0].contains("neither file"),
            "{collected:?}"
        );
    }

    #[test]
    fn too_much_is_left_out_whole_and_the_rest_comes() {
        let home = Home::new();
        fs::create_dir(home.path("big")).unwrap();
        fs::write(home.path("big/a"), "a").unwrap();
        let large = File::create(home.path("big/b")).unwrap();
        large.set_len(MAX_FILES_SIZE as u64).unwrap();
        fs::write(home.path("small"), "s").unwrap();
        let entry = |name: &str| SyncedPath {
            host: home.path(name),
            guest: RelPath::new(name).unwrap(),
            mode: None,
        };
        let both = collect(&[entry("big"), entry("small")], &home.0.path().join("me"));
        assert_eq!(shown(&both), ["small File 600 s"]);
        assert!(both.warnings[0].contains("too much"), "{both:?}");
    }
}
