//! One file for each group of verbs.

mod daemon;
mod doctor;
mod exec;
mod image;
mod kernel;
mod lifecycle;
mod logs;
mod run;
mod show;
mod ssh;

use banger_client::Client;
use banger_core::ErrorCode;

use crate::cli::{Cli, Command, ImageCommand, KernelCommand, VmCommand};
use crate::error::CommandError;
use crate::paths::Paths;
use crate::start::{self, Needs};
use crate::ui::Ui;

/// What a command ends with.
pub(crate) type CommandResult = Result<u8, CommandError>;

/// What every command has.
pub(crate) struct Context<'a> {
    pub(crate) ui: &'a Ui,
    pub(crate) paths: Paths,
}

impl Context<'_> {
    /// A client of a daemon that has what the command needs.
    pub(crate) async fn client(&self, needs: Needs) -> Result<Client, CommandError> {
        start::connect(&self.paths, needs).await
    }
}

/// Runs the command.
pub(crate) async fn run(cli: Cli, ui: &Ui) -> CommandResult {
    let paths = Paths::from_env().map_err(|error| {
        CommandError::because(
            ErrorCode::Internal,
            "this program cannot find itself",
            &error,
        )
    })?;
    let context = Context { ui, paths };
    match cli.command {
        Command::Vm(command) => vm(&context, command).await,
        Command::Image(ImageCommand::List) => image::list(&context).await,
        Command::Image(ImageCommand::Show { name }) => image::show(&context, &name).await,
        Command::Image(ImageCommand::Build { name, force }) => {
            image::build(&context, name, force).await
        }
        Command::Kernel(KernelCommand::List) => kernel::list(&context).await,
        Command::Kernel(KernelCommand::Show { name }) => kernel::show(&context, &name).await,
        Command::Kernel(KernelCommand::Import(args)) => kernel::import(&context, args).await,
        Command::Doctor => doctor::doctor(&context).await,
        Command::Daemon(command) => daemon::daemon(&context, &command).await,
        Command::Version => daemon::version(&context).await,
        Command::Completion { shell } => daemon::completion(&context, shell),
    }
}

async fn vm(context: &Context<'_>, command: VmCommand) -> CommandResult {
    match command {
        VmCommand::Run(args) => run::run(context, args).await,
        VmCommand::Create(args) => run::create(context, args).await,
        VmCommand::List => show::list(context).await,
        VmCommand::Show(args) => show::show(context, &args.vm).await,
        VmCommand::Ssh(args) => ssh::ssh(context, &args).await,
        VmCommand::Exec(args) => exec::exec(context, args).await,
        VmCommand::Logs(args) => logs::logs(context, &args).await,
        VmCommand::Stop(args) => lifecycle::stop(context, args).await,
        VmCommand::Start(args) => lifecycle::start(context, args).await,
        VmCommand::Delete(args) => lifecycle::delete(context, args).await,
    }
}
