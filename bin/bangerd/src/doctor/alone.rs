//! `bangerd examine`: what can be said of this host without daemon and helper. The command line asks for it when
//! neither answers; nothing is changed, and the stores, which are the daemon's, are not opened.
#![expect(
    clippy::print_stdout,
    reason = "its one result goes to whoever started it"
)]

use std::ffi::OsString;
use std::process::ExitCode;

use banger_api::{Check, CheckResult, Doctor};
use banger_vmm::probe_kvm;
use clap::Parser as _;

use super::{check, file, files, programs, space, storage, vmm};
use crate::args::Args;
use crate::config::{self, Config};
use crate::host_vmms::HostProbe;
use crate::limits;
use crate::start::home;

/// Prints a `Doctor`.
pub(crate) fn run(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(words);
    limits::raise_files();
    match serde_json::to_string(&examine(&args)) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn examine(args: &Args) -> Doctor {
    let (config, mut checks) = configured(args);
    let host = HostProbe::new(probe_kvm(), &args.state_dir).offers(None);
    checks.push(vmm(&config, &host));
    checks.extend(programs(&config, &host));
    checks.push(space(&args.state_dir, config.disk_reserve()));
    checks.push(storage(&config, &host));
    checks.push(files(limits::files()));
    checks.push(file("agent", &args.agent, "the guest agent"));
    Doctor {
        checks,
        defaults: vec![],
    }
}

/// The configuration, and what is wrong with it: a daemon would not start.
fn configured(args: &Args) -> (Config, Vec<Check>) {
    let path = args.config_dir.join("config.toml");
    match config::load(&path, &home()) {
        Ok(loaded) => (loaded.config, vec![]),
        Err(error) => {
            let message = format!("{:#}", anyhow::Error::new(error));
            let fix = "put that right: the daemon does not start before";
            let check = check("config", CheckResult::Fail, message, Some(fix));
            (Config::default(), vec![check])
        }
    }
}
