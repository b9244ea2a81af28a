//! The grammar of `banger vm`.

use std::path::PathBuf;

use banger_core::{ByteSize, Choice, KernelName, KillSignal, MemoryMib, VmName, VmmKind};
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use super::seconds::seconds;
use super::{AcpArgs, ForwardArgs, ImageArg, SessionCommand, WorkspaceCommand};
use crate::complete;
use crate::environment::EnvFlags;

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Create a VM, start it, and enter it or run a command in it.
    #[command(
        after_help = "Examples:\n  banger vm run                          a shell; the VM stays when you leave\n  banger vm run --rm -- make test        run a command, exit with its status, delete the VM\n  banger vm run -d --name web --nat      leave it running\n  banger vm run ./repo -- make test      a git checkout at /root/repo, and a command in it\n  banger vm run --rm --image registry.example/tool --entrypoint -- --version\n  banger vm run --memory 4G --vcpu 4 --image debian-bookworm\n\nVariables are for the command or shell alone; with -d, where there is neither, they become the VM's\nenvironment, as with `banger vm create`."
    )]
    Run(RunArgs),
    /// Create a VM, and start it unless told not to.
    #[command(
        after_help = "Examples:\n  banger vm create --name demo\n  banger vm create --no-start --disk-size 64G\n  banger vm create --name demo --env TOKEN --env-file .env\n\nVariables become the VM's environment: every `vm exec`, session and `vm acp` in it gets them,\nbeneath what its own --env says. The guest keeps them on its disk, for root, over its boots;\nbanger's log and database never have them. Logins by ssh do not get them."
    )]
    Create(CreateArgs),
    /// List VMs.
    #[command(alias = "ls", after_help = "Example:\n  banger vm list -o json")]
    List,
    /// Show all about a VM.
    #[command(after_help = "Example:\n  banger vm show demo")]
    Show(VmRef),
    /// Log in by ssh, or run a command by it, also where the image has no sshd.
    #[command(
        after_help = "Examples:\n  banger vm ssh demo\n  banger vm ssh demo -- systemctl status"
    )]
    Ssh(SshArgs),
    /// Run a command in a VM, without network or sshd.
    #[command(
        after_help = "Examples:\n  banger vm exec demo -- ls -la\n  banger vm exec -it demo -- bash\n  echo hi | banger vm exec demo -- cat\n  banger vm exec --env TOKEN --env-file .env demo -- deploy"
    )]
    Exec(ExecArgs),
    /// Show what VMs use: processor, memory, disks, network, on the host and in the guest.
    #[command(
        after_help = "Examples:\n  banger vm stats\n  banger vm stats demo web -o json\n\nFigures are looked at when they are asked for; `stats_poll_interval` says how old they may be."
    )]
    Stats(StatsArgs),
    /// Print settings for ssh, so that `ssh NAME.vm`, rsync, git and editors work by name, over vsock.
    #[command(
        after_help = "Examples:\n  banger vm ssh-config --install\n  rsync -a ./src demo.vm:/root/\n  git push ssh://demo.vm/root/repo HEAD:refs/heads/new"
    )]
    SshConfig(SshConfigArgs),
    /// Join standard input and output to a guest's sshd, or to banger's own (for ssh's ProxyCommand).
    #[command(
        hide = true,
        after_help = "Example:\n  ssh -o ProxyCommand='banger vm ssh-proxy %n' root@demo.vm"
    )]
    SshProxy(VmRef),
    /// List who listens in a VM, where the host reaches it, and the URLs of web servers.
    #[command(after_help = "Examples:\n  banger vm ports demo\n  banger vm ports demo -o json")]
    Ports(VmRef),
    /// A git checkout in a VM: put it there, see what changed, bring its commits back.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger vm run ./repo                       a VM with this checkout, and a shell in it\n  banger vm workspace diff demo\n  banger vm workspace pull demo --branch from-demo"
    )]
    Workspace(WorkspaceCommand),
    /// Copy files and folders into a VM or out of it, without network or sshd.
    #[command(
        after_help = "Examples:\n  banger vm cp ./site demo:/srv/               into a folder of the guest\n  banger vm cp demo:/var/log/syslog demo:notes .   paths that are not absolute are below /root\n  banger vm cp ./a.conf demo:/etc/b.conf       under another name\n  tar c . | banger vm cp - demo:all.tar        from a stream\n  banger vm cp demo:all.tar - | tar t          to a stream\n\nFolders are copied with all they hold: modes, times, links and holes are kept. A local name with a\ncolon is written as ./a:b."
    )]
    Cp(CpArgs),
    /// Print a VM's serial console, of this and earlier boots.
    #[command(after_help = "Example:\n  banger vm logs -f demo")]
    Logs(LogsArgs),
    /// Stop VMs: cleanly, and by force when the deadline passes. Their disks stay.
    #[command(
        after_help = "Examples:\n  banger vm stop demo\n  banger vm stop --grace 5s web db\n  banger vm stop --all"
    )]
    Stop(StopArgs),
    /// Start VMs that are stopped.
    #[command(after_help = "Example:\n  banger vm start demo")]
    Start(StartArgs),
    /// Restart VMs: a clean shutdown, by force when the deadline passes, and a new boot. One that is stopped is started.
    #[command(
        after_help = "Examples:\n  banger vm restart demo\n  banger vm restart --grace 5s web db"
    )]
    Restart(RestartArgs),
    /// End VMs at once, without asking their guests. Their disks stay.
    #[command(
        after_help = "Examples:\n  banger vm kill demo\n  banger vm kill --signal TERM web db"
    )]
    Kill(KillArgs),
    /// Change VMs: memory, vCPU and disk while they are stopped, NAT at any time.
    #[command(
        after_help = "Examples:\n  banger vm set demo --memory 4G --vcpu 4\n  banger vm set demo --disk-size 64G      the file system at /root grows with it\n  banger vm set web db --nat"
    )]
    Set(SetArgs),
    /// Delete every VM that does not run, after a confirmation that lists them.
    #[command(after_help = "Examples:\n  banger vm prune\n  banger vm prune -f")]
    Prune(PruneArgs),
    /// Delete VMs with all that is in them.
    #[command(
        alias = "rm",
        after_help = "Examples:\n  banger vm delete demo\n  banger vm delete demo --force    also with work in it that was never pulled\n\nA VM that holds commits or changes of a workspace that were never pulled is deleted after a question; without a\nterminal it needs --force. Of a VM that does not run, this is known as it was when banger stopped it."
    )]
    Delete(DeleteArgs),
    /// Long-lived commands that the guest keeps.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger vm session start demo --name web --cwd /root/repo -- npm start\n  banger vm session logs -f demo web\n  banger vm session list demo"
    )]
    Session(SessionCommand),
    /// Bridge standard input and output to a coding agent in the guest (`opencode acp`).
    #[command(
        after_help = "Examples:\n  banger vm acp demo\n  banger vm acp demo --cwd /root/repo/api -- my-agent --stdio\n\nThe exit code is the agent's own, and 125 when banger failed. Standard output carries nothing but\nthe agent's bytes."
    )]
    Acp(AcpArgs),
    /// Forward ports between this host and the guest, on loopback only, for as long as the command runs.
    #[command(
        after_help = "Examples:\n  banger vm forward demo 8080:80            127.0.0.1:8080 here is port 80 in the guest\n  banger vm forward demo --reverse 5432     port 5432 in the guest is the one here\n  banger vm forward demo --ssh-agent        programs in the guest use this host's ssh agent\n\nOver vsock: the guest needs no network for it."
    )]
    Forward(ForwardArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct VmFlags {
    /// Name: one DNS label. Without it, a free one is picked.
    #[arg(long)]
    pub(crate) name: Option<VmName>,
    /// Image: a name, or a reference as `image pull` takes it, which is pulled when it is not there.
    #[arg(long, add = ArgValueCandidates::new(complete::images))]
    pub(crate) image: Option<ImageArg>,
    /// Kernel, by its name in `kernel list`; without it, the one its image asks for, or the default one.
    #[arg(long, add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernel: Option<KernelName>,
    /// Virtual processors; without it, as with all sizes, what config.toml says or what suits this host.
    #[arg(long, value_name = "COUNT")]
    pub(crate) vcpu: Option<u16>,
    /// Memory: 2G, 512M; a bare number is MiB.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<MemoryMib>,
    /// Size of the work disk at /root: 16G.
    #[arg(long)]
    pub(crate) disk_size: Option<ByteSize>,
    /// Let the guest reach the internet.
    #[arg(long, overrides_with = "no_nat")]
    pub(crate) nat: bool,
    /// Keep the guest on the bridge (the default).
    #[arg(long)]
    pub(crate) no_nat: bool,
    /// The program that runs it: firecracker, qemu, or auto (Firecracker where it is installed and KVM
    /// works). Without it, what config.toml says.
    #[arg(long)]
    pub(crate) vmm: Option<Choice<VmmKind>>,
    /// Deadline of the boot: seconds, or a span like 90s or 2m.
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    pub(crate) timeout: Option<u32>,
    /// How far the guest must be.
    #[arg(long, value_enum)]
    pub(crate) wait: Option<WaitFor>,
}

/// How far a guest must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// The agent answers; file systems, network, names and limits are final.
    Reachable,
    /// Also what the image promises: its services, sshd, opencode.
    Ready,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) vm: VmFlags,
    /// A path in a git checkout: it is put at /root/repo, and the shell or command starts there.
    pub(crate) path: Option<PathBuf>,
    /// The guest works on a branch of this name.
    #[arg(long, value_name = "NAME", requires = "path")]
    pub(crate) branch: Option<String>,
    /// It starts at this commit, with its files; without it, HEAD and the files as they are.
    #[arg(long, value_name = "COMMIT", requires = "path")]
    pub(crate) from: Option<String>,
    /// Mount the checkout read-only in the guest.
    #[arg(long, requires = "path")]
    pub(crate) readonly: bool,
    /// Delete the VM when the shell or command ends.
    #[arg(long)]
    pub(crate) rm: bool,
    /// Leave it running in the background.
    #[arg(short, long, conflicts_with_all = ["rm", "command"])]
    pub(crate) detach: bool,
    /// Make its disks, and leave it stopped: as `vm create --no-start` does.
    #[arg(long, conflicts_with_all = ["path", "rm", "detach", "entrypoint", "command"])]
    pub(crate) no_start: bool,
    #[command(flatten)]
    pub(crate) env: EnvFlags,
    /// Run what the image would run as a container: its entry point and command, as its user, in its folder and with
    /// its environment. Words after `--` take the place of its command.
    #[arg(long, conflicts_with = "detach")]
    pub(crate) entrypoint: bool,
    /// Command to run in the guest; without one, a shell.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

impl RunArgs {
    /// Whether it ends with a command's status, not with a shell's.
    pub(crate) const fn runs_a_command(&self) -> bool {
        self.entrypoint || !self.command.is_empty()
    }
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) vm: VmFlags,
    /// Make its disks, and leave it stopped.
    #[arg(long)]
    pub(crate) no_start: bool,
    #[command(flatten)]
    pub(crate) env: EnvFlags,
}

#[derive(Debug, Args)]
pub(crate) struct VmRef {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
}

#[derive(Debug, Args)]
pub(crate) struct VmRefs {
    /// VMs, by name, id or unambiguous prefix.
    #[arg(required = true, value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// VMs, by name, id or unambiguous prefix; without one, all.
    #[arg(value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vms: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SshConfigArgs {
    /// Write them to a file of banger's, and have ~/.ssh/config include it.
    #[arg(long)]
    pub(crate) install: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// VMs, by name, id or unambiguous prefix.
    #[arg(required_unless_present = "all", value_name = "VM", add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vms: Vec<String>,
    /// All that run, start or stop.
    #[arg(long, conflicts_with = "vms")]
    pub(crate) all: bool,
    /// How long until force: seconds, or a span like 30s or 2m; 0 ends the VMM at once.
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    pub(crate) grace: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Deadline of the boot: seconds, or a span like 90s or 2m.
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    pub(crate) timeout: Option<u32>,
    /// How far the guests must be.
    #[arg(long, value_enum)]
    pub(crate) wait: Option<WaitFor>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// How long until force: seconds, or a span like 30s or 2m; 0 ends the VMM at once.
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    pub(crate) grace: Option<u32>,
    /// Deadline of the boot: seconds, or a span like 90s or 2m.
    #[arg(long, value_name = "SPAN", value_parser = seconds)]
    pub(crate) timeout: Option<u32>,
    /// How far the guests must be.
    #[arg(long, value_enum)]
    pub(crate) wait: Option<WaitFor>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// What the VMM is sent: KILL, or TERM to let it close its files.
    #[arg(short, long, value_name = "SIGNAL", default_value_t)]
    pub(crate) signal: KillSignal,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args(["memory", "vcpu", "disk_size", "nat", "no_nat"])))]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Memory: 2G, 512M; a bare number is MiB.
    #[arg(long)]
    pub(crate) memory: Option<MemoryMib>,
    /// Virtual processors.
    #[arg(long)]
    pub(crate) vcpu: Option<u16>,
    /// Size of the work disk at /root: 16G. Disks only grow.
    #[arg(long)]
    pub(crate) disk_size: Option<ByteSize>,
    /// Let the guest reach the internet.
    #[arg(long, overrides_with = "no_nat")]
    pub(crate) nat: bool,
    /// Keep the guest on the bridge.
    #[arg(long, overrides_with = "nat")]
    pub(crate) no_nat: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Ask nothing, also when a VM holds work that was never pulled.
    #[arg(short, long, visible_alias = "yes")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Ask nothing.
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Command; without one, a login shell.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Pass standard input on (also done when it is no terminal).
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Working directory in the guest; without it, /root.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) env: EnvFlags,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// What to copy, and last where to: PATH, VM:PATH, or - for a stream.
    #[arg(required = true, num_args = 2.., value_names = ["SRC", "DST"], add = ArgValueCandidates::new(complete::vm_paths))]
    pub(crate) paths: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Go on as more is written.
    #[arg(short, long)]
    pub(crate) follow: bool,
}
