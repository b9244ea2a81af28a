//! `banger-vhost-vsock --guest-cid N (--vhost-fd N --host-fd N | --vhost-socket PATH --host-socket PATH)`
#![expect(clippy::print_stderr, reason = "the log is standard error")]

use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use banger_vhost_vsock::{serve, sys};

type Failure = Box<dyn std::error::Error>;

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

fn run() -> Result<(), Failure> {
    let mut guest_cid = None;
    let (mut vhost, mut host) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args
            .next()
            .ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--guest-cid" => guest_cid = Some(value.parse()?),
            "--vhost-fd" => vhost = Some(sys::inherited_listener(value.parse()?)?),
            "--host-fd" => host = Some(sys::inherited_listener(value.parse()?)?),
            "--vhost-socket" => vhost = Some(UnixListener::bind(value)?),
            "--host-socket" => host = Some(UnixListener::bind(value)?),
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let guest_cid = guest_cid.ok_or("--guest-cid is required")?;
    let vhost = vhost.ok_or("--vhost-fd or --vhost-socket is required")?;
    let host = host.ok_or("--host-fd or --host-socket is required")?;
    eprintln!("banger-vhost-vsock: guest {guest_cid}");
    Ok(serve(guest_cid, vhost, host)?)
}
