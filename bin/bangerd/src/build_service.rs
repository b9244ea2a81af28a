//! `bangerd build`: one build for one connection, which is standard input and output. It takes the name of
//! one of banger's own recipes and nothing else, and ends the build when the other side hangs up.
#![expect(
    clippy::print_stderr,
    reason = "standard output is the connection, standard error the log"
)]

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use banger_core::ErrorCode;
use banger_engine::ports::Failure;
use banger_image::{BuildWatch, ImageStore, Recipe};
use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::builds::{BuildNews, BuildOrder, Builder};

/// An order is one short line.
const LONGEST_ORDER: u64 = 1 << 10;

/// Builds one image for the daemon.
#[derive(Debug, Parser)]
#[command(name = "bangerd build")]
struct Args {
    /// The daemon's images.
    #[arg(long)]
    images: PathBuf,
    /// The daemon's folder of logs.
    #[arg(long)]
    logs: PathBuf,
}

/// Serves the connection.
pub(crate) fn run(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let args = Args::parse_from(args);
    let news = match build(&args) {
        Ok(()) => BuildNews::Done,
        Err(failure) => {
            eprintln!("bangerd build: {}", failure.in_full());
            BuildNews::Failed {
                code: failure.code,
                message: failure.message,
                causes: failure.causes,
                hints: failure.hints,
            }
        }
    };
    let succeeded = matches!(news, BuildNews::Done);
    Connection::default().say(&news);
    if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn build(args: &Args) -> Result<(), Failure> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(ErrorCode::InvalidArgument, "the order is refused", error)
    };
    let mut line = String::new();
    let mut input = io::Read::take(io::stdin().lock(), LONGEST_ORDER);
    input
        .read_line(&mut line)
        .map_err(|error| refused(&error))?;
    drop(input);
    let order: BuildOrder = serde_json::from_str(&line).map_err(|error| refused(&error))?;
    let recipe = Recipe::load(&order.recipe).map_err(|error| refused(&error))?;
    let store = ImageStore::open(&args.images).map_err(|error| {
        Failure::because(
            ErrorCode::Internal,
            "the image store cannot be used",
            &error,
        )
    })?;
    let log = args.logs.join(format!("image-{}.log", order.recipe));
    Builder::Here.build(&store, &recipe, &log, &Connection::default())
}

/// The other side of standard input and output.
#[derive(Debug, Default)]
struct Connection {
    turn: Mutex<()>,
}

impl Connection {
    fn say(&self, news: &BuildNews) {
        let Ok(line) = serde_json::to_string(news) else {
            return;
        };
        let _turn = self
            .turn
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        use io::Write as _;
        // Whoever has hung up is seen by `cancelled`.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

impl BuildWatch for Connection {
    fn step(&self, title: &str) {
        self.say(&BuildNews::Step(title.to_owned()));
    }

    fn line(&self, text: &str) {
        self.say(&BuildNews::Line(text.to_owned()));
    }

    fn cancelled(&self) -> bool {
        let stdin = rustix::stdio::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::RDHUP)];
        let now = Timespec::default();
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
            && fds[0]
                .revents()
                .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}
