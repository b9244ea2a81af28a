//! The command line's grammar.

mod sessions;

use std::path::PathBuf;

use banger_core::{
    ByteSize, Choice, ImageName, ImageRef, KernelName, KillSignal, MemoryMib, VmName, VmmKind,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;
use crate::environment::EnvFlags;
use crate::ui::Output;

pub(crate) use sessions::{
    AcpArgs, AttachArgs, ForwardArgs, KillSessionArgs, OutputStream, Ports, Position, RestartFlag,
    SessionCommand, SessionLogsArgs, SessionRef, StartSessionArgs, StdinFlag, StopSessionArgs,
};

/// One-command, persistent development sandboxes.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    propagate_version = false,
    arg_required_else_help = true,
    after_help = "Examples:\n  banger vm run                      a sandbox, and a shell in it\n  banger vm run --rm -- uname -a     one command, then away\n  banger doctor                      what this host has and lacks\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 host not ready, 4 not found, 5 conflict or busy.\nFor `run -- CMD`, `exec` and `ssh -- CMD`: the command's own status, and 125 when banger failed."
)]
pub(crate) struct Cli {
    /// How results are shown.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "BANGER_OUTPUT"
    )]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, enter and manage VMs.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Images that VMs are made from.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Kernels that VMs boot.
    #[command(subcommand)]
    Kernel(KernelCommand),
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check this host; exit 1 when something fails.
    #[command(after_help = "Example:\n  banger doctor -o json")]
    Doctor,
    /// The background daemon.
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Install banger on this host, as systemd services; look after and remove the installation.
    #[command(subcommand)]
    System(SystemCommand),
    /// Builds of CLI, daemon and helper. Starts nothing.
    #[command(after_help = "Example:\n  banger version -o json")]
    Version,
    /// Print a completion script for a shell: verbs, flags, and names of VMs, images and kernels.
    #[command(
        after_help = "Load it with:\n  bash        source <(banger completion bash)\n  zsh         source <(banger completion zsh)\n  fish        banger completion fish | source\n  powershell  banger completion powershell | Out-String | Invoke-Expression"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Measure how long things take here.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Write the manual's pages into a folder.
    #[command(
        hide = true,
        after_help = "Example:\n  banger man ~/.local/share/man/man1"
    )]
    Man {
        /// The folder.
        folder: PathBuf,
    },
}

impl Command {
    /// The exit code of banger's own failures, where codes belong to the guest's command.
    pub(crate) const fn own_failure_code(&self) -> Option<u8> {
        match self {
            Self::Vm(VmCommand::Run(run)) if !run.command.is_empty() => Some(125),
            Self::Vm(VmCommand::Exec(_) | VmCommand::Acp(_)) => Some(125),
            Self::Vm(VmCommand::Session(SessionCommand::Attach(_))) => Some(125),
            Self::Vm(VmCommand::Ssh(ssh)) if !ssh.command.is_empty() => Some(125),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Create a VM, start it, and enter it or run a command in it.
    #[command(
        after_help = "Examples:\n  banger vm run                          a shell; the VM stays when you leave\n  banger vm run --rm -- make test        run a command, exit with its status, delete the VM\n  banger vm run -d --name web --nat      leave it running\n  banger vm run ./repo -- make test      a git checkout at /root/repo, and a command in it\n  banger vm run --memory 4G --vcpu 4 --image debian-bookworm"
    )]
    Run(RunArgs),
    /// Create a VM, and start it unless told not to.
    #[command(
        after_help = "Examples:\n  banger vm create --name demo\n  banger vm create --no-start --disk-size 64G"
    )]
    Create(CreateArgs),
    /// List VMs.
    #[command(alias = "ls", after_help = "Example:\n  banger vm list -o json")]
    List,
    /// Show all about a VM.
    #[command(after_help = "Example:\n  banger vm show demo")]
    Show(VmRef),
    /// Log in by ssh, or run a command by it.
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
    /// Join standard input and output to a guest's sshd (for ssh's ProxyCommand).
    #[command(
        hide = true,
        after_help = "Example:\n  ssh -o ProxyCommand='banger vm ssh-proxy %n' root@demo.vm"
    )]
    SshProxy(VmRef),
    /// List who listens in a VM, where the host reaches it, and the URLs of web servers.
    #[command(after_help = "Examples:\n  banger vm ports demo\n  banger vm ports demo -o json")]
    Ports(VmRef),
    /// A git checkout in a VM: put it there, see what changed, bring its commits back.
    #[command(subcommand)]
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
    #[command(after_help = "Examples:\n  banger vm stop demo\n  banger vm stop --grace 5 web db")]
    Stop(StopArgs),
    /// Start VMs that are stopped.
    #[command(after_help = "Example:\n  banger vm start demo")]
    Start(StartArgs),
    /// Restart VMs: a clean shutdown, by force when the deadline passes, and a new boot. One that is stopped is started.
    #[command(
        after_help = "Examples:\n  banger vm restart demo\n  banger vm restart --grace 5 web db"
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
    #[command(alias = "rm", after_help = "Example:\n  banger vm delete demo")]
    Delete(VmRefs),
    /// Long-lived commands that the guest keeps.
    #[command(subcommand)]
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
    /// Kernel.
    #[arg(long, add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernel: Option<KernelName>,
    /// Virtual processors.
    #[arg(long)]
    pub(crate) vcpu: Option<u16>,
    /// Memory: 2G, 512M; a bare number is MiB.
    #[arg(long)]
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
    /// Deadline of the boot in seconds.
    #[arg(long, value_name = "SECONDS")]
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
    /// Also what the image promises: sshd.
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
    #[command(flatten)]
    pub(crate) env: EnvFlags,
    /// Command to run in the guest; without one, a shell.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) vm: VmFlags,
    /// Make its disks only.
    #[arg(long)]
    pub(crate) no_start: bool,
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

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Create VMs, one after the other: how long until each is made, and until ssh works.
    #[command(
        after_help = "Examples:\n  banger bench create\n  banger bench create --runs 10 --image debian-minimal -o json"
    )]
    Create(BenchCreateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchCreateArgs {
    /// How many.
    #[arg(long, default_value = "5")]
    pub(crate) runs: std::num::NonZeroU32,
    /// Image; without it, the default one.
    #[arg(long, add = ArgValueCandidates::new(complete::images))]
    pub(crate) image: Option<ImageName>,
    /// The program that runs them: firecracker, qemu, or auto.
    #[arg(long)]
    pub(crate) vmm: Option<Choice<VmmKind>>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Seconds until force; 0 ends the VMM at once.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Deadline of the boot in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
    /// How far the guests must be.
    #[arg(long, value_enum)]
    pub(crate) wait: Option<WaitFor>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) vms: VmRefs,
    /// Seconds until force; 0 ends the VMM at once.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<u32>,
    /// Deadline of the boot in seconds.
    #[arg(long, value_name = "SECONDS")]
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
    /// Command.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Put a local git checkout into a running VM. Again: only what has changed since.
    #[command(
        after_help = "Examples:\n  banger vm workspace prepare demo                       this checkout, into /root/repo\n  banger vm workspace prepare demo ../other --dry-run    what would be sent\n  banger vm workspace prepare demo --branch try --from v1.2\n  banger vm workspace prepare demo --mode full_copy      all history, and submodules"
    )]
    Prepare(PrepareArgs),
    /// Show what the guest has changed since its checkout was put there.
    #[command(
        after_help = "Examples:\n  banger vm workspace diff demo\n  banger vm workspace diff demo --stat"
    )]
    Diff(DiffArgs),
    /// Bring the guest's commits here, under refs/banger/VM/; uncommitted work as one more commit.
    #[command(
        after_help = "Examples:\n  banger vm workspace pull demo\n  banger vm workspace pull demo --branch from-demo\n  git log refs/banger/demo/HEAD"
    )]
    Pull(BackArgs),
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum WorkspaceMode {
    /// Git metadata of one commit, and the tracked files as they are.
    ShallowOverlay,
    /// Git metadata of one commit, and no files.
    MetadataOnly,
    /// All history, all references, the tracked files as they are, and submodules.
    FullCopy,
}

impl From<WorkspaceMode> for banger_workspace::Mode {
    fn from(mode: WorkspaceMode) -> Self {
        match mode {
            WorkspaceMode::ShallowOverlay => Self::ShallowOverlay,
            WorkspaceMode::MetadataOnly => Self::MetadataOnly,
            WorkspaceMode::FullCopy => Self::FullCopy,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// A path in the checkout; without it, here.
    pub(crate) path: Option<PathBuf>,
    /// Folder in the guest, below /root.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// What is sent; shallow_overlay unless told otherwise.
    #[arg(long, value_enum)]
    pub(crate) mode: Option<WorkspaceMode>,
    /// The guest works on a branch of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// It starts at this commit, with its files; without it, HEAD and the files as they are.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) from: Option<String>,
    /// Also files that git does not know and does not ignore.
    #[arg(long)]
    pub(crate) include_untracked: bool,
    /// Mount the folder read-only in the guest.
    #[arg(long)]
    pub(crate) readonly: bool,
    /// List what would be sent, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Overwrite what the guest has changed itself.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Folder in the guest.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// Names and numbers only.
    #[arg(long)]
    pub(crate) stat: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BackArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// The repository to bring them to; without it, here.
    pub(crate) path: Option<PathBuf>,
    /// Folder in the guest.
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_path: Option<PathBuf>,
    /// Also make a branch of all there is.
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
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

/// What `--image` takes: the name of an image, or a reference to one that is pulled when it is not there.
#[derive(Debug, Clone)]
pub(crate) enum ImageArg {
    /// In the store.
    Name(ImageName),
    /// Anywhere.
    Reference(ImageRef),
}

impl std::str::FromStr for ImageArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ImageRef::is_meant_by(text) {
            let parsed = text.parse().map(Self::Reference);
            return parsed.map_err(|error: banger_core::ParseImageRefError| error.to_string());
        }
        let parsed = text.parse().map(Self::Name);
        parsed.map_err(|error: banger_core::ParseNameError| error.to_string())
    }
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Image: a reference, or the name of a recipe.
    pub(crate) image: ImageArg,
    /// Its name here; without it, one is derived: `debian:trixie` becomes `debian-trixie`.
    #[arg(long)]
    pub(crate) name: Option<ImageName>,
    /// Kernel to boot it with, instead of the default one.
    #[arg(long, add = ArgValueCandidates::new(complete::kernels))]
    pub(crate) kernel_ref: Option<KernelName>,
    /// Speak plain HTTP to the registry; to one on this machine it is tried unasked.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images.
    #[command(alias = "ls", after_help = "Example:\n  banger image list")]
    List,
    /// Show an image.
    #[command(after_help = "Example:\n  banger image show debian-bookworm")]
    Show {
        /// Image.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: String,
    },
    /// Pull an image from a registry, an OCI layout or an archive; it boots as it is.
    #[command(
        after_help = "Examples:\n  banger image pull debian:trixie                     from docker.io, as `debian-trixie`\n  banger image pull ghcr.io/me/tool:1 --name tool\n  banger image pull oci:./layout:latest               a layout directory\n  banger image pull docker-archive:./saved.tar        what `docker save` wrote\n\nCredentials are those of `docker login` and `podman login`. A bare word is the name of a recipe."
    )]
    Pull(PullArgs),
    /// Build an image from its recipe.
    #[command(
        after_help = "Examples:\n  banger image build\n  banger image build debian-minimal\n  banger image build --force"
    )]
    Build {
        /// Recipe; without it, the default image's.
        #[arg(add = ArgValueCandidates::new(complete::images))]
        name: Option<ImageName>,
        /// Also when it exists and its recipe has not changed.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// List kernels.
    #[command(alias = "ls", after_help = "Example:\n  banger kernel list")]
    List,
    /// Show a kernel.
    #[command(after_help = "Example:\n  banger kernel show 6.1.0-41-cloud-amd64")]
    Show {
        /// Kernel.
        #[arg(add = ArgValueCandidates::new(complete::kernels))]
        name: String,
    },
    /// Import a kernel: a file (vmlinux, vmlinuz, .deb), the host's own, or a Debian package.
    #[command(
        after_help = "Examples:\n  banger kernel import                              Debian's newest cloud kernel\n  banger kernel import --package linux-image-amd64\n  banger kernel import --host\n  banger kernel import ./vmlinuz --modules ./lib/modules/6.6.1"
    )]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file.
    #[arg(conflicts_with_all = ["package", "host"])]
    pub(crate) file: Option<PathBuf>,
    /// Its modules: a folder `…/lib/modules/<release>`.
    #[arg(long, requires = "file")]
    pub(crate) modules: Option<PathBuf>,
    /// A Debian package, fetched by the host's package manager.
    #[arg(long, conflicts_with = "host")]
    pub(crate) package: Option<String>,
    /// The kernel that this host runs.
    #[arg(long)]
    pub(crate) host: bool,
    /// Name in the catalog; without it, the release.
    #[arg(long)]
    pub(crate) name: Option<KernelName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key, its value, and where that comes from: file and line, environment, default.
    #[command(after_help = "Examples:\n  banger config show\n  banger config show -o json")]
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Show the daemon's state. Starts nothing.
    #[command(after_help = "Example:\n  banger daemon status -o json")]
    Status,
    /// Start daemon and helper.
    #[command(after_help = "Example:\n  banger daemon start")]
    Start,
    /// Stop daemon and helper. VMs go on running.
    #[command(after_help = "Example:\n  banger daemon stop")]
    Stop,
    /// Print the path of the owner API's socket.
    #[command(
        after_help = "Example:\n  curl --unix-socket \"$(banger daemon socket)\" http://banger/v1/vms"
    )]
    Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Install banger for one user, or upgrade it in place: running VMs go on.
    #[command(
        after_help = "Examples:\n  sudo ./target/release/banger system install --owner \"$USER\"\n  sudo banger system install --owner alice --firecracker ./firecracker --cidr 10.9.0.0/24\n\nWhat an earlier installation was told and is not told again stays."
    )]
    Install(InstallArgs),
    /// Show owner, versions, units, paths and what differs from the installation; exit 1 when something is wrong.
    #[command(after_help = "Example:\n  banger system status -o json")]
    Status,
    /// Restart daemon and helper. VMs go on running.
    #[command(after_help = "Example:\n  sudo banger system restart")]
    Restart,
    /// Remove the installation; the data stays unless told otherwise.
    #[command(
        after_help = "Examples:\n  sudo banger system uninstall\n  sudo banger system uninstall --force --purge    also running VMs and all data"
    )]
    Uninstall(UninstallArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The user whom it serves; under sudo, the one who called it.
    #[arg(long, env = "SUDO_USER", hide_env_values = true)]
    pub(crate) owner: String,
    /// Programs go to DIR/bin and DIR/lib/banger (/usr unless told otherwise).
    #[arg(long, value_name = "DIR")]
    pub(crate) prefix: Option<PathBuf>,
    /// A Firecracker binary to copy: VMs run in it where KVM works.
    #[arg(long, value_name = "PATH")]
    pub(crate) firecracker: Option<PathBuf>,
    /// The bridge's name (banger0 unless told otherwise).
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// The host's address on the bridge; without it, the subnet's first.
    #[arg(long, value_name = "IP")]
    pub(crate) bridge_ip: Option<std::net::Ipv4Addr>,
    /// The guests' subnet (172.16.0.0/24 unless told otherwise).
    #[arg(long, value_name = "NET/BITS")]
    pub(crate) cidr: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Also when VMs run (they are stopped), or when it is not known.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Delete the data, too: VMs, images, kernels.
    #[arg(long)]
    pub(crate) purge: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        fn check(command: &clap::Command, path: &str) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    check(sub, &path);
                } else {
                    let help = sub
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(help.contains("banger"), "{path} has no example");
                }
            }
        }
        check(&command, "banger");
    }

    /// The help of commands whose flags and examples are a promise.
    #[test]
    fn the_help_is_the_reviewed_one() {
        let command = Cli::command().term_width(100);
        for path in [
            &["vm", "ports"][..],
            &["vm", "stats"],
            &["vm", "ssh-config"],
            &["vm", "exec"],
            &["config", "show"],
            &["bench", "create"],
        ] {
            let mut found = command.clone();
            found.build();
            let mut at = &mut found;
            for name in path {
                at = at.find_subcommand_mut(name).unwrap();
            }
            insta::assert_snapshot!(path.join("_"), at.render_help());
        }
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["banger", "vm", "run", "--rm", "--", "sh", "-c", "exit 7"])
            .unwrap();
        assert_eq!(cli.command.own_failure_code(), Some(125));
        let Command::Vm(VmCommand::Run(run)) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.command, ["sh", "-c", "exit 7"]);
    }

    #[test]
    fn the_last_word_about_nat_counts() {
        for (flags, nat) in [
            (&["--nat"][..], true),
            (&["--no-nat"], false),
            (&["--no-nat", "--nat"], true),
            (&["--nat", "--no-nat"], false),
        ] {
            let args = ["banger", "vm", "set", "demo"];
            let cli = Cli::try_parse_from(args.iter().chain(flags)).unwrap();
            let Command::Vm(VmCommand::Set(set)) = cli.command else {
                panic!("not set")
            };
            assert_eq!((set.nat, set.no_nat), (nat, !nat), "{flags:?}");
        }
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for bad in [
            &["vm", "create", "--memory", "-1"][..],
            &["vm", "create", "--name", "A_B"],
            &["vm", "create", "--vcpu", "many"],
            &["vm", "create", "--vmm", "xen"],
            &["vm", "run", "-d", "--", "true"],
            &["vm", "delete"],
            &["bench", "create", "--runs", "0"],
            &["bench", "create", "--image", "A/B"],
            &["vm", "ssh-config", "--nowhere"],
            &["vm", "restart"],
            &["vm", "kill", "demo", "--signal", "STOP"],
            &["vm", "set", "demo"],
            &["vm", "set", "--memory", "1G"],
            &["vm", "set", "demo", "--disk-size", "-1"],
            &["vm", "prune", "demo"],
            &["vm", "cp", "only-one"],
            &["vm", "run", "--branch", "x"],
            &["vm", "run", "--from", "x", "--", "true"],
            &["vm", "run", "--readonly"],
            &["vm", "workspace", "prepare", "x", "--mode", "deep"],
            &["kernel", "import", "f", "--host"],
            &["vm", "session", "start", "demo"],
            &[
                "vm", "session", "start", "demo", "--name", "a/b", "--", "true",
            ],
            &["vm", "session", "start", "demo", "--replace", "--", "true"],
            &["vm", "session", "logs", "demo", "x", "--from", "here"],
            &["vm", "forward", "demo"],
            &["vm", "forward", "demo", "80:0"],
            &["system", "install", "--owner", "u", "--bridge-ip", "here"],
        ] {
            assert!(
                Cli::try_parse_from(["banger"].iter().chain(bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
