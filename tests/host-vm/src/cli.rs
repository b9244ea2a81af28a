//! The command line.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::artefacts::Artefacts;
use crate::disk::Disk;
use crate::emulator::Emulator;
use crate::folder::Folder;
use crate::host::Host;
use crate::leash::Leash;
use crate::machine::{Machine, MachineOptions};
use crate::payload::Payload;
use crate::report::Report;
use crate::suite::{self, Length};
use crate::{runner, ssh};

/// Tests banger on a whole Debian host in a VM.
#[derive(Debug, Parser)]
#[command(
    name = "host-vm",
    after_help = "Examples:\n  host-vm test --smoke\n  host-vm test poweroff            the tests with that in their name\n  host-vm up                       keep a host running; its ssh command is printed\n  host-vm test --in DIR poweroff   a test in that host, with the programs as they are now"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a host, run tests in it, end it.
    Test(TestArgs),
    /// Boot a host and log in; it ends with the login.
    Shell(HostArgs),
    /// Boot a host and keep it until Ctrl-C or its time limit.
    Up(HostArgs),
    /// Build the host's disk when it is not there.
    Disk(DiskArgs),
    /// List the tests.
    List,
}

#[derive(Debug, Args)]
struct DiskArgs {
    /// The checkout.
    #[arg(long, default_value = ".")]
    repo: PathBuf,
    /// Where disks, run folders and logs are.
    #[arg(long, default_value = "target/host-vm")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct HostArgs {
    #[command(flatten)]
    disk: DiskArgs,
    #[command(flatten)]
    artefacts: Artefacts,
    /// Minutes after which the VM is ended whatever it does.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Memory of the VM in MiB.
    #[arg(long, default_value_t = 6144)]
    memory: u32,
}

#[derive(Debug, Args)]
struct TestArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The short suite only.
    #[arg(long)]
    smoke: bool,
    /// Do not boot a host: use the one whose folder `up` printed.
    #[arg(long = "in", value_name = "DIR")]
    running: Option<PathBuf>,
    /// Leave the host up after the tests, until Ctrl-C or its time limit.
    #[arg(long, conflicts_with = "running")]
    keep: bool,
    /// Tests with any of these in their names; without one, all.
    filter: Vec<String>,
}

/// Runs what the command line asks for.
pub(crate) fn main(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Verb::List => {
            for test in suite::all() {
                let length = if test.length == Length::Smoke {
                    "smoke"
                } else {
                    "whole"
                };
                println!("{length}  {}", test.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Disk(args) => {
            let disk = Disk::ensure(&args.repo, &args.dir)?;
            println!("{}", disk.folder.display());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Shell(args) => shell(&args),
        Verb::Up(args) => up(&args),
        Verb::Test(args) => test(&args),
    }
}

fn shell(args: &HostArgs) -> Result<ExitCode> {
    let leash = Leash::new()?;
    let mut report = Report::default();
    let (machine, _host) = boot(args, &leash, &mut report)?;
    println!(
        "\n`dev` has sudo without a password; `banger` is installed for it. Leave to end the host."
    );
    let status = Command::new("ssh")
        .arg("-F")
        .arg(machine.folder().path().join(ssh::CONFIG))
        .args(["-t", "dev"])
        .status()
        .context("starting ssh")?;
    drop(machine);
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

fn up(args: &HostArgs) -> Result<ExitCode> {
    let leash = Leash::new()?;
    let mut report = Report::default();
    let (machine, _host) = boot(args, &leash, &mut report)?;
    stay(machine, args)
}

/// Waits until the machine ends: by Ctrl-C, its time limit or its own doing.
fn stay(mut machine: Machine, args: &HostArgs) -> Result<ExitCode> {
    let folder = machine.folder().path().to_owned();
    println!(
        "\nThe host is up for at most {} minutes; Ctrl-C ends it.",
        args.minutes
    );
    println!(
        "  ssh -F {0}/{1} dev      (or root)",
        folder.display(),
        ssh::CONFIG
    );
    println!("  host-vm test --in {} NAME", folder.display());
    machine.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn boot(args: &HostArgs, leash: &Leash, report: &mut Report) -> Result<(Machine, Host)> {
    let root = &args.disk.dir;
    let emulator = report.stage("QEMU for the host", || {
        Ok(Emulator::ensure(&args.disk.repo, root))
    })?;
    let disk = report.stage("host disk", || Disk::ensure(&args.disk.repo, root))?;
    let folder = Folder::create(root)?;
    let payload = report.stage("drive of this run", || {
        Payload::make(&args.disk.repo, &folder, &args.artefacts)
    })?;
    let options = MachineOptions {
        memory_mib: args.memory,
        limit: Duration::from_secs(args.minutes * 60),
    };
    let machine = Machine::start(&emulator, &disk, folder, &payload, &options, leash)?;
    let host = report.stage("host boot to ssh", || machine.wait_for_ssh())?;
    report.stage("banger installed in the host", || {
        host.install_from_payload()
    })?;
    Ok((machine, host))
}

fn test(args: &TestArgs) -> Result<ExitCode> {
    let selection = suite::select(args.smoke, &args.filter);
    if selection.is_empty() {
        bail!(
            "no test has any of {:?} in its name; `host-vm list` lists them",
            args.filter
        );
    }
    let has_firecracker = args.host.artefacts.firecracker.is_some();
    let leash = Leash::new()?;
    let mut report = Report::default();
    if let Some(folder) = &args.running {
        let host = Host::at(folder)?;
        report.stage("programs into the host", || {
            host.renew(&args.host.artefacts)
        })?;
        runner::run(&host, &selection, has_firecracker, &leash, &mut report);
        return Ok(report.finish());
    }
    let (machine, host) = boot(&args.host, &leash, &mut report)?;
    runner::run(&host, &selection, has_firecracker, &leash, &mut report);
    let logs = args.host.disk.dir.join("logs");
    let kept = report.stage("logs out of the host", || {
        host.collect_logs(machine.folder(), &logs)
    });
    if let Err(error) = kept {
        // A host that has died tells no more; what is known of it is still told.
        eprintln!("host-vm: {error:#}");
    }
    let code = report.finish();
    if args.keep {
        stay(machine, &args.host)?;
    }
    Ok(code)
}
