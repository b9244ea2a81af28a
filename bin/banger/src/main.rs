//! `banger`, the command line.

mod cli;
mod comes_back;
mod commands;
mod complete;
#[cfg(test)]
mod documented;
mod environment;
mod error;
mod followed;
mod interrupt;
mod operation;
mod paths;
mod progress;
mod start;
mod ui;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(<cli::Cli as clap::CommandFactory>::command)
        .complete();
    let cli = cli::Cli::parse();
    let ui = ui::Ui::new(cli.output);
    let own_code = cli.command.own_failure_code();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return ui.fail(
                &error::CommandError::internal("no runtime", &error),
                own_code,
            );
        }
    };
    let ended = runtime.block_on(commands::run(cli, &ui));
    // Whoever failed waits for nobody: a transfer may hang with its guest.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => ui.fail(&error, own_code),
    }
}
