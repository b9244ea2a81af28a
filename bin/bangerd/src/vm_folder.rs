//! What is where in a VM's folder.

/// Where the agent of its guest is reached.
pub(crate) const AGENT: &str = "run/v";
/// What its VMM says.
pub(crate) const VMM_LOG: &str = "run/vmm.log";
/// What its guest says on its console.
pub(crate) const CONSOLE: &str = "run/console";
