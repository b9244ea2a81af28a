//! What goes to device-mapper and comes back: `struct dm_ioctl` and the records behind it
//! (`include/uapi/linux/dm-ioctl.h`, version 4). Pure: bytes in, bytes out.

use rustix::fs::Dev;

use crate::sys::DM_IOCTL_LENGTH;

const VERSION: usize = 0;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
#[cfg(test)]
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const EVENT: usize = 32;
const DEV: usize = 40;
const NAME: std::ops::Range<usize> = 48..176;
const UUID: std::ops::Range<usize> = 176..305;

/// `struct dm_target_spec`, before the parameters.
const TARGET_SPEC: usize = 40;
/// `struct dm_name_list`, before the name.
const NAME_LIST: usize = 12;

/// Ask for the table, not the status.
pub(crate) const STATUS_TABLE: u32 = 1 << 4;
/// The device number is the caller's.
pub(crate) const PERSISTENT_DEV: u32 = 1 << 3;
/// There was more to tell than fits.
pub(crate) const BUFFER_FULL: u32 = 1 << 8;
/// Status without flushing first.
pub(crate) const NO_FLUSH: u32 = 1 << 11;
/// Remove it when the last who has it open closes it.
pub(crate) const DEFERRED_REMOVE: u32 = 1 << 17;

/// For udev's rules (`libdm/libdevmapper.h`, in the upper half of the event number): nobody but
/// device-mapper's own rules shall look at this device. What is on it is a guest's.
pub(crate) const FOR_NOBODY: u32 = (0x02 | 0x04 | 0x08 | 0x40) << 16;

/// A command's parameters, then its results.
#[derive(Debug, Clone)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    /// An empty one, with room for the results.
    pub(crate) fn new(room: usize) -> Self {
        let mut packet = Self(vec![0; DM_IOCTL_LENGTH + room]);
        packet.put(VERSION, &4_u32.to_ne_bytes());
        let start = u32::try_from(DM_IOCTL_LENGTH).unwrap_or(0);
        packet.put(DATA_START, &start.to_ne_bytes());
        packet
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// None when the name does not leave room for its terminating zero.
    pub(crate) fn name(mut self, name: &str) -> Option<Self> {
        (name.len() < NAME.len()).then(|| {
            self.put(NAME.start, name.as_bytes());
            self
        })
    }

    /// None when the uuid does not leave room for its terminating zero.
    pub(crate) fn uuid(mut self, uuid: &str) -> Option<Self> {
        (uuid.len() < UUID.len()).then(|| {
            self.put(UUID.start, uuid.as_bytes());
            self
        })
    }

    pub(crate) fn flags(mut self, flags: u32) -> Self {
        self.put(FLAGS, &flags.to_ne_bytes());
        self
    }

    pub(crate) fn event(mut self, event: u32) -> Self {
        self.put(EVENT, &event.to_ne_bytes());
        self
    }

    pub(crate) fn device(mut self, device: Dev) -> Self {
        self.put(DEV, &device.to_ne_bytes());
        self
    }

    /// The one target of a table.
    pub(crate) fn target(mut self, kind: &str, sectors: u64, parameters: &str) -> Self {
        let end = TARGET_SPEC + parameters.len() + 1;
        let mut record = vec![0; end.next_multiple_of(8)];
        let next = u32::try_from(record.len()).unwrap_or(0);
        record[8..16].copy_from_slice(&sectors.to_ne_bytes());
        record[20..24].copy_from_slice(&next.to_ne_bytes());
        let kind = &kind.as_bytes()[..kind.len().min(15)];
        record[24..24 + kind.len()].copy_from_slice(kind);
        record[TARGET_SPEC..end - 1].copy_from_slice(parameters.as_bytes());
        self.0.truncate(DM_IOCTL_LENGTH);
        self.0.extend(record);
        self.put(TARGET_COUNT, &1_u32.to_ne_bytes());
        self
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn number(&self, at: usize) -> u32 {
        u32_at(&self.0, at).unwrap_or(0)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.number(FLAGS) & BUFFER_FULL != 0
    }

    pub(crate) fn is_being_removed(&self) -> bool {
        self.number(FLAGS) & DEFERRED_REMOVE != 0
    }

    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.number(OPEN_COUNT) != 0
    }

    pub(crate) fn the_uuid(&self) -> &str {
        text(&self.0[UUID])
    }

    /// `huge_encode_dev` is `dev_t` as `stat(2)` shows it.
    pub(crate) fn the_device(&self) -> Dev {
        u64_at(&self.0, DEV).unwrap_or(0)
    }

    fn data(&self) -> &[u8] {
        let start = usize::try_from(self.number(DATA_START)).unwrap_or(0);
        self.0.get(start..).unwrap_or_default()
    }

    /// Type and parameters (or status) of the only target; None when there is not just one.
    pub(crate) fn the_target(&self) -> Option<(&str, &str)> {
        let data = self.data();
        let kind = text(data.get(24..TARGET_SPEC)?);
        let line = text(data.get(TARGET_SPEC..)?);
        (self.number(TARGET_COUNT) == 1).then_some((kind, line))
    }

    /// Whether a list of targets (`struct dm_target_versions`) has this one.
    pub(crate) fn has_version_of(&self, target: &str) -> bool {
        let mut data = self.data();
        while let Some(entry) = data.get(16..) {
            if text(entry) == target {
                return true;
            }
            let next = u32_at(data, 0).and_then(|next| usize::try_from(next).ok());
            match next {
                Some(next) if next >= 16 => data = data.get(next..).unwrap_or_default(),
                _ => break,
            }
        }
        false
    }

    /// The names of all devices.
    pub(crate) fn the_names(&self) -> Vec<String> {
        let (mut data, mut names) = (self.data(), vec![]);
        while let Some(entry) = data.get(NAME_LIST..) {
            if u64_at(data, 0) == Some(0) {
                break;
            }
            names.push(text(entry).to_owned());
            let next = u32_at(data, 8).and_then(|next| usize::try_from(next).ok());
            match next {
                Some(next) if next >= NAME_LIST => data = data.get(next..).unwrap_or_default(),
                _ => break,
            }
        }
        names
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

/// Up to the first zero; what is not UTF-8 is none of ours.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_table_is_as_the_header_says() {
        let packet = Packet::new(0).uuid("BANGER-x").unwrap();
        let mut packet = packet.target("snapshot", 2048, "7:1 7:2 P 32");
        let bytes = packet.bytes();
        assert_eq!(bytes.len(), 312 + 40 + 16);
        assert_eq!(bytes[0..4], 4_u32.to_ne_bytes());
        assert_eq!(
            bytes[16..24],
            [312_u32.to_ne_bytes(), 1_u32.to_ne_bytes()].concat()
        );
        assert_eq!(&bytes[176..185], b"BANGER-x\0");
        assert_eq!(bytes[312 + 8..312 + 16], 2048_u64.to_ne_bytes());
        assert_eq!(bytes[312 + 20..312 + 24], 56_u32.to_ne_bytes());
        assert_eq!(&bytes[312 + 24..312 + 33], b"snapshot\0");
        assert_eq!(packet.the_target(), Some(("snapshot", "7:1 7:2 P 32")));
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(Packet::new(0).name(&"x".repeat(127)).is_some());
        assert!(Packet::new(0).name(&"x".repeat(128)).is_none());
        assert!(Packet::new(0).uuid(&"x".repeat(128)).is_some());
        assert!(Packet::new(0).uuid(&"x".repeat(129)).is_none());
    }

    #[test]
    fn a_list_is_walked_to_its_end() {
        let mut packet = Packet::new(64);
        assert!(packet.the_names().is_empty());
        packet.put(312, &77_u64.to_ne_bytes());
        packet.put(320, &24_u32.to_ne_bytes());
        packet.put(324, b"one\0");
        packet.put(336, &78_u64.to_ne_bytes());
        packet.put(348, b"two\0");
        assert_eq!(packet.the_names(), ["one", "two"]);
    }

    #[test]
    fn device_numbers_are_those_of_stat() {
        let packet = Packet::new(0).device((253 << 8) | 0x34 | (0xabc00 << 12));
        let device = packet.the_device();
        assert_eq!(rustix::fs::major(device), 253);
        assert_eq!(rustix::fs::minor(device), 0xabc34);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 312..600)) {
            let packet = Packet(bytes);
            let _ = (packet.the_names(), packet.the_target(), packet.the_device());
            let _ = (packet.the_uuid(), packet.is_full(), packet.has_version_of("snapshot"));
        }
    }
}
