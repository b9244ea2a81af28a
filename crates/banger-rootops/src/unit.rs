//! A VM as a transient unit of systemd's: what its processes may see and do. Pure; `systemd.rs` acts.
//!
//! The unit's root is an empty folder in which only these appear, under the same names for every VM: its own
//! directory as `/vm`, the distribution's `/usr`, banger's programs, and the devices it needs. It starts as
//! root with no capability but those to become the VM's user, which systemd itself cannot: a user without an
//! account is unknown to it.

use std::path::{Path, PathBuf};

use banger_core::VmId;

/// The empty folder below the helper's runtime directory.
pub(crate) const ROOT: &str = "empty";
/// The VM's directory inside.
pub(crate) const PLACE: &str = "/vm";

/// What depends on the VM.
#[derive(Debug, Clone)]
pub struct UnitSpec<'a> {
    /// Which VM.
    pub vm: &'a VmId,
    /// The slice of all VMs.
    pub slice: &'a str,
    /// The helper's runtime directory.
    pub runtime_dir: &'a Path,
    /// The VM's directory on this host.
    pub run: &'a Path,
    /// The user of its processes.
    pub uid: u32,
    /// Groups besides.
    pub groups: &'a [u32],
    /// `banger-vhost-vsock`, which becomes that user and starts the VMM.
    pub launcher: &'a Path,
    /// The VMM and its arguments.
    pub vmm: &'a Path,
    /// Its arguments.
    pub args: &'a [String],
    /// Whether it needs a vsock backend.
    pub backend: bool,
    /// Whether instructions run on KVM; emulation writes code that it then runs.
    pub kvm: bool,
    /// Number of the block device that stands in its directory.
    pub disk: Option<(u32, u32)>,
}

/// Why a unit cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path {} cannot be written into a unit: it has other bytes than letters, digits and ._-/", .0.display())]
pub struct PathError(PathBuf);

/// The unit's name. Derived from the VM's, so that an orphan can be found.
pub(crate) fn unit_name(vm: &VmId) -> String {
    format!("banger-vm-{vm}.service")
}

/// The VM whose unit a process is in, from its `/proc/<pid>/cgroup` (cgroups(7)).
pub(crate) fn vm_among(groups: &str) -> Option<VmId> {
    let of_line = |line: &str| {
        let unit = line.rsplit('/').next()?;
        let id = unit.strip_prefix("banger-vm-")?.strip_suffix(".service")?;
        id.parse().ok()
    };
    groups.lines().find_map(of_line)
}

impl UnitSpec<'_> {
    /// Its properties (systemd.exec(5), systemd.resource-control(5)), as `systemd-run` and unit files take them.
    ///
    /// # Errors
    /// A path that would not mean itself there.
    pub fn properties(&self) -> Result<Vec<String>, PathError> {
        let root = self.runtime_dir.join(ROOT);
        let (root, run) = (plain(&root)?, plain(self.run)?);
        let mut lines: Vec<String> = FIXED.iter().map(ToString::to_string).collect();
        lines.push(format!("RootDirectory={root}"));
        lines.push(format!("BindPaths={run}:{PLACE}"));
        lines.push(format!("WorkingDirectory={PLACE}"));
        // Where distributions have merged them these are links into /usr.
        lines.push("BindReadOnlyPaths=/usr -/lib -/lib64".to_owned());
        for program in [self.launcher, self.vmm] {
            if !program.starts_with("/usr") {
                lines.push(format!("BindReadOnlyPaths={}", plain(program)?));
            }
        }
        if self.kvm {
            lines.push("MemoryDenyWriteExecute=yes".to_owned());
            lines.push("BindPaths=/dev/kvm".to_owned());
            lines.push("DeviceAllow=/dev/kvm rw".to_owned());
        }
        if let Some((major, minor)) = self.disk {
            lines.push(format!("DeviceAllow=/dev/block/{major}:{minor} rw"));
        }
        Ok(lines)
    }

    /// What the unit runs.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let mut words = vec![
            self.launcher.display().to_string(),
            "--become".to_owned(),
            self.uid.to_string(),
        ];
        for group in self.groups {
            words.extend(["--group".to_owned(), group.to_string()]);
        }
        words.extend(["--vmm-log", "vmm.log"].map(str::to_owned));
        if self.backend {
            let backend = [
                "--log",
                "backend.log",
                "--guest-cid",
                crate::spawn::GUEST_CID,
                "--vhost-socket",
                "vhost",
                "--host-socket",
                "v",
            ];
            words.extend(backend.map(str::to_owned));
        }
        words.push("--".to_owned());
        words.push(self.vmm.display().to_string());
        words.extend(self.args.iter().cloned());
        words
    }

    /// The arguments of `systemd-run`.
    ///
    /// # Errors
    /// A path that would not mean itself there.
    pub fn systemd_run(&self) -> Result<Vec<String>, PathError> {
        let mut args = vec![
            "--quiet".to_owned(),
            "--collect".to_owned(),
            "--no-ask-password".to_owned(),
            format!("--unit={}", unit_name(self.vm)),
            format!("--slice={}", self.slice),
            format!("--description=banger VM {}", self.vm),
        ];
        let properties = self.properties()?;
        args.extend(
            properties
                .into_iter()
                .map(|line| format!("--property={line}")),
        );
        args.push("--".to_owned());
        // systemd-run gives words on as they are, but systemd itself reads `$` and `%` in them.
        args.extend(self.command().into_iter().map(|word| literal(&word)));
        Ok(args)
    }
}

/// The same for every VM.
const FIXED: &[&str] = &[
    "Type=exec",
    "CollectMode=inactive-or-failed",
    // When the host goes down, they are stopped cleanly first, and the daemon sees none of them end otherwise.
    "Before=banger-guests.service bangerd.service",
    "KillMode=control-group",
    "TimeoutStopSec=5",
    "TasksMax=512",
    "LimitCORE=0",
    "LimitNOFILE=4096",
    "UMask=0077",
    // To become the VM's user. Gone with that: no_new_privs, and nothing here is setuid.
    "CapabilityBoundingSet=CAP_SETUID CAP_SETGID",
    "NoNewPrivileges=yes",
    "MountAPIVFS=yes",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    "PrivateTmp=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    // Becoming the VM's user; and both VMMs filter their own system calls further.
    "SystemCallFilter=setgroups setresgid setresuid seccomp",
    "SystemCallErrorNumber=EPERM",
    // Exception, PrivateNetwork: its tap is the host's. It can open no socket but Unix ones.
    "RestrictAddressFamilies=AF_UNIX",
    "IPAddressDeny=any",
    "DevicePolicy=closed",
    "BindPaths=/dev/net/tun",
    "DeviceAllow=/dev/net/tun rw",
];

/// A path of which no byte means anything in a unit.
fn plain(path: &Path) -> Result<&str, PathError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    path.to_str()
        .filter(|text| text.starts_with('/') && text.bytes().all(fits))
        .ok_or_else(|| PathError(path.to_owned()))
}

fn literal(word: &str) -> String {
    word.replace('$', "$$").replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn spec<'a>(vm: &'a VmId, args: &'a [String]) -> UnitSpec<'a> {
        UnitSpec {
            vm,
            slice: "banger.slice",
            runtime_dir: Path::new("/run/banger-root/installed"),
            run: Path::new("/var/lib/banger/vms/0123456789ab/run"),
            uid: 880_007,
            groups: &[105],
            launcher: Path::new("/usr/lib/banger/banger-vhost-vsock"),
            vmm: Path::new("/usr/bin/qemu-system-x86_64"),
            args,
            backend: true,
            kvm: true,
            disk: None,
        }
    }

    fn vm() -> VmId {
        "0123456789ab".parse().unwrap()
    }

    #[test]
    fn qemu_on_kvm() {
        let args = ["-append".to_owned(), "a=$HOME b=%n".to_owned()];
        let run = spec(&vm(), &args).systemd_run().unwrap();
        insta::assert_snapshot!(run.join("\n"));
    }

    #[test]
    fn firecracker_elsewhere_on_a_snapshot() {
        let vm = vm();
        let spec = UnitSpec {
            vmm: Path::new("/opt/b/lib/banger/firecracker"),
            backend: false,
            disk: Some((253, 4)),
            ..spec(&vm, &[])
        };
        let lines = spec.properties().unwrap();
        for wanted in [
            "BindReadOnlyPaths=/opt/b/lib/banger/firecracker",
            "DeviceAllow=/dev/block/253:4 rw",
        ] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted}");
        }
        let command = spec.command().join(" ");
        assert!(!command.contains("vhost-socket"), "{command}");
        assert!(command.ends_with("--vmm-log vmm.log -- /opt/b/lib/banger/firecracker"));
    }

    #[test]
    fn emulation_may_write_code_and_gets_no_kvm() {
        let vm = vm();
        let spec = UnitSpec {
            kvm: false,
            ..spec(&vm, &[])
        };
        let text = spec.properties().unwrap().join("\n");
        assert!(!text.contains("kvm") && !text.contains("MemoryDenyWriteExecute"));
    }

    #[test]
    fn paths_that_a_unit_would_misread_are_refused() {
        let vm = vm();
        for bad in [
            "/a b",
            "/a:b",
            "/a%b",
            "/a\"b",
            "/a\nUser=root",
            "a",
            "/a$b",
            "/ä",
        ] {
            let spec = UnitSpec {
                run: Path::new(bad),
                ..spec(&vm, &[])
            };
            assert_eq!(spec.systemd_run(), Err(PathError(bad.into())));
        }
    }

    /// The promise about `systemd-analyze security`, measured where it is installed.
    #[test]
    fn its_exposure_is_at_most_one_and_a_half() {
        let vm = vm();
        let mut text = "[Service]\nExecStart=/usr/bin/true\n".to_owned();
        for line in spec(&vm, &[]).properties().unwrap() {
            text += &format!("{line}\n");
        }
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("banger-vm-test.service");
        std::fs::write(&unit, text).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", "--threshold=15"])
            .arg(&unit)
            .output();
        match output {
            Err(error) => println!("SKIPPED(systemd-analyze): {error}"),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(said.contains("Overall exposure level"), "{output:?}");
                assert!(output.status.success(), "{said}");
            }
        }
    }
}
