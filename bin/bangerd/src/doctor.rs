//! What this host has and lacks.

pub(crate) mod alone;
mod network;

use std::path::Path;

use banger_api::{Check, CheckResult, Doctor, EffectiveDefault};
use banger_core::{ByteSize, SpecOrigin, VmmKind};

use crate::config::Config;
use crate::limits;
use crate::sizes::{Asked, effective};
use crate::state::State;
use crate::vmm_choice::{HostVmms, choose};

const QEMU: &str = "qemu-system-x86_64";

/// Programs, what needs them, and where they come from.
const PROGRAMS: &[(&str, &str, &str, CheckResult)] = &[
    (
        QEMU,
        "guests run in it",
        "qemu-system-x86",
        CheckResult::Fail,
    ),
    (
        "nft",
        "the firewall is set with it",
        "nftables",
        CheckResult::Fail,
    ),
    (
        "e2fsck",
        "file systems are checked with it before they grow",
        "e2fsprogs",
        CheckResult::Fail,
    ),
    (
        "mke2fs",
        "disks are formatted with it",
        "e2fsprogs",
        CheckResult::Fail,
    ),
    (
        "resize2fs",
        "work disks are grown with it",
        "e2fsprogs",
        CheckResult::Fail,
    ),
    (
        "mmdebstrap",
        "images are built with it",
        "mmdebstrap",
        CheckResult::Warn,
    ),
    (
        "dpkg-deb",
        "kernel packages are read with it",
        "dpkg",
        CheckResult::Warn,
    ),
    (
        "depmod",
        "kernel packages are indexed with it",
        "kmod",
        CheckResult::Warn,
    ),
    (
        "ssh",
        "`vm ssh` runs it",
        "openssh-client",
        CheckResult::Warn,
    ),
];

/// Less free space is worth a warning.
const LOW_SPACE: ByteSize = ByteSize::gib(4);

/// Runs every check.
pub(crate) async fn examine(state: &State) -> Doctor {
    let host = state.host_vmms().await;
    let mut checks = vec![vmm(&state.config, &host), helper(state).await];
    checks.extend(agreement(state));
    checks.extend(programs(&state.config, &host));
    checks.push(space(&state.args.state_dir, state.config.disk_reserve()));
    checks.push(storage(&state.config, &host));
    checks.push(database(state).await);
    checks.push(leftovers(state));
    checks.push(files(limits::files()));
    checks.push(file("agent", &state.args.agent, "the guest agent"));
    checks.push(kernel(state));
    checks.push(image(state));
    checks.extend(network::examine(state).await);
    Doctor {
        checks,
        defaults: defaults(state),
    }
}

fn check(name: &str, result: CheckResult, message: String, fix: Option<&str>) -> Check {
    Check {
        name: name.to_owned(),
        result,
        message,
        fix: fix.map(str::to_owned),
    }
}

/// What runs a new VM, and why.
fn vmm(config: &Config, host: &HostVmms) -> Check {
    let (result, message) = match choose(config.vmm, config.storage, host) {
        Ok((vmm, _)) if host.kvm.is_ok() => (CheckResult::Pass, vmm.reason),
        Ok((vmm, _)) => (CheckResult::Warn, vmm.reason),
        Err(failure) => (CheckResult::Fail, failure.in_full()),
    };
    let message = format!("new VMs: {message}");
    let slow = host
        .kvm
        .is_err()
        .then_some("a host with KVM runs guests many times as fast");
    check("vmm", result, message, slow)
}

async fn helper(state: &State) -> Check {
    match state.helper.info().await {
        Ok(info) => {
            let message = format!(
                "the helper answers; bridge {} is {}/{}",
                info.bridge, info.bridge_ip, info.prefix
            );
            check("helper", CheckResult::Pass, message, None)
        }
        Err(failure) => check(
            "helper",
            CheckResult::Fail,
            failure.in_full(),
            Some("run any `banger vm` command: it starts the helper"),
        ),
    }
}

/// What the owner configured and root decided otherwise, on an installed host.
fn agreement(state: &State) -> Option<Check> {
    let root = state.args.root_config.as_ref()?.display();
    if state.overruled.is_empty() {
        let message = format!("your configuration and root's ({root}) agree");
        return Some(check("agreement", CheckResult::Pass, message, None));
    }
    let message = format!(
        "{} in your config.toml: root decided otherwise in {root}, and that holds",
        state.overruled.join(", ")
    );
    let fix = "remove these keys, or have root install again with --bridge, --cidr, --firecracker";
    Some(check("agreement", CheckResult::Fail, message, Some(fix)))
}

/// The programs that are run. Without QEMU there is nothing wrong where VMs run in Firecracker.
fn programs(config: &Config, host: &HostVmms) -> Vec<Check> {
    let chosen = choose(config.vmm, config.storage, host);
    let spares_qemu = chosen.is_ok_and(|(vmm, _)| vmm.value != VmmKind::Qemu);
    let look = |(name, why, package, missing): &(&str, &str, &str, CheckResult)| {
        let missing = match *name {
            QEMU if spares_qemu => CheckResult::Warn,
            _ => *missing,
        };
        program(name, why, package, missing)
    };
    PROGRAMS.iter().map(look).collect()
}

fn program(name: &str, why: &str, package: &str, missing: CheckResult) -> Check {
    let folders = [
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
    ];
    let found = folders
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists());
    match found {
        Some(path) => check(name, CheckResult::Pass, path.display().to_string(), None),
        None => {
            let fix = format!("install the package {package}, or run scripts/setup");
            check(name, missing, format!("not found; {why}"), Some(&fix))
        }
    }
}

fn space(state_dir: &Path, reserve: ByteSize) -> Check {
    match rustix::fs::statvfs(state_dir) {
        Ok(stat) => {
            let free = ByteSize(stat.f_bavail * stat.f_frsize);
            let message = format!(
                "{free} free at {}; below {reserve} (disk_reserve) VMs are paused",
                state_dir.display()
            );
            let (result, fix) = judge_space(free, reserve);
            check("space", result, message, fix)
        }
        Err(error) => check("space", CheckResult::Fail, error.to_string(), None),
    }
}

fn judge_space(free: ByteSize, reserve: ByteSize) -> (CheckResult, Option<&'static str>) {
    if free < reserve {
        let fix = "make room there, or lower disk_reserve: no VM goes on before";
        (CheckResult::Fail, Some(fix))
    } else if free < LOW_SPACE {
        (CheckResult::Warn, Some("images and VMs need room there"))
    } else {
        (CheckResult::Pass, None)
    }
}

/// Whether the database is whole.
async fn database(state: &State) -> Check {
    let path = state.args.state_dir.join("banger.db");
    let fix = "stop the daemon and put a copy of the file there; `sqlite3 banger.db .recover` reads what can be read";
    match state.engine.database_damage().await {
        Ok(damage) if damage.is_empty() => check(
            "database",
            CheckResult::Pass,
            path.display().to_string(),
            None,
        ),
        Ok(damage) => {
            let message = format!("{} is damaged: {}", path.display(), damage.join("; "));
            check("database", CheckResult::Fail, message, Some(fix))
        }
        Err(failure) => check("database", CheckResult::Fail, failure.in_full(), Some(fix)),
    }
}

/// What was found at the start and belongs to no VM, or could not be put right.
fn leftovers(state: &State) -> Check {
    let problems = state.problems();
    if problems.is_empty() {
        let message = "what exists is what is stored".to_owned();
        return check("leftovers", CheckResult::Pass, message, None);
    }
    let fix = "look at it, and start the daemon again when it is put right";
    check(
        "leftovers",
        CheckResult::Warn,
        problems.join("; "),
        Some(fix),
    )
}

/// How many files the daemon may have open.
fn files(limit: u64) -> Check {
    let message = format!("the daemon may have {limit} files open");
    let few = limit < limits::LITTLE;
    let result = if few {
        CheckResult::Warn
    } else {
        CheckResult::Pass
    };
    let fix = few.then_some(
        "raise the limit (`ulimit -Hn`), then start the daemon again: each VM that runs takes two",
    );
    check("open_files", result, message, fix)
}

/// What a new VM's root disk is kept in, and why.
fn storage(config: &Config, host: &HostVmms) -> Check {
    match choose(config.vmm, config.storage, host) {
        Ok((_, storage)) => {
            let message = format!(
                "root disks are {}; work disks are sparse copies",
                storage.reason
            );
            check("storage", CheckResult::Pass, message, None)
        }
        Err(failure) => {
            let fix = "`storage = \"auto\"` in config.toml takes what the host can";
            check("storage", CheckResult::Fail, failure.in_full(), Some(fix))
        }
    }
}

fn file(name: &str, path: &Path, what: &str) -> Check {
    if path.is_file() {
        return check(name, CheckResult::Pass, path.display().to_string(), None);
    }
    let message = format!("{what} is not at {}", path.display());
    check(
        name,
        CheckResult::Fail,
        message,
        Some("build or install banger again"),
    )
}

fn kernel(state: &State) -> Check {
    match state.kernels.default_kernel() {
        Ok(Some(kernel)) => check(
            "kernel",
            CheckResult::Pass,
            kernel.record.name.to_string(),
            None,
        ),
        _ => check(
            "kernel",
            CheckResult::Warn,
            "none yet; the first VM imports one".into(),
            Some("banger kernel import"),
        ),
    }
}

fn image(state: &State) -> Check {
    match state.images.get(&state.default_image) {
        Some(image) if image.is_stale() => {
            let message = format!("{} was built from an older recipe", image.record.name);
            check(
                "image",
                CheckResult::Warn,
                message,
                Some("banger image build --force"),
            )
        }
        Some(image) => check(
            "image",
            CheckResult::Pass,
            image.record.name.to_string(),
            None,
        ),
        None => {
            let message = format!(
                "{} is not there; the first VM builds it",
                state.default_image
            );
            check(
                "image",
                CheckResult::Warn,
                message,
                Some("banger image build"),
            )
        }
    }
}

fn defaults(state: &State) -> Vec<EffectiveDefault> {
    let (spec, origins) = effective(Asked::default(), &state.config.vm_defaults, state.host);
    let image = match state.config.default_image_name {
        Some(_) => SpecOrigin::Config,
        None => SpecOrigin::Floor,
    };
    let reserve = match state.config.disk_reserve {
        Some(_) => SpecOrigin::Config,
        None => SpecOrigin::Floor,
    };
    let one = |key: &str, value: String, origin: SpecOrigin, path: &str| EffectiveDefault {
        key: key.to_owned(),
        value,
        origin: format!("{origin:?}").to_lowercase(),
        source: state.origins.of(path),
    };
    vec![
        one(
            "vcpu",
            spec.vcpu.to_string(),
            origins.vcpu,
            "vm_defaults.vcpu",
        ),
        one(
            "memory",
            spec.memory_mib.to_string(),
            origins.memory_mib,
            "vm_defaults.memory_mib",
        ),
        one(
            "disk_size",
            spec.disk_size.to_string(),
            origins.disk_size,
            "vm_defaults.disk_size",
        ),
        one(
            "image",
            state.default_image.to_string(),
            image,
            "default_image_name",
        ),
        one(
            "disk_reserve",
            state.config.disk_reserve().to_string(),
            reserve,
            "disk_reserve",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_less_than_the_reserve_a_failure() {
        let reserve = ByteSize(512 << 20);
        let result = |free| judge_space(free, reserve).0;
        assert_eq!(result(ByteSize::gib(8)), CheckResult::Pass);
        assert_eq!(result(ByteSize::gib(1)), CheckResult::Warn);
        assert_eq!(result(ByteSize(511 << 20)), CheckResult::Fail);
        assert_eq!(judge_space(ByteSize(0), ByteSize(0)).0, CheckResult::Warn);
    }
}
