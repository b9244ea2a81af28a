//! Firecracker's arguments. All that it is to do comes later, from the owner, through its API socket
//! `api` in the VMM's directory.

use banger_core::VmId;

/// The arguments of `firecracker` (1.14 and later), run in the VMM's directory. It gives its own id
/// back to whoever asks, logs to its standard output, and keeps its seccomp filters.
#[must_use]
pub fn firecracker_args(vm: &VmId) -> Vec<String> {
    let args = ["--id", vm.as_str(), "--api-sock", "api", "--level", "Warn"];
    args.into_iter()
        .chain(["--show-level"])
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_its_id_and_the_socket_is_said() {
        let args = firecracker_args(&"0123456789ab".parse().unwrap());
        insta::assert_snapshot!(args.join(" "), @"--id 0123456789ab --api-sock api --level Warn --show-level");
    }
}
