//! Starting the daemon and the helper when they are not there, and replacing an older daemon.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_api::{API_VERSION, ApiError, Version};
use banger_client::{Client, ClientError};
use banger_core::{ErrorCode, NetworkPlan, NetworkPlanError, NetworkSettings};
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use crate::comes_back;
use crate::error::CommandError;
use crate::paths::Paths;
use crate::ui::Ui;

/// Whether a command needs the privileged helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The daemon alone.
    Daemon,
    /// The helper as well.
    Helper,
}

/// A client of a daemon that runs, is of this build, and has what the command needs. `ui` tells of what takes long.
pub(crate) async fn connect(paths: &Paths, needs: Needs, ui: &Ui) -> Result<Client, CommandError> {
    let client = Client::new(paths.socket());
    if let Some(owner) = &paths.installed_for {
        return connect_installed(client, owner, ui).await;
    }
    if let Ok(version) = client.version().await
        && is_good(&version, paths, needs)?
    {
        return Ok(client);
    }
    private_folder(&paths.runtime_dir)?;
    // Two CLIs at once: one starts, the other waits and finds it done.
    let _lock = lock(paths)?;
    match client.version().await {
        Ok(version) if is_good(&version, paths, needs)? => return Ok(client),
        Ok(version) => {
            if !version.helper.available
                && let Err(error) = start_helper(paths).await
                && needs == Needs::Helper
            {
                return Err(error);
            }
            if version.daemon.build != build_of(paths) {
                replace(&client, &version, paths).await?;
            }
        }
        Err(error) if error.is_no_daemon() => {
            let helper = start_helper(paths).await?;
            if let Err(error) = start_daemon(paths) {
                // Nothing is left of a start that failed.
                let _ = helper.map(stop_helper);
                return Err(error);
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(client)
}

/// systemd starts the daemons of an installed host, also after a death; here is only looked whether they are the
/// right ones.
async fn connect_installed(client: Client, owner: &str, ui: &Ui) -> Result<Client, CommandError> {
    let version = match comes_back::version(&client, |line| ui.note(line)).await {
        Err(error) if error.is_no_daemon() => {
            let what = format!(
                "banger is installed for {owner} on this host, and its daemon does not run"
            );
            return Err(CommandError::because(ErrorCode::DaemonUnavailable, what, &error)
                .hint("`sudo systemctl start bangerd` starts it; `banger system status` says what is wrong"));
        }
        result => result?,
    };
    check_installed(&version)?;
    Ok(client)
}

fn check_installed(version: &Version) -> Result<(), CommandError> {
    let speaks = version.api_min <= API_VERSION && version.api_max >= API_VERSION;
    let ours = env!("CARGO_PKG_VERSION");
    if speaks && version.daemon.version == ours {
        return Ok(());
    }
    let what = format!(
        "the daemon that runs is {} and this client {ours}",
        version.daemon.version
    );
    let error = CommandError::new(ErrorCode::VersionMismatch, what);
    Err(if is_newer(&version.daemon.version, ours) {
        error.hint("use the banger that was installed with it (`banger system status` says where)")
    } else {
        error.hint(
            "`sudo banger system restart` starts the installed build; VMs go on. When an older one is installed: \
             `sudo banger system install`",
        )
    })
}

fn is_good(version: &Version, paths: &Paths, needs: Needs) -> Result<bool, CommandError> {
    if version.api_min > API_VERSION || version.api_max < API_VERSION {
        let what = format!(
            "the daemon speaks API {} to {}, this client {API_VERSION}",
            version.api_min, version.api_max
        );
        let error = CommandError::new(ErrorCode::VersionMismatch, what);
        return Err(
            error.hint("use the CLI that belongs to the daemon, or stop the daemon: its VMs go on")
        );
    }
    if is_newer(&version.daemon.version, env!("CARGO_PKG_VERSION")) {
        let what = format!(
            "the daemon is newer ({}) than this client",
            version.daemon.version
        );
        return Err(
            CommandError::new(ErrorCode::VersionMismatch, what).hint("use the newer banger")
        );
    }
    let needs_helper = needs == Needs::Helper || version.helper.wanted;
    let has_helper = !needs_helper || version.helper.available;
    Ok(has_helper && version.daemon.build == build_of(paths))
}

/// Whether version `a` comes after `b`: numbers are compared part by part.
fn is_newer(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        text.split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect::<Vec<u32>>()
    };
    parts(a) > parts(b)
}

/// What tells the daemon's executable from a rebuilt one, as the daemon itself says it.
fn build_of(paths: &Paths) -> String {
    let metadata = fs::metadata(paths.program("bangerd"));
    metadata
        .map(|m| format!("{}-{}-{}", m.ino(), m.mtime(), m.mtime_nsec()))
        .unwrap_or_default()
}

fn private_folder(path: &Path) -> Result<(), CommandError> {
    let refused = |why: String| {
        CommandError::new(
            ErrorCode::PermissionDenied,
            format!("{} cannot be used: {why}", path.display()),
        )
        .hint("set XDG_RUNTIME_DIR to a folder of your own")
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| refused(error.to_string()))?;
    let metadata = fs::symlink_metadata(path).map_err(|error| refused(error.to_string()))?;
    let ours = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != ours {
        return Err(refused("it belongs to another user".into()));
    }
    Ok(())
}

fn lock(paths: &Paths) -> Result<File, CommandError> {
    let path = paths.runtime_dir.join("start.lock");
    let failed = |error: std::io::Error| {
        CommandError::because(
            ErrorCode::DaemonUnavailable,
            "the start could not be locked",
            &error,
        )
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    Ok(file)
}

/// Ends an older daemon and starts this build's. VMs do not notice.
async fn replace(client: &Client, version: &Version, paths: &Paths) -> Result<(), CommandError> {
    stop_daemon(client, version.daemon.pid).await?;
    start_daemon(paths)
}

/// Asks the daemon to end and waits until it has.
pub(crate) async fn stop_daemon(client: &Client, pid: u32) -> Result<(), CommandError> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let handle = pid.and_then(|pid| {
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    });
    match client.stop_daemon().await {
        // It may be gone before its answer is out.
        Ok(()) | Err(ClientError::Broken(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(handle) = handle {
        wait_for_end(&handle).map_err(|error| {
            CommandError::because(
                ErrorCode::DaemonUnavailable,
                "the daemon did not end",
                &error,
            )
        })?;
    }
    Ok(())
}

fn wait_for_end(handle: &impl std::os::fd::AsFd) -> std::io::Result<()> {
    let patience = rustix::event::Timespec {
        tv_sec: 15,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(
        handle,
        rustix::event::PollFlags::IN,
    )];
    match rustix::event::poll(&mut fds, Some(&patience))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// What every `bangerd` is told.
pub(crate) fn places(paths: &Paths) -> Vec<OsString> {
    let all = [
        ("--socket", paths.socket()),
        ("--state-dir", paths.state_dir.clone()),
        ("--config-dir", paths.config_dir.clone()),
        ("--helper-socket", paths.helper_socket()),
        ("--agent", paths.agent.clone()),
    ];
    let pairs = all.into_iter();
    pairs
        .flat_map(|(name, path)| [name.into(), path.into_os_string()])
        .collect()
}

fn start_daemon(paths: &Paths) -> Result<(), CommandError> {
    let unavailable = |message: String| {
        CommandError::new(ErrorCode::DaemonUnavailable, message).hint(format!(
            "its log: {}",
            paths.state_dir.join("bangerd.log").display()
        ))
    };
    let (reader, writer) = std::io::pipe().map_err(|error| unavailable(error.to_string()))?;
    // The daemon keeps this end by its number.
    let keep = rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty());
    keep.map_err(|error| unavailable(error.to_string()))?;
    let program = paths.program("bangerd");
    let mut command = Command::new("setsid");
    command
        .arg(&program)
        .args(places(paths))
        .args(["--ready-fd", &writer.as_raw_fd().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn();
    drop(writer);
    child.map_err(|error| {
        unavailable(format!(
            "{} could not be started: {error}",
            program.display()
        ))
    })?;
    let mut line = String::new();
    let read = BufReader::new(reader).read_line(&mut line);
    match line.trim() {
        "ready" => Ok(()),
        "" => Err(unavailable(format!("the daemon ended at once ({read:?})"))),
        why => Err(match serde_json::from_str::<ApiError>(why) {
            Ok(error) => CommandError(ApiError {
                message: format!("the daemon did not start: {}", error.message),
                ..error
            }),
            Err(_) => unavailable(format!("the daemon did not start: {why}")),
        }),
    }
}

/// The keys of `config.toml` that the helper is started with; the daemon reads and checks the whole.
#[derive(Debug, Default, Deserialize)]
struct HelperConfig {
    bridge_name: Option<String>,
    bridge_ip: Option<Ipv4Addr>,
    cidr: Option<String>,
    firecracker_bin: Option<PathBuf>,
}

impl HelperConfig {
    /// From the file, and what the environment says instead. What cannot be read is the daemon's to
    /// tell.
    fn load(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut config: Self = toml::from_str(&text).unwrap_or_default();
        let get = |name: &str| std::env::var(name).ok();
        config.bridge_name = get("BANGER_BRIDGE_NAME").or(config.bridge_name);
        config.cidr = get("BANGER_CIDR").or(config.cidr);
        let ip = get("BANGER_BRIDGE_IP").and_then(|text| text.parse().ok());
        config.bridge_ip = ip.or(config.bridge_ip);
        let firecracker = std::env::var_os("BANGER_FIRECRACKER_BIN").map(PathBuf::from);
        config.firecracker_bin = firecracker.or(config.firecracker_bin);
        config
    }

    /// Firecracker: what the configuration names, whether it is there or not; else beside our own
    /// programs; else in the search path.
    fn firecracker(&self, beside: &Path, search: &std::ffi::OsStr) -> Option<PathBuf> {
        let found = || {
            let in_path = std::env::split_paths(search).map(|folder| folder.join("firecracker"));
            std::iter::once(beside.to_owned())
                .chain(in_path)
                .find(|path| path.is_absolute() && path.is_file())
        };
        self.firecracker_bin.clone().or_else(found)
    }

    fn plan(&self) -> Result<NetworkPlan, NetworkPlanError> {
        let settings = NetworkSettings {
            bridge_name: self.bridge_name.clone(),
            bridge_ip: self.bridge_ip,
            cidr: self.cidr.clone(),
        };
        settings.plan()
    }
}

/// How long a helper that has its lock may take to listen, or to be gone.
const BETWEEN: Duration = Duration::from_secs(5);

/// Starts the helper, and gives its process id when it did not run before. One that is about to be gone still has
/// its lock for a moment: what counts is that somebody listens.
async fn start_helper(paths: &Paths) -> Result<Option<u32>, CommandError> {
    let begun = Instant::now();
    loop {
        let pid = launch_helper(paths)?;
        let listens = || UnixStream::connect(paths.helper_socket()).is_ok();
        if pid.is_some() || listens() || begun.elapsed() > BETWEEN {
            return Ok(pid);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// None when there is one already.
fn launch_helper(paths: &Paths) -> Result<Option<u32>, CommandError> {
    let file = paths.config_dir.join("config.toml");
    let config = HelperConfig::load(&file);
    let network = config.plan().map_err(|error| {
        let what = format!("{} cannot be used", file.display());
        CommandError::because(ErrorCode::InvalidConfig, what, &error)
    })?;
    let args = [
        ("--owner", rustix::process::getuid().as_raw().to_string()),
        ("--runtime-dir", paths.helper_dir.display().to_string()),
        ("--bridge", network.bridge),
        ("--bridge-ip", network.bridge_ip.to_string()),
        ("--prefix", network.prefix.to_string()),
        ("--qemu", "/usr/bin/qemu-system-x86_64".to_owned()),
        (
            "--vhost-vsock",
            paths.program("banger-vhost-vsock").display().to_string(),
        ),
    ];
    let mut command = as_root(&paths.program("bangerd-root"))?;
    command.args(
        args.iter()
            .flat_map(|(name, value)| [(*name).to_owned(), value.clone()]),
    );
    let search = std::env::var_os("PATH").unwrap_or_default();
    if let Some(firecracker) = config.firecracker(&paths.program("firecracker"), &search) {
        command.arg("--firecracker").arg(firecracker);
    }
    command
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let unavailable = |message: String| CommandError::new(ErrorCode::HelperUnavailable, message);
    let child = command
        .spawn()
        .map_err(|error| unavailable(format!("the helper was not started: {error}")))?;
    let output = child
        .wait_with_output()
        .map_err(|error| unavailable(error.to_string()))?;
    if output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let pid = said.trim().strip_prefix("ready ");
        return Ok(pid.and_then(|pid| pid.parse().ok()));
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(unavailable("the privileged helper could not be started".into()).hint(why))
}

/// A command that runs as root: directly, or through sudo.
fn as_root(program: &Path) -> Result<Command, CommandError> {
    if rustix::process::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("sudo");
    if !rustix::termios::isatty(rustix::stdio::stdin()) {
        let probe = Command::new("sudo")
            .args(["-n", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            let what = "the privileged helper does not run, and sudo would ask for a password";
            return Err(CommandError::new(ErrorCode::HelperUnavailable, what)
                .hint("run `banger daemon start` once in a terminal"));
        }
        command.arg("-n");
    }
    command.arg("--").arg(program);
    Ok(command)
}

/// Ends the helper. VMs go on.
pub(crate) fn stop_helper(pid: u32) -> Result<(), CommandError> {
    let raw = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(raw) = raw else { return Ok(()) };
    let handle = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty());
    let failed = |error: &dyn std::error::Error| {
        CommandError::because(
            ErrorCode::HelperUnavailable,
            "the helper could not be ended",
            error,
        )
    };
    if rustix::process::geteuid().is_root() {
        match rustix::process::kill_process(raw, rustix::process::Signal::TERM) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            result => result.map_err(|error| failed(&error))?,
        }
    } else {
        let status = as_root(Path::new("kill"))?
            .arg(pid.to_string())
            .status()
            .map_err(|error| failed(&error))?;
        if !status.success() {
            return Err(CommandError::new(
                ErrorCode::HelperUnavailable,
                "the helper could not be ended",
            ));
        }
    }
    handle.map_or(Ok(()), |handle| {
        wait_for_end(&handle).map_err(|error| failed(&error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_newer("0.10.0", "0.9.9"));
        assert!(!is_newer("0.1.0", "0.1.0"));
    }

    #[test]
    fn an_installed_daemon_of_another_version_is_an_error_with_the_way_out() {
        let version = |daemon: &str, api: u32| Version {
            api_max: api,
            api_min: api,
            daemon: banger_api::Component {
                version: daemon.into(),
                build: String::new(),
                pid: 1,
            },
            helper: banger_api::HelperStatus {
                available: true,
                wanted: false,
                version: None,
                pid: None,
                socket: String::new(),
                problem: None,
            },
        };
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(check_installed(&version(ours, API_VERSION)), Ok(()));
        let older = check_installed(&version("0.0.1", API_VERSION)).unwrap_err();
        assert_eq!(older.0.code, ErrorCode::VersionMismatch);
        assert!(older.0.hints[0].contains("sudo banger system restart"));
        let newer = check_installed(&version("99.0.0", API_VERSION)).unwrap_err();
        assert!(!newer.0.hints[0].contains("restart"));
        assert!(check_installed(&version(ours, API_VERSION + 1)).is_err());
    }

    #[test]
    fn firecracker_is_the_configured_one_or_the_first_that_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        for folder in [&ours, &theirs] {
            fs::create_dir(folder).unwrap();
        }
        let beside = ours.join("firecracker");
        let search = std::env::join_paths([Path::new("relative"), &theirs]).unwrap();
        let find = |config: &HelperConfig| config.firecracker(&beside, &search);
        let none = HelperConfig::default();
        assert_eq!(find(&none), None);
        fs::write(theirs.join("firecracker"), "").unwrap();
        assert_eq!(find(&none), Some(theirs.join("firecracker")));
        fs::write(&beside, "").unwrap();
        assert_eq!(find(&none), Some(beside.clone()));
        let config: HelperConfig = toml::from_str("firecracker_bin = \"/opt/fc\"").unwrap();
        assert_eq!(find(&config), Some("/opt/fc".into()));
    }
}
