//! Stable error codes, and the exit code that each of them ends a command with.

use serde::{Deserialize, Serialize};

/// What the process returns (product contract, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well.
    Ok = 0,
    /// Something failed.
    Failed = 1,
    /// The command line, a name or the configuration is wrong.
    Usage = 2,
    /// The host is not ready; `banger doctor` explains.
    HostNotReady = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// It exists already, or is busy.
    Conflict = 5,
    /// banger itself failed, where the exit code belongs to the guest's command.
    OwnFailure = 125,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal => $exit:ident,)*) => {
        /// What went wrong, in a spelling that never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable spelling.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The exit code of a command that ends with this error.
            #[must_use]
            pub const fn exit_code(self) -> ExitCode {
                match self { $(Self::$variant => ExitCode::$exit,)* }
            }
        }
    };
}

error_codes! {
    /// A name, size, flag or request is malformed or out of range.
    InvalidArgument = "invalid_argument" => Usage,
    /// The configuration file cannot be used.
    InvalidConfig = "invalid_config" => Usage,
    /// No VM of that name, id or prefix.
    VmNotFound = "vm_not_found" => NotFound,
    /// No image of that name.
    ImageNotFound = "image_not_found" => NotFound,
    /// No kernel of that name.
    KernelNotFound = "kernel_not_found" => NotFound,
    /// No such session in the guest, or nothing listens on that port of it.
    SessionNotFound = "session_not_found" => NotFound,
    /// No such operation.
    OperationNotFound = "operation_not_found" => NotFound,
    /// The prefix fits more than one.
    Ambiguous = "ambiguous" => Conflict,
    /// The name is taken.
    NameTaken = "name_taken" => Conflict,
    /// The VM does something that excludes the request.
    VmBusy = "vm_busy" => Conflict,
    /// The VM does not run.
    VmNotRunning = "vm_not_running" => Conflict,
    /// The VM runs: what was asked needs it to be stopped.
    VmRunning = "vm_running" => Conflict,
    /// The VM is paused: its guest stands still until there is room on the host's disk again.
    VmPaused = "vm_paused" => Conflict,
    /// It is in use.
    InUse = "in_use" => Conflict,
    /// Every address of the subnet is given out.
    AddressesExhausted = "addresses_exhausted" => Conflict,
    /// The kernel file is none, truncated, or for another machine.
    InvalidKernel = "invalid_kernel" => Failed,
    /// An image could not be made.
    ImageBuildFailed = "image_build_failed" => Failed,
    /// An image could not be pulled.
    ImagePullFailed = "image_pull_failed" => Failed,
    /// No catalog is configured.
    CatalogNotFound = "catalog_not_found" => NotFound,
    /// The catalog cannot be reached, is not signed as it must be, or is not what it should be.
    CatalogFailed = "catalog_failed" => Failed,
    /// No space left on the file system.
    DiskFull = "disk_full" => Failed,
    /// A disk of the VM is not where it was.
    DiskLost = "disk_lost" => Failed,
    /// Another program holds the database.
    DatabaseBusy = "database_busy" => Conflict,
    /// The database cannot be written or opened.
    DatabaseNoAccess = "database_no_access" => HostNotReady,
    /// The database is damaged, or a row of it cannot be read.
    DatabaseDamaged = "database_damaged" => Failed,
    /// A tool or feature that the host must have is absent.
    HostNotReady = "host_not_ready" => HostNotReady,
    /// The helper cannot be started or reached.
    HelperUnavailable = "helper_unavailable" => HostNotReady,
    /// The helper refused the request.
    HelperRefused = "helper_refused" => Failed,
    /// The bridge's name or subnet belongs to something else.
    NetworkConflict = "network_conflict" => HostNotReady,
    /// The VMM could not be started, or ended at once.
    VmmFailed = "vmm_failed" => Failed,
    /// The guest did not become reachable or ready.
    BootFailed = "boot_failed" => Failed,
    /// The guest still boots: what was asked needs it to be ready.
    GuestBooting = "guest_booting" => Conflict,
    /// The agent in the guest does not answer.
    AgentUnreachable = "agent_unreachable" => Failed,
    /// The agent in the guest is older than what was asked of it.
    AgentTooOld = "agent_too_old" => Conflict,
    /// The command could not be started in the guest.
    ExecFailed = "exec_failed" => Failed,
    /// A file or folder is not there.
    FileNotFound = "file_not_found" => NotFound,
    /// The guest has work that this would destroy.
    WorkInGuest = "work_in_guest" => Conflict,
    /// Files could not be copied.
    CopyFailed = "copy_failed" => Failed,
    /// A deadline passed.
    Timeout = "timeout" => Failed,
    /// The operation was cancelled.
    Cancelled = "cancelled" => Failed,
    /// The daemon cannot be started or reached.
    DaemonUnavailable = "daemon_unavailable" => HostNotReady,
    /// The daemon speaks another protocol, or is newer.
    VersionMismatch = "version_mismatch" => HostNotReady,
    /// The socket or directory belongs to another user.
    PermissionDenied = "permission_denied" => HostNotReady,
    /// banger is not installed on this host.
    NotInstalled = "not_installed" => HostNotReady,
    /// banger is installed on this host, and that excludes the request.
    Installed = "installed" => Conflict,
    /// Only root may do it.
    NeedsRoot = "needs_root" => HostNotReady,
    /// A defect in banger.
    Internal = "internal" => Failed,
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;
    use std::collections::HashSet;

    #[test]
    fn each_code_has_one_spelling_of_its_own_and_json_uses_it() {
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }
}
