//! Having an image built: in this process, or by the build service of an installed host, whose sandbox is
//! wider than the daemon's. Only a recipe's name goes there.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_core::{ErrorCode, ImageName};
use banger_engine::ports::Failure;
use banger_image::{BuildWatch, ImageStore, Recipe};
use serde::{Deserialize, Serialize};

use crate::adapters::build_failure;

/// How often a build that says nothing is asked whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);

/// Where images are built.
#[derive(Debug, Clone)]
pub(crate) enum Builder {
    /// Here.
    Here,
    /// By the service that listens there.
    Service(PathBuf),
}

/// What the service is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BuildOrder {
    /// One of banger's own recipes.
    pub(crate) recipe: ImageName,
}

/// What it says, one a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BuildNews {
    /// A step begins.
    Step(String),
    /// A line of a step's output.
    Line(String),
    /// The image is in the store.
    Done,
    /// It is not.
    Failed {
        /// Stable code.
        code: ErrorCode,
        /// What failed.
        message: String,
        /// Why.
        causes: Vec<String>,
        /// What to do.
        hints: Vec<String>,
    },
}

impl Builder {
    /// Builds the recipe's image into the store.
    pub(crate) fn build(
        &self,
        store: &ImageStore,
        recipe: &Recipe,
        log: &Path,
        watch: &dyn BuildWatch,
    ) -> Result<(), Failure> {
        match self {
            Self::Here => store
                .build(recipe, log, watch)
                .map(drop)
                .map_err(|error| build_failure(&recipe.name, &error)),
            Self::Service(socket) => ask(socket, &recipe.name, watch),
        }
    }
}

fn ask(socket: &Path, name: &ImageName, watch: &dyn BuildWatch) -> Result<(), Failure> {
    let away = |error: &(dyn std::error::Error + 'static)| {
        let what = format!("the image `{name}` could not be built: the build service went away");
        Failure::because(ErrorCode::ImageBuildFailed, what, error)
            .hint("`journalctl -u 'bangerd-build@*'` says why")
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| {
        let what = format!("{} does not answer", socket.display());
        Failure::because(ErrorCode::HostNotReady, what, &error)
            .hint("`sudo banger system restart` starts the build service's socket")
    })?;
    let send = |stream: &mut UnixStream| -> io::Result<()> {
        stream.set_read_timeout(Some(TICK))?;
        let order = BuildOrder {
            recipe: name.clone(),
        };
        writeln!(stream, "{}", serde_json::to_string(&order)?)
    };
    send(&mut stream).map_err(|error| away(&error))?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    loop {
        // Hanging up is how a build is cancelled.
        if watch.cancelled() {
            let what = format!("the build of the image `{name}` was cancelled");
            return Err(Failure::new(ErrorCode::Cancelled, what));
        }
        match lines.read_line(&mut line) {
            Ok(0) => return Err(away(&io::Error::from(io::ErrorKind::UnexpectedEof))),
            Ok(_) => {}
            // What was read of an unfinished line is kept.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(away(&error)),
        }
        let news = serde_json::from_str(&line).map_err(|error| away(&error))?;
        line.clear();
        match news {
            BuildNews::Step(title) => watch.step(&title),
            BuildNews::Line(text) => watch.line(&text),
            BuildNews::Done => return Ok(()),
            BuildNews::Failed {
                code,
                message,
                causes,
                hints,
            } => {
                let mut failure = Failure::new(code, message);
                failure.causes = causes;
                failure.hints = hints;
                return Err(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Watch {
        seen: Mutex<Vec<String>>,
        cancelled: AtomicBool,
    }

    impl BuildWatch for Watch {
        fn step(&self, title: &str) {
            self.seen.lock().unwrap().push(format!("step {title}"));
        }
        fn line(&self, text: &str) {
            self.seen.lock().unwrap().push(text.to_owned());
            self.cancelled
                .fetch_or(text == "cancel me", Ordering::AcqRel);
        }
        fn cancelled(&self) -> bool {
            self.cancelled.load(Ordering::Acquire)
        }
    }

    /// Asks a service that reads the order, says `answer` and hangs up when the client does.
    fn asked(answer: &'static [u8]) -> (Result<(), Failure>, Vec<String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut order = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut order)
                .unwrap();
            stream.write_all(answer).unwrap();
            if answer.ends_with(b"me\"}\n") {
                let _ = io::Read::read(&mut stream, &mut [0]);
            }
            order
        });
        let watch = Watch::default();
        let name = "debian-minimal".parse().unwrap();
        let result = ask(&path, &name, &watch);
        let order = service.join().unwrap();
        (result, watch.seen.into_inner().unwrap(), order)
    }

    #[test]
    fn a_name_goes_there_and_progress_comes_back() {
        let (result, seen, order) = asked(b"{\"step\":\"a\"}\n{\"line\":\"b\"}\n\"done\"\n");
        assert_eq!(order, "{\"recipe\":\"debian-minimal\"}\n");
        assert_eq!(seen, ["step a", "b"]);
        assert!(result.is_ok());
    }

    #[test]
    fn failures_silence_and_nonsense_are_failures() {
        let failed = b"{\"failed\":{\"code\":\"disk_full\",\"message\":\"m\",\"causes\":[\"c\"],\"hints\":[]}}\n";
        let failure = asked(failed).0.unwrap_err();
        assert_eq!(failure.code, ErrorCode::DiskFull);
        assert_eq!(failure.causes, ["c"]);
        for bad in [&b""[..], b"{\"step\":", b"hello\n", b"{\"shell\":\"sh\"}\n"] {
            let failure = asked(bad).0.unwrap_err();
            assert_eq!(failure.code, ErrorCode::ImageBuildFailed, "{bad:?}");
        }
        let nobody = ask(
            Path::new("/nowhere/s"),
            &"debian-minimal".parse().unwrap(),
            &Watch::default(),
        );
        assert_eq!(nobody.unwrap_err().code, ErrorCode::HostNotReady);
    }

    #[test]
    fn a_cancelled_build_is_hung_up_on() {
        let (result, ..) = asked(b"{\"line\":\"cancel me\"}\n");
        assert_eq!(result.unwrap_err().code, ErrorCode::Cancelled);
    }
}
