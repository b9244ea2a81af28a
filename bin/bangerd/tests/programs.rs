//! The program as whoever starts it sees it: on a database that does not work, where one row stops nobody; and where it only
//! looks at the host.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use banger_api::ApiError;
use banger_core::{ErrorCode, Intent, Phase, SpecOrigin, VmId, VmSpec};
use banger_store::{NewVm, Store, VmRow};

/// The program with these words, and its places in that folder.
fn bangerd(words: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bangerd"));
    command.args(words).args(["--agent", "/nowhere"]);
    for (flag, place) in [
        ("--socket", "daemon.sock"),
        ("--state-dir", "state"),
        ("--config-dir", "config"),
        ("--helper-socket", "nobody.sock"),
    ] {
        command.arg(flag).arg(dir.join(place));
    }
    command
}

/// A daemon, and its end of the pipe on which it says that it is ready. It ends with the value.
struct Daemon(Child, PipeReader);

impl Daemon {
    fn start(dir: &Path) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        let child = bangerd(&[], dir)
            .args(["--dns-listen", "127.0.0.1:0"])
            .args(["--ready-fd", &writer.as_raw_fd().to_string()])
            .env("HOME", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child, reader)
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(&self.1).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Directories of a daemon, with a database of these VMs.
fn directories(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["state", "config"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(dir.path().join("state"), closed).unwrap();
    let store = Store::open(&database(dir.path())).unwrap();
    for (number, name) in (1..).zip(names) {
        store.insert_vm(new(number, name)).unwrap();
    }
    dir
}

fn database(dir: &Path) -> std::path::PathBuf {
    dir.join("state/banger.db")
}

fn new(number: u8, name: &str) -> NewVm {
    let row = VmRow {
        id: VmId::from_entropy([number; 6]),
        name: name.parse().unwrap(),
        address: std::net::Ipv4Addr::UNSPECIFIED,
        phase: Phase::Stopped,
        intent: Intent::Stopped,
        spec: VmSpec::FLOOR,
        origins: SpecOrigin::Floor.into(),
        image: "debian-bookworm".parse().unwrap(),
        image_digest: None,
        kernel: None,
        ephemeral: false,
        created_at: "2026-01-01T00:00:00Z".into(),
        started_at: None,
        boot_id: None,
        failure: None,
    };
    let net = |last| std::net::Ipv4Addr::new(172, 16, 0, last);
    NewVm {
        row,
        addresses: (net(2), net(9)),
        reserved: net(1),
    }
}

fn edit(dir: &Path, sql: &str) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database(dir)).unwrap();
    connection.execute_batch(sql).unwrap();
    connection
}

#[test]
fn a_database_that_cannot_be_used_is_told_with_its_code_and_what_to_do() {
    let newer = |dir: &Path| Some(edit(dir, "PRAGMA user_version = 99"));
    let none = |dir: &Path| {
        fs::write(database(dir), "not a database, but longer than a header").unwrap();
        None
    };
    let held = |dir: &Path| Some(edit(dir, "PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE"));
    let folder = |dir: &Path| {
        fs::remove_file(database(dir)).unwrap();
        fs::create_dir(database(dir)).unwrap();
        None
    };
    type Break<'a> = &'a dyn Fn(&Path) -> Option<rusqlite::Connection>;
    let faults: [(Break<'_>, ErrorCode); 4] = [
        (&newer, ErrorCode::VersionMismatch),
        (&none, ErrorCode::DatabaseDamaged),
        (&held, ErrorCode::DatabaseBusy),
        (&folder, ErrorCode::DatabaseNoAccess),
    ];
    for (spoil, code) in faults {
        let dir = directories(&["demo"]);
        let _held = spoil(dir.path());
        let said = Daemon::start(dir.path()).says();
        let error: ApiError = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(error.code, code, "{said}");
        assert!(error.message.contains("left alone"), "{said}");
        assert!(said.contains("banger.db"), "{said}");
        assert!(!error.hints.is_empty(), "{said}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_nobody_and_is_told() {
    let dir = directories(&["demo", "other"]);
    drop(edit(
        dir.path(),
        "UPDATE vms SET phase = 'sleeping' WHERE name = 'demo'",
    ));
    let mut daemon = Daemon::start(dir.path());
    assert_eq!(daemon.says(), "ready");
    let client = banger_client::Client::new(dir.path().join("daemon.sock"));
    let names: Vec<String> = client
        .vms()
        .await
        .unwrap()
        .vms
        .into_iter()
        .map(|vm| vm.name)
        .collect();
    assert_eq!(names, ["other"]);
    let banger_client::ClientError::Api(told) = client.vm("demo").await.unwrap_err() else {
        panic!("not the daemon's answer")
    };
    assert_eq!(told.code, ErrorCode::DatabaseDamaged);
    assert!(
        !told.causes.is_empty() && !told.hints.is_empty(),
        "{told:?}"
    );
    let doctor = client.doctor().await.unwrap();
    let check = doctor.checks.iter().find(|check| check.name == "database");
    let check = check.unwrap();
    assert_eq!(check.result, banger_api::CheckResult::Fail);
    assert!(check.message.contains("demo"), "{check:?}");
}

/// What `bangerd examine` finds.
fn examined(dir: &Path) -> banger_api::Doctor {
    let output = bangerd(&["examine"], dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_host_is_examined_without_daemon_and_helper_and_nothing_is_changed() {
    let dir = directories(&[]);
    let there = || fs::read_dir(dir.path().join("state")).unwrap().count();
    let before = there();
    let result = |doctor: &banger_api::Doctor, name: &str| {
        let check = doctor.checks.iter().find(|check| check.name == name);
        check.map(|check| check.result)
    };
    let found = examined(dir.path());
    for name in [
        "vmm",
        "e2fsck",
        "dpkg-deb",
        "space",
        "storage",
        "open_files",
    ] {
        assert!(result(&found, name).is_some(), "{name}: {found:?}");
    }
    let fail = Some(banger_api::CheckResult::Fail);
    assert_eq!(result(&found, "agent"), fail);
    assert_eq!(result(&found, "config"), None);
    fs::write(dir.path().join("config/config.toml"), "memry = 1\n").unwrap();
    assert_eq!(result(&examined(dir.path()), "config"), fail);
    assert_eq!(there(), before);
}
