//! Taking down everything that the helper made: for uninstalling, when no helper runs.

use banger_root_proto::{Reply, Request};
use banger_rootops::Helper;

use crate::args::Args;
use crate::log::Log;
use crate::start::Failure;
use crate::{runtime_dir, sys};

/// Ends every VM, removes taps and network. What an earlier attempt has removed is fine; the first thing that
/// stays is the error, after all others were tried.
pub(crate) fn clear(args: &Args) -> Result<(), Failure> {
    sys::close_inherited(false);
    if !rustix::process::geteuid().is_root() {
        return Err("it must be started as root".into());
    }
    let dir = &args.config.runtime_dir;
    runtime_dir::ensure(dir)?;
    let Some(_lock) = runtime_dir::lock(dir)? else {
        return Err("the helper runs; stop it first".into());
    };
    let log = Log::open(&dir.join("helper.log"))?;
    let mut helper = Helper::open(args.config.clone())?;
    let mut ask = |request: &Request| {
        let (reply, _) = helper.handle(request, &[]);
        log.line(format_args!("verb={} (clearing) {reply:?}", request.verb()));
        reply
    };
    let Reply::Owned(owned) = ask(&Request::List {}) else {
        return Err("what was made cannot be listed; helper.log has the reason".into());
    };
    let vmms = owned.vmms.into_iter();
    let taps = owned.taps.into_iter();
    let requests = vmms
        .map(|vmm| Request::RemoveVmm { vm: vmm.vm })
        .chain(taps.map(|tap| Request::RemoveTap { vm: tap.vm }))
        .chain([Request::RemoveNetwork {}]);
    let mut first = None;
    for request in requests {
        if let Reply::Refused(refusal) = ask(&request) {
            let what = format!("{}: {refusal}", request.verb());
            first.get_or_insert(what);
        }
    }
    first.map_or(Ok(()), |what| Err(what.into()))
}
