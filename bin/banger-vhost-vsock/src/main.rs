//! Serves a VM's vsock device, or is the first process of a VM's unit, or both:
//!
//! `banger-vhost-vsock [--become UID [--group GID]…] [--log FILE] [--vmm-log FILE]`
//! `  [--guest-cid N (--vhost-fd N --host-fd N | --vhost-socket PATH --host-socket PATH)] [-- VMM ARG…]`
//!
//! As first process it has come up as root with two capabilities; it becomes the VM's user for good before it
//! touches anything, and then starts the VMM.
#![expect(clippy::print_stderr, reason = "the log is standard error")]

mod args;
mod launch;

use std::process::ExitCode;

use args::Args;
use banger_vhost_vsock::serve;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes =
                std::iter::successors(error.source(), |cause| std::error::Error::source(*cause));
            let chain: String = causes.map(|cause| format!(": {cause}")).collect();
            eprintln!("banger-vhost-vsock: {error}{chain}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), args::Failure> {
    let args = Args::parse(std::env::args().skip(1))?;
    if let Some((uid, groups)) = &args.user {
        launch::become_user(*uid, groups)?;
    }
    let vmm_log = args.vmm_log.as_deref().map(launch::log).transpose()?;
    let Some(device) = args.device else {
        return Err(launch::exec(&args.vmm, vmm_log).into());
    };
    if let Some(log) = &args.log {
        launch::speak_into(&launch::log(log)?)?;
    }
    let (vhost, host) = (device.vhost.listen()?, device.host.listen()?);
    let guest_cid = device.guest_cid;
    eprintln!("banger-vhost-vsock: guest {guest_cid}");
    if args.vmm.is_empty() {
        return Ok(serve(guest_cid, vhost, host)?);
    }
    launch::beside(&args.vmm, vmm_log, move || {
        serve(guest_cid, vhost, host).map_err(|error| format!("{error} ({error:?})"))
    })
}
