//! Time, chance, and which boot of the host this is.

use banger_engine::ports::Clock;

/// The host's.
#[derive(Debug)]
pub(crate) struct HostClock {
    boot_id: String,
}

impl HostClock {
    /// Reads the boot's id once: it cannot change.
    pub(crate) fn new() -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            boot_id: boot_id.trim().to_owned(),
        })
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        // getrandom(2) only fails when it is interrupted before any byte came.
        done += rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty())
            .unwrap_or(0);
    }
    bytes
}

impl Clock for HostClock {
    fn now(&self) -> String {
        jiff::Timestamp::now().to_string()
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn entropy(&self) -> [u8; 6] {
        random()
    }
}
