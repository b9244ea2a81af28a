//! What may be changed of a VM that exists.

use crate::{ByteSize, MemoryMib, VmSpec};

/// A wish to change a VM; what is None stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecChange {
    /// Virtual processors.
    pub vcpu: Option<u16>,
    /// Guest memory.
    pub memory_mib: Option<MemoryMib>,
    /// Size of the work disk.
    pub disk_size: Option<ByteSize>,
    /// Whether the guest reaches what is beyond the bridge.
    pub nat: Option<bool>,
}

/// Why a change cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was named.
    #[error("nothing to change was named")]
    Nothing,
    /// A disk is to become smaller.
    #[error("a work disk only grows: it has {now}, and {asked} is less")]
    Shrink {
        /// What it has.
        now: ByteSize,
        /// What was asked.
        asked: ByteSize,
    },
}

impl SpecChange {
    /// The specification after the change. Whether the host can give it is for [`VmSpec::check`].
    ///
    /// # Errors
    /// Nothing to change, or a disk that would shrink.
    pub fn apply(&self, now: &VmSpec) -> Result<VmSpec, ChangeError> {
        if *self == Self::default() {
            return Err(ChangeError::Nothing);
        }
        let mut spec = now.clone();
        spec.vcpu = self.vcpu.unwrap_or(now.vcpu);
        spec.memory_mib = self.memory_mib.unwrap_or(now.memory_mib);
        spec.disk_size = self.disk_size.unwrap_or(now.disk_size);
        spec.nat = self.nat.unwrap_or(now.nat);
        if spec.disk_size < now.disk_size {
            return Err(ChangeError::Shrink {
                now: now.disk_size,
                asked: spec.disk_size,
            });
        }
        Ok(spec)
    }

    /// Whether a VM must be stopped to go from `now` to `then`: all but NAT is fixed while it runs.
    #[must_use]
    pub fn needs_stop(now: &VmSpec, then: &VmSpec) -> bool {
        let but_nat = VmSpec {
            nat: now.nat,
            ..then.clone()
        };
        but_nat != *now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let now = VmSpec::FLOOR;
        let change = SpecChange {
            memory_mib: Some(MemoryMib(2048)),
            ..SpecChange::default()
        };
        let then = change.apply(&now).unwrap();
        let expected = VmSpec {
            memory_mib: MemoryMib(2048),
            ..now.clone()
        };
        assert_eq!(then, expected);
        assert!(SpecChange::needs_stop(&now, &then));
    }

    #[test]
    fn a_disk_only_grows_and_nothing_is_no_change() {
        let now = VmSpec::FLOOR;
        let to = |size| SpecChange {
            disk_size: Some(size),
            ..SpecChange::default()
        };
        assert!(matches!(
            to(ByteSize(now.disk_size.0 - 1)).apply(&now),
            Err(ChangeError::Shrink { .. })
        ));
        assert_eq!(to(now.disk_size).apply(&now), Ok(now.clone()));
        assert_eq!(SpecChange::default().apply(&now), Err(ChangeError::Nothing));
    }

    #[test]
    fn nat_alone_needs_no_stop() {
        let now = VmSpec::FLOOR;
        let change = SpecChange {
            nat: Some(true),
            ..SpecChange::default()
        };
        let then = change.apply(&now).unwrap();
        assert!(then.nat && !SpecChange::needs_stop(&now, &then));
        assert!(!SpecChange::needs_stop(&now, &now));
    }
}
