//! A repository, a guest's home, and what carries between them.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use banger_guest_proto::RelPath;
use banger_workspace::{
    Collected, Git, GuestRefs, GuestRepo, How, NOTE_PULLED, Options, PACK, PrepareError, Prepared,
    SNAPSHOT, Staging, UNPULLED, fetch, prepare, repository, submodules, told, wanted,
};

/// A place with a host's repository and a guest's home.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

/// Over what the guest has changed.
pub(crate) const FORCED: How = How {
    force: true,
    dry_run: false,
};

pub(crate) fn git(at: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(at)
        .args([
            "-c",
            "user.name=Ann",
            "-c",
            "user.email=ann@example.com",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {args:?} in {}: {}{}",
        at.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

pub(crate) fn write(at: &Path, name: &str, text: &str) {
    let path = at.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(place.home()).unwrap();
        let host = place.host();
        fs::create_dir_all(&host).unwrap();
        git(&host, &["init", "-q", "-b", "main"]);
        git(&host, &["config", "user.name", "Ann \"A\""]);
        git(&host, &["config", "user.email", "ann@example.com"]);
        place
    }

    /// The same with two commits of several kinds of files.
    pub(crate) fn filled() -> Self {
        let place = Self::new();
        let host = place.host();
        write(&host, "a.txt", "one\n");
        write(&host, "deep/er/b.txt", "two\n");
        write(&host, "run.sh", "#!/bin/sh\n");
        fs::set_permissions(host.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        write(&host, "odd\nname \u{e9}", "x");
        fs::write(host.join(OsStr::from_bytes(b"no-utf8-\xff")), "x").unwrap();
        symlink("a.txt", host.join("link")).unwrap();
        symlink("/etc", host.join("out")).unwrap();
        write(&host, ".gitignore", "ignored/\n");
        git(&host, &["add", "-A"]);
        git(&host, &["commit", "-qm", "first"]);
        write(&host, "a.txt", "one, again\n");
        git(&host, &["commit", "-qam", "second"]);
        write(&host, "ignored/secret", "never\n");
        place
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    /// Where this side makes what it sends; of commands that have ended nothing is there.
    pub(crate) fn staging(&self) -> Staging {
        Staging::open(self.folder.path().join("staging")).unwrap()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn guest(&self) -> PathBuf {
        self.home().join("repo")
    }

    pub(crate) fn put(&self, options: &Options, how: How) -> Result<Prepared, PrepareError> {
        self.put_over(options, how, &|_| None)
    }

    /// The same over connections of which one breaks after so many bytes, when `breaks` says so of its number. Files go
    /// over the last one.
    pub(crate) fn put_over(
        &self,
        options: &Options,
        how: How,
        breaks: &dyn Fn(usize) -> Option<u64>,
    ) -> Result<Prepared, PrepareError> {
        let checkout = Collected::new(&self.host(), options, &self.staging())?;
        self.with_guest_over(breaks, &|_| {}, |guest| prepare(&checkout, guest, how))
    }

    /// The same, telling of the bytes that go.
    pub(crate) fn put_watched(
        &self,
        options: &Options,
        how: How,
        progress: &dyn Fn(u64),
    ) -> Result<Prepared, PrepareError> {
        let checkout = Collected::new(&self.host(), options, &self.staging())?;
        self.with_guest_over(&|_| None, progress, |guest| prepare(&checkout, guest, how))
    }

    fn with_guest<T>(&self, use_it: impl FnOnce(&GuestRepo<'_>) -> T) -> T {
        self.with_guest_over(&|_| None, &|_| {}, use_it)
    }

    fn with_guest_over<T>(
        &self,
        breaks: &dyn Fn(usize) -> Option<u64>,
        progress: &dyn Fn(u64),
        use_it: impl FnOnce(&GuestRepo<'_>) -> T,
    ) -> T {
        let agents = Mutex::new(vec![]);
        let count = Cell::new(0);
        let connect = || {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            count.set(count.get() + 1);
            if let Some(after) = breaks(count.get()) {
                let (near, far) = UnixStream::pair().unwrap();
                let back = (far.try_clone().unwrap(), theirs.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut &back.0, &mut &back.1));
                let front = theirs.try_clone().unwrap();
                thread::spawn(move || {
                    let _ = std::io::copy(&mut (&front).take(after), &mut &far);
                    let _ = front.shutdown(std::net::Shutdown::Both);
                    let _ = far.shutdown(std::net::Shutdown::Both);
                });
                theirs = near;
            }
            let agent = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
                .arg("serve")
                .stdin(OwnedFd::from(theirs))
                .spawn()
                .unwrap();
            agents.lock().unwrap().push(agent);
            Ok(ours)
        };
        let guest = GuestRepo {
            connect: &connect,
            path: self.guest(),
            home: self.home(),
            progress,
        };
        let result = use_it(&guest);
        for mut agent in agents.into_inner().unwrap() {
            agent.wait().unwrap();
        }
        result
    }

    pub(crate) fn ok(&self) -> Prepared {
        self.put(&Options::default(), How::default()).unwrap()
    }

    /// Over what the guest has changed.
    pub(crate) fn forced(&self) -> Prepared {
        self.put(&Options::default(), FORCED).unwrap()
    }

    /// Tracked files are the same on both sides, git in the guest has nothing to say, and all objects
    /// are whole.
    pub(crate) fn same(&self) {
        let (host, guest) = (self.host(), self.guest());
        for at in [&host, &guest] {
            git(at, &["fsck", "--strict", "--no-dangling"]);
        }
        let of = |at: &Path| git(at, &["status", "--porcelain", "-uno"]);
        assert_eq!(of(&guest), of(&host));
        assert_eq!(
            git(&guest, &["rev-parse", "HEAD"]),
            git(&host, &["rev-parse", "HEAD"])
        );
        let files = git(&host, &["ls-files", "-z"]);
        for name in Command::new("git")
            .arg("-C")
            .arg(&host)
            .args(["ls-files", "-z"])
            .output()
            .unwrap()
            .stdout
            .split(|b| *b == 0)
        {
            let name = Path::new(OsStr::from_bytes(name));
            let (ours, theirs) = (host.join(name), guest.join(name));
            let Ok(meta) = fs::symlink_metadata(&ours) else {
                assert!(fs::symlink_metadata(&theirs).is_err(), "{}", name.display());
                continue;
            };
            let other = fs::symlink_metadata(&theirs)
                .unwrap_or_else(|_| panic!("{} of {files}", name.display()));
            if meta.is_symlink() {
                assert_eq!(
                    fs::read_link(&theirs).unwrap(),
                    fs::read_link(&ours).unwrap()
                );
            } else if meta.is_file() {
                assert_eq!(
                    fs::read(&theirs).unwrap(),
                    fs::read(&ours).unwrap(),
                    "{}",
                    name.display()
                );
                assert_eq!(
                    (other.mode(), other.mtime()),
                    (meta.mode(), meta.mtime()),
                    "{}",
                    name.display()
                );
            }
        }
        assert!(!guest.join("ignored").exists(), "ignored files stay here");
    }

    pub(crate) fn pull(&self, branch: Option<&str>) -> Vec<String> {
        self.pull_between(&repository(&self.host()).unwrap(), &self.guest(), branch)
    }

    /// The same of all submodules.
    pub(crate) fn pull_submodules(&self) -> Vec<String> {
        let all = submodules(&self.host()).unwrap();
        let pull = |(path, here): (RelPath, Git)| {
            let refs = self.pull_between(&here, &self.guest().join(path.as_path()), None);
            refs.into_iter().map(move |name| format!("{path}: {name}"))
        };
        all.into_iter().flat_map(pull).collect()
    }

    /// Brings what there is, and notes it in the guest.
    fn pull_between(&self, here: &Git, folder: &Path, branch: Option<&str>) -> Vec<String> {
        let refs = GuestRefs::parse(&sh(SNAPSHOT, folder, "").unwrap()).unwrap();
        let pack = wanted(here, "demo", &refs).unwrap().map(|input| {
            let mut file = self.staging().file().unwrap();
            file.write_all(&sh(PACK, folder, &input).unwrap()).unwrap();
            file
        });
        let pulled = fetch(here, "demo", &refs, pack, branch).unwrap();
        let notes: String = pulled.iter().map(|one| one.note("demo")).collect();
        sh(NOTE_PULLED, folder, &notes).unwrap();
        pulled
            .into_iter()
            .filter(|one| one.new)
            .map(|one| one.reference)
            .collect()
    }

    /// What the guest has, or what it said instead.
    pub(crate) fn snapshot(&self) -> Result<GuestRefs, String> {
        let told = sh(SNAPSHOT, &self.guest(), "")?;
        Ok(GuestRefs::parse(&told).unwrap())
    }

    /// The pack that a pull would bring now.
    pub(crate) fn packed(&self, here: &Git) -> Vec<u8> {
        let refs = self.snapshot().unwrap();
        let input = wanted(here, "demo", &refs).unwrap().unwrap();
        sh(PACK, &self.guest(), &input).unwrap()
    }

    /// Tells the guest what is here now; whatever comes of it.
    pub(crate) fn note(&self, lines: &str) {
        let _ = sh(NOTE_PULLED, &self.guest(), lines);
    }

    /// A file with that in it, as a pull puts aside what comes.
    pub(crate) fn file_of(&self, bytes: &[u8]) -> fs::File {
        let mut file = self.staging().file().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Whether the guest's folder is as it was sent, for those who do not ask git.
    pub(crate) fn is_as_sent(&self) -> bool {
        self.with_guest(|guest| guest.is_as_sent().unwrap())
    }

    /// What the guest holds that is not here: commits, tags, files.
    pub(crate) fn unpulled(&self) -> (u64, u64, Vec<String>) {
        let home = self.home().to_str().unwrap().to_owned();
        let output = sh(&UNPULLED.replace("/root", &home), &self.home(), "").unwrap();
        // Each path that is one begins a word.
        let words = output.split(|byte| *byte == 0);
        let words: Vec<Vec<u8>> = words
            .map(|word| match word.strip_prefix(home.as_bytes()) {
                Some(rest) => [b"/root", rest].concat(),
                None => word.to_vec(),
            })
            .collect();
        let output = words.join(&0);
        let mut all = told(&output);
        assert_eq!(all.len(), 1, "{}", output.escape_ascii());
        let told = all.remove(0);
        let held = self.with_guest(|guest| guest.unpulled(told).unwrap());
        let nothing = !held.is_something();
        assert!(
            nothing || !self.is_as_sent(),
            "the short way overlooks {held:?}"
        );
        (held.commits, held.tags, held.files)
    }
}

/// A file system in memory in a folder's place, to be full on.
pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// With room for so many bytes.
    ///
    /// # Errors
    /// Why it cannot be made here.
    pub(crate) fn at(folder: &Path, bytes: u64) -> Result<Self, String> {
        let data = std::ffi::CString::new(format!("size={bytes},mode=755")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, data.as_c_str())
            .map_err(|error| format!("no file system can be mounted here: {error}"))?;
        let at = folder.to_owned();
        Ok(Self { at })
    }

    pub(crate) fn resize(&self, bytes: u64) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={bytes}")])
            .arg(&self.at)
            .status();
        assert!(status.unwrap().success());
    }

    /// Writes a file that leaves no room.
    pub(crate) fn fill(&self, path: &Path) {
        let mut file = fs::File::create(path).unwrap();
        let mut block = vec![0x5a; 1 << 20];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs a script as the host has the guest run it; what it printed, or said when it failed.
fn sh(script: &str, folder: &Path, input: &str) -> Result<Vec<u8>, String> {
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(folder)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
