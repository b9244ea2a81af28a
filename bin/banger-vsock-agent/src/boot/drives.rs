//! The VM's drives: which block device is which.
//!
//! QEMU shows a drive's name as its serial number. Firecracker shows a number of its own, so where
//! no serial is a known name the order counts: root, work, config, modules; the config drive is
//! known by its content.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use banger_guest_proto::GuestConfig;
use rustix::event::{PollFd, Timespec};
use rustix::fs::OFlags;

use super::BootError;

/// How long to wait for drives once all drivers are loaded.
const PATIENCE: Duration = Duration::from_secs(10);
/// And how long at all: many guests at once on few processors are slow to load them.
const LONGEST: Duration = Duration::from_secs(180);

/// How long one look waits for the next. Short: it stands in the way of every boot.
const STEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// The device nodes of the drives.
#[derive(Debug, Default)]
pub(super) struct Drives {
    pub(super) root: PathBuf,
    pub(super) config: PathBuf,
    pub(super) work: Option<PathBuf>,
    pub(super) modules: Option<PathBuf>,
}

#[derive(Debug)]
struct Device {
    node: PathBuf,
    serial: String,
    is_config: bool,
}

/// Waits for the drives that every VM has; with `loaded` no more drivers are to come. A driver
/// probes its devices before its module counts as loaded: what is not there by then, is not there.
/// Until then only a full set of named drives will do.
pub(super) fn find(loaded: &AtomicBool) -> Result<Drives, BootError> {
    let begun = Instant::now();
    let mut deadline = begun + LONGEST;
    let mut was_complete = false;
    loop {
        // Looked at before the probe: what it finds then, is complete.
        let complete = loaded.load(Ordering::Acquire);
        if complete && !was_complete {
            was_complete = true;
            deadline = deadline.min(Instant::now() + PATIENCE);
        }
        let devices = probe();
        match assign(&devices) {
            Ok(drives) if complete || is_full_set(&devices) => return Ok(drives),
            Ok(_) => pause(),
            Err(missing) if Instant::now() >= deadline => {
                let seen: Vec<_> = devices
                    .iter()
                    .map(|device| device.node.display().to_string())
                    .collect();
                return Err(BootError::NoDrive {
                    missing,
                    seconds: begun.elapsed().as_secs(),
                    seen: seen.join(" "),
                });
            }
            Err(_) => pause(),
        }
    }
}

/// Nothing to wait on: /sys gives no events that need no listener of their own.
fn pause() {
    let mut none: [PollFd<'_>; 0] = [];
    let _ = rustix::event::poll(&mut none, Some(&STEP));
}

fn probe() -> Vec<Device> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("vd"))
        .collect();
    names.sort();
    let device = |name: String| {
        let serial = std::fs::read_to_string(format!("/sys/block/{name}/serial"));
        let node = PathBuf::from(format!("/dev/{name}"));
        Device {
            serial: serial.unwrap_or_default().trim().to_owned(),
            is_config: false,
            node,
        }
    };
    let mut devices: Vec<Device> = names.into_iter().map(device).collect();
    if !devices.iter().any(|d| d.serial == "root") {
        for device in &mut devices {
            device.is_config = head(&device.node, 8).starts_with(b"BNGRCFG1");
        }
    }
    devices
}

fn is_full_set(devices: &[Device]) -> bool {
    let named = |name: &str| devices.iter().any(|device| device.serial == name);
    ["root", "work", "config", "modules"].into_iter().all(named)
}

fn assign(devices: &[Device]) -> Result<Drives, &'static str> {
    let named = |name: &str| {
        let found = devices.iter().find(|device| device.serial == name);
        found.map(|device| device.node.clone())
    };
    if let Some(root) = named("root") {
        return Ok(Drives {
            root,
            config: named("config").ok_or("config")?,
            work: named("work"),
            modules: named("modules"),
        });
    }
    let config = devices.iter().find(|device| device.is_config);
    let config = config.ok_or("config")?.node.clone();
    let mut others = devices.iter().filter(|device| !device.is_config);
    let mut next = || others.next().map(|device| device.node.clone());
    Ok(Drives {
        root: next().ok_or("root")?,
        config,
        work: next(),
        modules: next(),
    })
}

fn head(node: &PathBuf, most: u64) -> Vec<u8> {
    let mut bytes = vec![];
    if let Ok(file) = std::fs::File::open(node) {
        let _ = file.take(most).read_to_end(&mut bytes);
    }
    bytes
}

/// Reads and parses the config drive. Also where files for the guest begin on it, if there are any.
pub(super) fn read_config(node: &PathBuf) -> Result<(GuestConfig, u64), BootError> {
    use std::os::unix::fs::OpenOptionsExt;
    let read = |file: std::fs::File, most: u64| {
        let mut bytes = vec![];
        file.take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    let most = banger_guest_proto::MAX_CONFIG as u64 + 4096;
    let flags = i32::try_from(OFlags::CLOEXEC.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(node);
    let bytes = file
        .and_then(|file| read(file, most))
        .map_err(|e| BootError::step("read the config drive", e))?;
    let config = banger_guest_proto::decode(&bytes).map_err(BootError::Config)?;
    let size = banger_guest_proto::encoded_size(&bytes).map_err(BootError::Config)?;
    Ok((config, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(node: &str, serial: &str, is_config: bool) -> Device {
        Device {
            node: node.into(),
            serial: serial.to_owned(),
            is_config,
        }
    }

    #[test]
    fn serials_count_whatever_the_order() {
        let drives = assign(&[
            device("/dev/vda", "config", false),
            device("/dev/vdb", "modules", false),
            device("/dev/vdc", "root", false),
        ])
        .unwrap();
        assert_eq!(drives.root, PathBuf::from("/dev/vdc"));
        assert_eq!(drives.work, None);
        assert_eq!(drives.modules, Some(PathBuf::from("/dev/vdb")));
    }

    #[test]
    fn without_names_the_order_counts_and_the_config_is_known_by_content() {
        let drives = assign(&[
            device("/dev/vda", "8388614", false),
            device("/dev/vdb", "8388615", false),
            device("/dev/vdc", "8388616", true),
            device("/dev/vdd", "", false),
        ])
        .unwrap();
        assert_eq!(drives.root, PathBuf::from("/dev/vda"));
        assert_eq!(drives.work, Some(PathBuf::from("/dev/vdb")));
        assert_eq!(drives.config, PathBuf::from("/dev/vdc"));
        assert_eq!(drives.modules, Some(PathBuf::from("/dev/vdd")));
    }

    #[test]
    fn what_is_missing_is_said() {
        let root_only = [device("/dev/vda", "root", false)];
        assert_eq!(assign(&root_only).unwrap_err(), "config");
        assert_eq!(assign(&[]).unwrap_err(), "config");
    }
}
