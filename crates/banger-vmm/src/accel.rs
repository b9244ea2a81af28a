//! Whether KVM really works. `/dev/kvm` can exist and be useless: on a virtual machine without nested
//! virtualisation it opens, and every guest dies.

use std::fs::{File, OpenOptions};
use std::io;

use crate::sys;

/// The only version of the API there is (`Documentation/virt/kvm/api.rst`, 4.1).
const API_VERSION: i32 = 12;

/// What was found, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelProbe {
    /// Whether guests can run on KVM.
    pub works: bool,
    /// For people.
    pub reason: String,
}

/// Looks at the processor and at `/dev/kvm`.
#[must_use]
pub fn probe_kvm() -> AccelProbe {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let no = |reason: &str| AccelProbe {
        works: false,
        reason: reason.to_owned(),
    };
    if !offers_virtualisation(&cpuinfo) {
        return no("the processor shows neither vmx nor svm: guests run under emulation");
    }
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // The helper starts VMMs with the device's group; the owner need not open it.
            AccelProbe {
                works: true,
                reason: "/dev/kvm belongs to another group than yours".into(),
            }
        }
        Err(_) => no("there is no /dev/kvm that opens"),
        Ok(device) => answer(&device),
    }
}

fn answer(device: &File) -> AccelProbe {
    match sys::kvm_api_version(device) {
        Ok(API_VERSION) => AccelProbe {
            works: true,
            reason: "KVM answers".into(),
        },
        Ok(other) => AccelProbe {
            works: false,
            reason: format!("KVM speaks version {other}"),
        },
        Err(error) => AccelProbe {
            works: false,
            reason: format!("KVM does not answer: {error}"),
        },
    }
}

/// `/proc/cpuinfo` lists what the processor offers.
fn offers_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| {
        line.split_ascii_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_counts_and_not_a_part_of_another() {
        assert!(offers_virtualisation("model: x\nflags\t\t: fpu vmx sse\n"));
        assert!(offers_virtualisation("flags\t\t: fpu svm\n"));
        assert!(!offers_virtualisation(
            "flags\t\t: fpu svm_lock\nbugs: vmx\n"
        ));
        assert!(!offers_virtualisation(""));
    }
}
