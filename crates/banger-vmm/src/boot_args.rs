//! The guest kernel's command line (`Documentation/admin-guide/kernel-parameters.txt`).

/// How the guest learns how fast its time stamp counter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestClock {
    /// KVM tells it.
    Paravirtual,
    /// Under emulation we do: the host's measured frequency in kHz.
    EarlyTscKhz(u32),
}

/// The command line: console on the serial port and quiet, a reset that ends the VMM, an interface that
/// keeps its kernel name.
#[must_use]
pub fn boot_args(clock: GuestClock) -> String {
    let mut args = String::from(
        "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 net.ifnames=0 biosdevname=0 \
         random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 no_timer_check",
    );
    if let GuestClock::EarlyTscKhz(khz) = clock {
        args.push_str(&format!(" tsc_early_khz={khz}"));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_emulated_guests_are_told_a_frequency() {
        assert!(!boot_args(GuestClock::Paravirtual).contains("tsc"));
        assert!(boot_args(GuestClock::EarlyTscKhz(2_450_000)).ends_with("tsc_early_khz=2450000"));
        assert!(boot_args(GuestClock::Paravirtual).contains("panic=-1"));
    }
}
