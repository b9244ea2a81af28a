//! The guest kernel's command line (`Documentation/admin-guide/kernel-parameters.txt`).

/// How the guest learns how fast its time stamp counter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestClock {
    /// KVM tells it.
    Paravirtual,
    /// Under emulation we do: the host's measured frequency in kHz.
    EarlyTscKhz(u32),
}

/// On every VMM: console on the serial port and quiet, an end at once after a panic, an interface that
/// keeps its kernel name.
const COMMON: &str = "console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 biosdevname=0 \
                      random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1";

/// Under QEMU: a reset by triple fault, which ends it.
#[must_use]
pub fn qemu_boot_args(clock: GuestClock) -> String {
    let mut args = format!("{COMMON} reboot=t no_timer_check");
    if let GuestClock::EarlyTscKhz(khz) = clock {
        // Without `reliable` a kernel with two emulated processors takes their counters for unsynchronised and
        // counts timer ticks instead, which a busy host loses: the guest's clock then falls behind.
        args.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
    }
    args
}

/// Under Firecracker: a reset by the keyboard controller, which is there for nothing else and is not
/// looked at for anything else.
#[must_use]
pub fn firecracker_boot_args() -> String {
    format!("{COMMON} reboot=k i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_emulated_guests_are_told_a_frequency() {
        let emulated = qemu_boot_args(GuestClock::EarlyTscKhz(2_450_000));
        assert!(!qemu_boot_args(GuestClock::Paravirtual).contains("tsc"));
        assert!(emulated.ends_with(" tsc=reliable tsc_early_khz=2450000"));
        assert!(!firecracker_boot_args().contains("tsc"));
    }

    #[test]
    fn each_vmm_ends_by_the_reset_that_it_knows_and_every_guest_has_a_console() {
        let (qemu, firecracker) = (
            qemu_boot_args(GuestClock::Paravirtual),
            firecracker_boot_args(),
        );
        let has = |args: &str, word: &str| args.split(' ').any(|one| one == word);
        assert!(has(&qemu, "reboot=t") && has(&firecracker, "reboot=k"));
        for args in [&qemu, &firecracker] {
            assert!(has(args, "panic=-1") && has(args, "console=ttyS0"));
            // Modules are loaded, and the farewell is written to the first uart.
            assert!(!has(args, "nomodule") && has(args, "8250.nr_uarts=1"));
        }
    }
}
