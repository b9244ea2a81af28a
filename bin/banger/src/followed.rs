//! An operation's events, also beyond the end of the daemon that began it: the next one goes on with the
//! operation under its id, or says that it has ended.

use std::time::{Duration, Instant};

use banger_api::OperationEvent;
use banger_client::{Client, ClientError, EventStream};
use banger_core::ErrorCode;

use crate::commands::find_paths;
use crate::error::CommandError;
use crate::paths::Paths;
use crate::start;
use crate::ui::{Output, Ui};

/// How long a daemon may take to be there again. One that was stopped is waited for less: whoever installs a
/// newer build starts the next at once, and else it was meant to be gone.
const AFTER_DEATH: Duration = Duration::from_secs(30);
const AFTER_STOP: Duration = Duration::from_secs(5);
/// When nothing was heard for so long, it is looked whether the daemon waits for a helper that is gone.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// How the daemon went away in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// It was told to end: somebody wants it gone, so it is not started from here.
    Stopped,
    /// It died: it is started again.
    Died,
}

/// The events of one operation.
pub(crate) struct Followed<'a> {
    client: &'a Client,
    operation: &'a str,
    events: EventStream,
    lost: Option<Lost>,
}

impl<'a> Followed<'a> {
    /// Its events from the first.
    pub(crate) async fn new(client: &'a Client, operation: &'a str) -> Result<Self, CommandError> {
        Ok(Self {
            client,
            operation,
            events: client.events(operation).await?,
            lost: None,
        })
    }

    /// The next event. After a daemon's end it is a snapshot of what the next one knows. May be dropped and
    /// asked again.
    pub(crate) async fn next(&mut self) -> Result<OperationEvent, CommandError> {
        loop {
            if let Some(lost) = self.lost {
                self.events = self.again(lost).await?;
                self.lost = None;
            }
            let event = match tokio::time::timeout(SILENCE, self.events.next()).await {
                Ok(event) => event,
                Err(_) => {
                    self.see_to_the_helper().await?;
                    continue;
                }
            };
            self.lost = match event {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => Some(Lost::Stopped),
                Err(ClientError::Broken(_)) => Some(Lost::Died),
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Asks for its cancellation, of the next daemon when this one has just died. What came of it is among the
    /// events.
    pub(crate) async fn cancel(&mut self) -> Result<(), CommandError> {
        match self.client.cancel(self.operation).await {
            // Over already: how, the next event says.
            Ok(_) | Err(ClientError::Api(_)) => return Ok(()),
            Err(ClientError::Protocol(why)) => return Err(ClientError::Protocol(why).into()),
            Err(ClientError::Broken(_) | ClientError::NoDaemon { .. }) => {}
        }
        self.events = self.again(Lost::Died).await?;
        self.lost = None;
        match self.client.cancel(self.operation).await {
            Ok(_) | Err(ClientError::Api(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts the helper when the daemon waits for one and there is none: nobody else may come to do so.
    async fn see_to_the_helper(&self) -> Result<(), CommandError> {
        match self.client.version().await {
            Ok(version) if version.helper.wanted && !version.helper.available => {
                let paths = find_paths(false)?;
                connect(&paths).await
            }
            // How the daemon is, its events say.
            _ => Ok(()),
        }
    }

    async fn again(&self, lost: Lost) -> Result<EventStream, CommandError> {
        let patience = match lost {
            Lost::Died => AFTER_DEATH,
            Lost::Stopped => AFTER_STOP,
        };
        let begun = Instant::now();
        loop {
            let error = match self.try_again(lost).await {
                Ok(events) => return Ok(events),
                Err(error) => error,
            };
            if error.0.code != ErrorCode::DaemonUnavailable {
                return Err(error);
            }
            if begun.elapsed() > patience {
                let what =
                    "the daemon went away in the middle; the operation goes on with the next one";
                return Err(
                    CommandError::because(ErrorCode::DaemonUnavailable, what, &error).hint(
                        "`banger daemon start` starts it, and says why when it cannot be started",
                    ),
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_again(&self, lost: Lost) -> Result<EventStream, CommandError> {
        match self.client.events(self.operation).await {
            Err(error) if error.is_no_daemon() && lost == Lost::Died => {
                connect(&find_paths(false)?).await?;
                Ok(self.client.events(self.operation).await?)
            }
            result => Ok(result?),
        }
    }
}

/// Says nothing: the operation's stages are being shown.
async fn connect(paths: &Paths) -> Result<(), CommandError> {
    let quiet = Ui::new(Output::Json);
    start::connect(paths, start::Needs::Helper, &quiet)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::thread::JoinHandle;

    use banger_api::{Operation, OperationKind, OperationState};

    use super::*;

    /// What a daemon in a row says to one request, and how it goes.
    enum Says {
        /// The whole reply.
        Whole(Vec<OperationEvent>),
        /// The connection breaks in the middle of the reply.
        Part(Vec<OperationEvent>),
        /// It knows of no such operation.
        Nothing,
    }

    fn operation(state: OperationState) -> Operation {
        Operation {
            id: "0123456789ab".into(),
            kind: OperationKind::CreateVm,
            subject: "demo".into(),
            vm_id: None,
            state,
            stages: vec![],
            error: None,
            spec: None,
            warnings: vec![],
        }
    }

    fn snapshot() -> OperationEvent {
        OperationEvent::Snapshot {
            operation: operation(OperationState::Running),
        }
    }

    fn finished() -> OperationEvent {
        OperationEvent::Finished {
            operation: operation(OperationState::Succeeded),
        }
    }

    /// Daemons one after the other on one socket; each takes one request and is gone.
    fn daemons(socket: &Path, all: Vec<Says>) -> JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for says in all {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let (head, body) = match &says {
                    Says::Whole(events) | Says::Part(events) => {
                        let lines: String = events
                            .iter()
                            .map(|event| serde_json::to_string(event).unwrap() + "\n")
                            .collect();
                        ("200 OK", lines)
                    }
                    Says::Nothing => {
                        let error = banger_api::ApiError::new(
                            ErrorCode::OperationNotFound,
                            "no such operation",
                        );
                        ("404 Not Found", serde_json::to_string(&error).unwrap())
                    }
                };
                let missing = usize::from(matches!(says, Says::Part(_)));
                let length = body.len() + missing;
                write!(
                    stream,
                    "HTTP/1.1 {head}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .unwrap();
            }
        })
    }

    async fn follow(all: Vec<Says>) -> Result<Vec<OperationEvent>, CommandError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let daemons = daemons(&socket, all);
        let client = Client::new(&socket);
        let mut followed = Followed::new(&client, "0123456789ab").await?;
        let mut seen = vec![];
        loop {
            let event = followed.next().await?;
            let is_last = matches!(event, OperationEvent::Finished { .. });
            seen.push(event);
            if is_last {
                daemons.join().unwrap();
                return Ok(seen);
            }
        }
    }

    #[tokio::test]
    async fn goes_on_with_the_next_daemon_however_the_last_one_went() {
        for first in [Says::Part(vec![snapshot()]), Says::Whole(vec![snapshot()])] {
            let again = Says::Whole(vec![snapshot(), finished()]);
            let seen = follow(vec![first, again]).await.unwrap();
            assert_eq!(seen, [snapshot(), snapshot(), finished()]);
        }
    }

    #[tokio::test]
    async fn several_deaths_in_a_row_are_survived() {
        let mut all: Vec<Says> = (0..4).map(|_| Says::Part(vec![])).collect();
        all.push(Says::Whole(vec![finished()]));
        assert_eq!(follow(all).await.unwrap(), [finished()]);
    }

    #[tokio::test]
    async fn an_operation_that_the_next_daemon_does_not_know_is_told_at_once() {
        let all = vec![Says::Part(vec![snapshot()]), Says::Nothing];
        let error = follow(all).await.unwrap_err();
        assert_ne!(error.0.code, ErrorCode::DaemonUnavailable, "{error:?}");
    }
}
