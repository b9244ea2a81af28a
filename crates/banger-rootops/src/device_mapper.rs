//! Root disks as device-mapper's `snapshot` target
//! (`Documentation/admin-guide/device-mapper/snapshot.rst`), by ioctl: no udev, no libdevmapper, no
//! nodes in `/dev/mapper`.
//!
//! A device is ours when both its name (which tells this helper's from others') and its uuid
//! (`BANGER-<vm id>`) are. It is looked up by the one and changed by the other, so the kernel itself
//! keeps everybody else's out of reach.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use banger_core::{COW_CHUNK_SECTORS, VmId};
use rustix::fs::{Dev, Mode, OFlags, major, makedev, minor, open};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dm_packet::{
    DEFERRED_REMOVE, FOR_NOBODY, NO_FLUSH, PERSISTENT_DEV, Packet, STATUS_TABLE,
};
use crate::sys::dm_command;

const CONTROL: &str = "/dev/mapper/control";
const TARGET: &str = "snapshot";
/// Room for results that name no more than one device.
const ROOM: usize = 4096;
const MAX_ROOM: usize = 1 << 22;
/// Minor numbers end here (`MINORBITS`); the kernel gives the low ones to whoever does not ask.
const MINORS: std::ops::Range<u32> = 1 << 16..1 << 20;
/// How long a device whose removal was put off may take, and how often it is looked for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// The commands, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Version = 0,
    List = 2,
    Create = 3,
    Remove = 4,
    /// Without the flag that suspends: the table that was loaded becomes the device.
    Resume = 6,
    Status = 7,
    Load = 9,
    TableStatus = 12,
    ListVersions = 13,
    /// Loads the target's module when it must (Linux 5.3).
    TargetVersion = 17,
}

/// The names of a VM's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DmName {
    name: String,
    uuid: String,
}

impl DmName {
    /// `tag` tells this helper's devices from others'.
    pub(crate) fn new(tag: &str, vm: &VmId) -> Self {
        Self {
            name: format!("banger-{tag}-{vm}"),
            uuid: format!("BANGER-{vm}"),
        }
    }

    /// Somebody else's.
    #[cfg(test)]
    pub(crate) fn raw(name: &str, uuid: &str) -> Self {
        let [name, uuid] = [name, uuid].map(str::to_owned);
        Self { name, uuid }
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The VM of a name that this helper gives.
    pub(crate) fn vm_of(tag: &str, name: &str) -> Option<VmId> {
        let rest = name.strip_prefix("banger-")?.strip_prefix(tag)?;
        rest.strip_prefix('-')?.parse().ok()
    }
}

/// Why device-mapper cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsupported {
    #[error("{CONTROL} cannot be opened (is the kernel module dm_mod there?)")]
    Control(#[source] Errno),
    #[error("device-mapper does not answer")]
    Version(#[source] Errno),
    #[error("device-mapper has no `{TARGET}` target (kernel module dm_snapshot)")]
    Target(#[source] Errno),
}

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DmError {
    #[error("device-mapper's `{command:?}` failed for {name}")]
    Refused {
        command: String,
        name: String,
        #[source]
        source: Errno,
    },
    #[error("the device-mapper name {0} or its uuid is used by something that is not ours")]
    Foreign(String),
    #[error("{0} is still there: its removal waits for whoever has it open")]
    Lingers(String),
    #[error("no random number for a device")]
    Random(#[source] Errno),
}

/// What a snapshot device is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) sectors: u64,
    pub(crate) base: Dev,
    pub(crate) store: Dev,
}

impl Table {
    fn parameters(&self) -> String {
        let number = |device| format!("{}:{}", major(device), minor(device));
        let (base, store) = (number(self.base), number(self.store));
        format!("{base} {store} P {COW_CHUNK_SECTORS}")
    }
}

/// How full a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// In sectors, metadata included.
    Used { used: u64, total: u64 },
    /// The kernel has given it up: a write to it failed.
    Invalid,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It is gone, or was never there.
    Gone,
    /// Somebody has it open; it goes when they close it.
    Deferred,
}

/// The kernel's device-mapper.
#[derive(Debug)]
pub(crate) struct DeviceMapper(OwnedFd);

impl DeviceMapper {
    /// Opens it and makes sure that it has what is needed. Opening the node, and asking for the
    /// target's version, make the kernel load its modules by itself; no program is run for that.
    pub(crate) fn open() -> Result<Self, Unsupported> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let control = open(CONTROL, flags, Mode::empty()).map_err(Unsupported::Control)?;
        let mapper = Self(control);
        let version = mapper.run(Command::Version, Packet::new(0));
        version.map_err(Unsupported::Version)?;
        mapper.check_target().map_err(Unsupported::Target)?;
        Ok(mapper)
    }

    fn check_target(&self) -> Result<(), Errno> {
        let packet = Packet::new(ROOM).name(TARGET).ok_or(Errno::NAMETOOLONG)?;
        match self.run(Command::TargetVersion, packet) {
            Err(Errno::NOTTY) => {
                let listed = self.run(Command::ListVersions, Packet::new(ROOM))?;
                match listed.has_version_of(TARGET) {
                    true => Ok(()),
                    false => Err(Errno::NOENT),
                }
            }
            other => other.map(drop),
        }
    }

    fn run(&self, command: Command, mut packet: Packet) -> Result<Packet, Errno> {
        dm_command(&self.0, command as u8, packet.bytes())?;
        Ok(packet)
    }

    /// A command on a device of ours, by its uuid. None when there is none.
    fn on(
        &self,
        command: Command,
        device: &DmName,
        packet: Packet,
    ) -> Result<Option<Packet>, DmError> {
        let refused = |source| refused(command, device, source);
        let packet = packet.uuid(&device.uuid);
        let packet = packet.ok_or_else(|| refused(Errno::NAMETOOLONG))?;
        match self.run(command, packet) {
            Err(Errno::NXIO) => Ok(None),
            other => other.map(Some).map_err(refused),
        }
    }

    /// The device, if it is there and ours.
    fn find(&self, device: &DmName) -> Result<Option<Packet>, DmError> {
        let refused = |source| refused(Command::Status, device, source);
        let packet = Packet::new(ROOM).name(&device.name);
        let packet = packet.ok_or_else(|| refused(Errno::NAMETOOLONG))?;
        match self.run(Command::Status, packet.flags(NO_FLUSH)) {
            Err(Errno::NXIO) => Ok(None),
            Ok(found) if found.the_uuid() == device.uuid => Ok(Some(found)),
            Ok(_) => Err(DmError::Foreign(device.name.clone())),
            Err(source) => Err(refused(source)),
        }
    }

    /// Its number. None when it is not there.
    #[cfg(test)]
    pub(crate) fn device(&self, device: &DmName) -> Result<Option<Dev>, DmError> {
        Ok(self.find(device)?.map(|found| found.the_device()))
    }

    /// Makes a device without a table. One that is on its way out is waited for.
    ///
    /// The minor number is random, in a range that the kernel does not give out by itself: a node
    /// that somebody kept of a removed device must not become another VM's disk.
    pub(crate) fn create(&self, device: &DmName) -> Result<Dev, DmError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let minor = random_minor()?;
            let packet = Packet::new(0).flags(PERSISTENT_DEV);
            let packet = packet.device(makedev(0, minor)).name(&device.name);
            let made = packet.and_then(|packet| packet.uuid(&device.uuid));
            let made = made.ok_or(Errno::NAMETOOLONG);
            match made.and_then(|packet| self.run(Command::Create, packet)) {
                Ok(made) => return Ok(made.the_device()),
                Err(Errno::BUSY) => {}
                Err(source) => return Err(refused(Command::Create, device, source)),
            }
            match self.find(device)? {
                Some(found) if !found.is_being_removed() => {
                    return Err(refused(Command::Create, device, Errno::BUSY));
                }
                Some(_) if Instant::now() >= deadline => {
                    return Err(DmError::Lingers(device.name.clone()));
                }
                Some(_) => pause(),
                // Another helper's VM of that id, or (once in a million) the minor number.
                None if self
                    .on(Command::Status, device, Packet::new(ROOM))?
                    .is_some() =>
                {
                    return Err(DmError::Foreign(device.name.clone()));
                }
                None => {}
            }
        }
    }

    /// Gives a device its table. It holds both devices below from now on.
    pub(crate) fn load(&self, device: &DmName, table: &Table) -> Result<(), DmError> {
        let packet = Packet::new(0).target(TARGET, table.sectors, &table.parameters());
        self.done(Command::Load, device, packet)
    }

    /// Puts the table to work.
    pub(crate) fn resume(&self, device: &DmName) -> Result<(), DmError> {
        self.done(Command::Resume, device, Packet::new(0).event(FOR_NOBODY))
    }

    fn done(&self, command: Command, device: &DmName, packet: Packet) -> Result<(), DmError> {
        match self.on(command, device, packet)? {
            Some(_) => Ok(()),
            None => Err(refused(command, device, Errno::NXIO)),
        }
    }

    /// The base below a device. None when it is not there or has no table.
    pub(crate) fn base(&self, device: &DmName) -> Result<Option<Dev>, DmError> {
        let line = self.target_line(device, STATUS_TABLE)?;
        Ok(line.and_then(|line| parse_device(line.split(' ').next()?)))
    }

    /// How full its store is. None when it is not there or has no table.
    pub(crate) fn fill(&self, device: &DmName) -> Result<Option<Fill>, DmError> {
        let line = self.target_line(device, NO_FLUSH)?;
        Ok(line.map(|line| parse_fill(&line)))
    }

    fn target_line(&self, device: &DmName, flags: u32) -> Result<Option<String>, DmError> {
        if self.find(device)?.is_none() {
            return Ok(None);
        }
        let packet = Packet::new(ROOM).flags(flags);
        let found = self.on(Command::TableStatus, device, packet)?;
        Ok(found.and_then(|found| {
            let (kind, line) = found.the_target()?;
            (kind == TARGET).then(|| line.to_owned())
        }))
    }

    /// Removes a device; one that somebody has open goes when they close it. Absent is fine, and so
    /// is one that is not ours.
    pub(crate) fn remove(&self, device: &DmName) -> Result<Removed, DmError> {
        match self.find(device) {
            Ok(None) | Err(DmError::Foreign(_)) => return Ok(Removed::Gone),
            other => drop(other?),
        }
        let packet = |flags| Packet::new(0).event(FOR_NOBODY).flags(flags);
        match self.on(Command::Remove, device, packet(0)) {
            Err(DmError::Refused {
                source: Errno::BUSY,
                ..
            }) => {}
            other => return other.map(|_| Removed::Gone),
        }
        match self.on(Command::Remove, device, packet(DEFERRED_REMOVE))? {
            // It was closed in between.
            None => Ok(Removed::Gone),
            Some(_) if self.find(device)?.is_none() => Ok(Removed::Gone),
            Some(_) => Ok(Removed::Deferred),
        }
    }

    /// The VMs of all devices that carry this helper's names.
    pub(crate) fn list(&self, tag: &str) -> Result<Vec<VmId>, DmError> {
        let mut room = 1 << 16;
        let failed = |source| DmError::Refused {
            command: format!("{:?}", Command::List),
            name: "all devices".into(),
            source,
        };
        loop {
            let listed = self.run(Command::List, Packet::new(room)).map_err(failed)?;
            if !listed.is_full() {
                let names = listed.the_names();
                return Ok(names.iter().filter_map(|n| DmName::vm_of(tag, n)).collect());
            }
            room *= 2;
            if room > MAX_ROOM {
                return Err(failed(Errno::NOBUFS));
            }
        }
    }

    /// Whether somebody has it open.
    #[cfg(test)]
    pub(crate) fn is_open(&self, device: &DmName) -> bool {
        self.find(device)
            .unwrap()
            .is_some_and(|found| found.is_open())
    }
}

/// Between two looks at what the kernel is about to let go of.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when a device or the lock of a file that the kernel closes is gone"
)]
pub(crate) fn pause() {
    std::thread::sleep(PAUSE);
}

fn refused(command: Command, device: &DmName, source: Errno) -> DmError {
    DmError::Refused {
        command: format!("{command:?}"),
        name: device.name.clone(),
        source,
    }
}

fn random_minor() -> Result<u32, DmError> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(DmError::Random)?;
    Ok(MINORS.start + u32::from_ne_bytes(bytes) % (MINORS.end - MINORS.start))
}

/// `major:minor`, as tables show devices.
fn parse_device(text: &str) -> Option<Dev> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// `<used>/<total> <metadata>` in sectors, or a word for what is wrong.
fn parse_fill(line: &str) -> Fill {
    let numbers = line.split(' ').next().and_then(|part| {
        let (used, total) = part.split_once('/')?;
        Some((used.parse().ok()?, total.parse().ok()?))
    });
    match numbers {
        Some((used, total)) => Fill::Used { used, total },
        None => Fill::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmId {
        "0123456789ab".parse().unwrap()
    }

    #[test]
    fn only_names_of_this_helper_are_its_own() {
        let name = DmName::new("1000-ab", &vm());
        assert_eq!(name.name, "banger-1000-ab-0123456789ab");
        assert_eq!(name.uuid, "BANGER-0123456789ab");
        let of = |text| DmName::vm_of("1000-ab", text);
        assert_eq!(of(&name.name), Some(vm()));
        for foreign in [
            "banger-1000-a-0123456789ab",
            "banger-1000-abc-0123456789ab",
            "banger-1001-ab-0123456789ab",
            "banger-1000-ab-0123456789a",
            "banger-1000-ab-0123456789ab-x",
            "vg0-root",
            "",
        ] {
            assert_eq!(of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_table_is_the_kernels() {
        let table = Table {
            sectors: 2048,
            base: makedev(7, 3),
            store: makedev(7, 300),
        };
        assert_eq!(table.parameters(), "7:3 7:300 P 32");
        assert_eq!(parse_device("7:300"), Some(table.store));
        assert_eq!(parse_device("7"), None);
    }

    #[test]
    fn what_is_no_count_is_a_store_that_was_given_up() {
        let used = Fill::Used {
            used: 64,
            total: 20480,
        };
        assert_eq!(parse_fill("64/20480 32"), used);
        for word in ["Invalid", "Overflow", "Merge failed", "Unknown", "", "1/"] {
            assert_eq!(parse_fill(word), Fill::Invalid, "{word}");
        }
    }

    #[test]
    fn minors_are_not_those_that_the_kernel_gives_out() {
        for _ in 0..100 {
            assert!(MINORS.contains(&random_minor().unwrap()));
        }
    }
}
