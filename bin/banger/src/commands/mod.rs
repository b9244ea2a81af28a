//! One file for each group of verbs.

mod acp;
mod agents_own;
mod bench;
mod build;
mod catalog;
mod checkout;
mod config;
mod cp;
mod daemon;
mod delete;
mod doctor;
mod entrypoint;
mod exec;
mod forward;
mod image;
mod kernel;
mod lifecycle;
mod logs;
mod man;
mod ports;
mod prune;
mod run;
mod session;
mod show;
mod ssh;
mod ssh_config;
mod ssh_proxy;
mod stats;
mod system;
mod unpulled;
mod vm_environment;
mod workspace;

use std::path::Path;

use banger_api::ApiError;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_install::{RECORD, Record};

use crate::cli::{
    BenchCommand, CatalogCommand, Cli, Command, ConfigCommand, ImageCommand, KernelCommand,
    VmCommand,
};
use crate::error::CommandError;
use crate::paths::{CHECKOUT, Paths};
use crate::start::{self, Needs};
use crate::ui::Ui;

pub(crate) use session::live_names;

/// What a command ends with.
pub(crate) type CommandResult = Result<u8, CommandError>;

/// The exit code of a command that Ctrl-C ended (128 and the number of SIGINT).
pub(crate) const INTERRUPTED: u8 = 130;

/// Runs what blocks, off the runtime; `what` names it, should it panic.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CommandError::internal(&format!("{what} ended unexpectedly"), &error))
}

/// A line for one of several that something could not be done with.
fn failed_line(name: &str, error: &ApiError) -> String {
    format!("{name}: {} [{}]", error.message, error.code.as_str())
}

/// What every command has.
pub(crate) struct Context<'a> {
    pub(crate) ui: &'a Ui,
    pub(crate) paths: Paths,
}

impl Context<'_> {
    /// A client of a daemon that has what the command needs.
    pub(crate) async fn client(&self, needs: Needs) -> Result<Client, CommandError> {
        start::connect(&self.paths, needs, self.ui).await
    }
}

/// Runs the command.
pub(crate) async fn run(cli: Cli, ui: &Ui) -> CommandResult {
    let paths = match &cli.command {
        Command::System(command) => return system::system(ui, command),
        Command::Completion { shell } => return daemon::completion(ui, *shell),
        Command::Man { folder } => return man::man(ui, folder),
        command => find_paths(matches!(command, Command::Version))?,
    };
    let context = Context { ui, paths };
    match cli.command {
        Command::Vm(command) => vm(&context, command).await,
        Command::Image(ImageCommand::List { available: true }) => catalog::images(&context).await,
        Command::Image(ImageCommand::List { .. }) => image::list(&context).await,
        Command::Image(ImageCommand::Catalog(CatalogCommand::Build(args))) => {
            catalog::build(&context, args).await
        }
        Command::Image(ImageCommand::Catalog(CatalogCommand::Publish(args))) => {
            catalog::publish(&context, args).await
        }
        Command::Image(ImageCommand::Show { name }) => image::show(&context, &name).await,
        Command::Image(ImageCommand::Pull(args)) => image::pull(&context, args).await,
        Command::Image(ImageCommand::Build(args)) => build::build(&context, args).await,
        Command::Image(ImageCommand::Register(args)) => image::register(&context, args).await,
        Command::Image(ImageCommand::Promote { name }) => image::promote(&context, &name).await,
        Command::Image(ImageCommand::Delete { names }) => delete::images(&context, &names).await,
        Command::Kernel(KernelCommand::Delete { names }) => delete::kernels(&context, &names).await,
        Command::Kernel(KernelCommand::List { available: true }) => {
            catalog::kernels(&context).await
        }
        Command::Kernel(KernelCommand::List { .. }) => kernel::list(&context).await,
        Command::Kernel(KernelCommand::Pull { name }) => kernel::pull(&context, &name).await,
        Command::Kernel(KernelCommand::Show { name }) => kernel::show(&context, &name).await,
        Command::Kernel(KernelCommand::Import(args)) => kernel::import(&context, args).await,
        Command::Config(ConfigCommand::Show) => config::show(&context).await,
        Command::Doctor => doctor::doctor(&context).await,
        Command::Daemon(command) => daemon::daemon(&context, &command).await,
        Command::Version => daemon::version(&context).await,
        Command::Bench(BenchCommand::Create(args)) => bench::create(&context, args).await,
        // They were done above, without paths.
        Command::System(_) | Command::Completion { .. } | Command::Man { .. } => Ok(0),
    }
}

/// Where daemon and data are: of the whole host's installation when there is one, which serves one user.
pub(crate) fn find_paths(for_anybody: bool) -> Result<Paths, CommandError> {
    if std::env::var_os(CHECKOUT).is_none() {
        let record = Record::load(Path::new(RECORD)).map_err(|error| {
            let what = "the record of banger's installation cannot be used";
            CommandError::because(ErrorCode::HostNotReady, what, &error)
                .hint("install again: sudo banger system install --owner USER")
        })?;
        if let Some(record) = record {
            if !for_anybody && rustix::process::getuid().as_raw() != record.owner.uid {
                let owner = &record.owner.name;
                let what = format!("banger on this host belongs to {owner}, who alone may use it");
                return Err(
                    CommandError::new(ErrorCode::PermissionDenied, what).hint(format!(
                        "run it as {owner}, not as another user or through sudo"
                    )),
                );
            }
            return Ok(Paths::installed(&record));
        }
    }
    Paths::from_env().map_err(|error| {
        let what = "this program cannot find itself";
        CommandError::because(ErrorCode::Internal, what, &error)
    })
}

async fn vm(context: &Context<'_>, command: VmCommand) -> CommandResult {
    match command {
        VmCommand::Run(args) => run::run(context, args).await,
        VmCommand::Create(args) => run::create(context, args).await,
        VmCommand::List => show::list(context).await,
        VmCommand::Show(args) => show::show(context, &args.vm).await,
        VmCommand::Ssh(args) => ssh::ssh(context, &args).await,
        VmCommand::Exec(args) => exec::exec(context, args).await,
        VmCommand::Stats(args) => stats::stats(context, &args.vms).await,
        VmCommand::SshConfig(args) => ssh_config::ssh_config(context, &args).await,
        VmCommand::SshProxy(args) => ssh_proxy::ssh_proxy(context, &args.vm).await,
        VmCommand::Ports(args) => ports::ports(context, &args.vm).await,
        VmCommand::Workspace(command) => workspace::workspace(context, command).await,
        VmCommand::Cp(args) => cp::cp(context, args).await,
        VmCommand::Logs(args) => logs::logs(context, &args).await,
        VmCommand::Stop(args) => lifecycle::stop(context, args).await,
        VmCommand::Start(args) => lifecycle::start(context, args).await,
        VmCommand::Restart(args) => lifecycle::restart(context, args).await,
        VmCommand::Kill(args) => lifecycle::kill(context, args).await,
        VmCommand::Set(args) => lifecycle::set(context, args).await,
        VmCommand::Prune(args) => prune::prune(context, &args).await,
        VmCommand::Delete(args) => lifecycle::delete(context, args).await,
        VmCommand::Session(command) => session::session(context, command).await,
        VmCommand::Acp(args) => acp::acp(context, args).await,
        VmCommand::Forward(args) => forward::forward(context, args).await,
    }
}
