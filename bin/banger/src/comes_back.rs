//! Waiting for an installed daemon that has died: systemd starts it again half a second later, and it listens as
//! soon as it knows its VMs.

use std::time::{Duration, Instant};

use banger_api::Version;
use banger_client::{Client, ClientError};
use banger_install::{Systemctl, UnitState};

use crate::commands::blocking;

/// How long it may stay away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before this, nothing is said.
const QUIET: Duration = Duration::from_secs(1);
/// Between two tries; each is one connect(2).
const PAUSE: Duration = Duration::from_millis(10);

/// Builds of the installed daemon; of one that is away, as soon as it is back. `say` is called once when that
/// takes a while.
///
/// # Errors
/// See [`Client::version`]. One that somebody has stopped is not waited for.
pub(crate) async fn version(client: &Client, say: impl Fn(&str)) -> Result<Version, ClientError> {
    let wait = Wait {
        patience: PATIENCE,
        quiet: QUIET,
        is_stopped: || {
            let units = Systemctl.units(&["bangerd.service"]).unwrap_or_default();
            units.iter().any(is_stopped)
        },
    };
    wait.version(client, say).await
}

/// Whether systemd leaves it as it is. Only these two words say so: between a death and the next start
/// `ActiveState` may read `failed`, too (systemd 254: `failed-before-auto-restart`).
fn is_stopped(unit: &UnitState) -> bool {
    unit.load == "loaded" && ["dead", "failed"].contains(&unit.sub.as_str())
}

/// Nobody is there, or it went away over its answer.
const fn is_away(error: &ClientError) -> bool {
    matches!(error, ClientError::NoDaemon { .. } | ClientError::Broken(_))
}

struct Wait<F> {
    patience: Duration,
    quiet: Duration,
    /// Asked beside the waiting, once.
    is_stopped: F,
}

impl<F: FnOnce() -> bool + Send + 'static> Wait<F> {
    async fn version(self, client: &Client, say: impl Fn(&str)) -> Result<Version, ClientError> {
        let begun = Instant::now();
        let away = match client.version().await {
            Err(error) if is_away(&error) => error,
            answer => return answer,
        };
        let back = async {
            loop {
                tokio::time::sleep(PAUSE).await;
                match client.version().await {
                    Err(error) if is_away(&error) && begun.elapsed() < self.patience => {}
                    answer => return answer,
                }
            }
        };
        let stopped = async {
            let stopped = blocking("asking systemd", self.is_stopped).await;
            if stopped != Ok(true) {
                std::future::pending::<()>().await;
            }
        };
        let told = async {
            tokio::time::sleep(self.quiet).await;
            say("waiting for banger's daemon, which systemd starts again");
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answer = back => answer,
            () = stopped => Err(away),
            answer = told => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;

    use super::*;

    const LATE: Duration = Duration::from_millis(300);

    fn waiting(patience: Duration, is_stopped: bool) -> Wait<impl FnOnce() -> bool + Send> {
        Wait {
            patience,
            quiet: LATE / 3,
            is_stopped: move || is_stopped,
        }
    }

    fn answer(mut stream: UnixStream) {
        let _ = stream.read(&mut [0; 4096]).unwrap();
        let version = Version {
            api_max: 1,
            api_min: 1,
            daemon: banger_api::Component {
                version: "1".into(),
                build: String::new(),
                pid: 7,
            },
            helper: banger_api::HelperStatus {
                available: true,
                wanted: false,
                version: None,
                pid: None,
                socket: String::new(),
                problem: None,
            },
        };
        let body = serde_json::to_string(&version).unwrap();
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    }

    /// Its folder and its socket are there only after [`LATE`], as `RuntimeDirectory=` has it.
    async fn daemon_that_comes(socket: &Path) {
        tokio::time::sleep(LATE).await;
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        let served = tokio::task::spawn_blocking(move || answer(listener.accept().unwrap().0));
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_comes_back_is_waited_for_and_that_is_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("banger/bangerd.sock");
        let client = Client::new(&socket);
        let said = RefCell::new(vec![]);
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let begun = Instant::now();
        let wait = waiting(PATIENCE, false);
        let (answer, ()) = tokio::join!(wait.version(&client, say), daemon_that_comes(&socket));
        assert_eq!(answer.unwrap().daemon.pid, 7);
        assert!(begun.elapsed() >= LATE);
        let said = said.into_inner();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("waiting for banger's daemon"), "{said:?}");
    }

    #[tokio::test]
    async fn one_that_dies_over_its_answer_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bangerd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let served = tokio::task::spawn_blocking(move || {
            drop(listener.accept().unwrap());
            answer(listener.accept().unwrap().0);
        });
        let client = Client::new(&socket);
        let silent = |line: &str| panic!("{line}");
        let answer = waiting(PATIENCE, false).version(&client, silent).await;
        assert_eq!(answer.unwrap().daemon.pid, 7);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_stays_away_or_was_stopped_is_not_waited_for_without_end() {
        let client = Client::new("/nonexistent/bangerd.sock");
        let begun = Instant::now();
        let gave_up = waiting(LATE, false).version(&client, |_| {}).await;
        assert!(gave_up.unwrap_err().is_no_daemon());
        assert!(begun.elapsed() >= LATE);
        // systemd was told to stop it: nobody brings it back.
        let stopped = waiting(Duration::MAX, true).version(&client, |_| {}).await;
        assert!(stopped.unwrap_err().is_no_daemon());
    }

    #[test]
    fn only_a_unit_that_systemd_leaves_alone_is_stopped() {
        let is_stopped = |load: &str, active: &str, sub: &str| {
            let text = format!("LoadState={load}\nActiveState={active}\nSubState={sub}\n");
            banger_install::parse_units(&text).iter().any(is_stopped)
        };
        assert!(is_stopped("loaded", "inactive", "dead"));
        assert!(is_stopped("loaded", "failed", "failed"));
        for (active, sub) in [
            ("active", "running"),
            ("activating", "auto-restart"),
            ("failed", "failed-before-auto-restart"),
            ("deactivating", "stop-sigterm"),
        ] {
            assert!(!is_stopped("loaded", active, sub), "{sub}");
        }
        assert!(!is_stopped("not-found", "inactive", "dead"));
    }
}
