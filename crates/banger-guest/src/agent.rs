//! Asking the agent.

use std::io;

use banger_guest_proto::{
    AgentError, AgentMessage, ClientMessage, Environment, Figures, Frame, FrameError, Hello,
    Listeners, MAX_FRAME, MAX_LISTENERS, MAX_OWNER_NAME, Readiness, ShutdownVerb, Status,
    encode_control,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::{DialError, GuestAddress};

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentCallError {
    /// The agent was not reached.
    #[error("failed to reach the agent")]
    Dial(#[source] DialError),
    /// The connection failed or ended.
    #[error("the connection to the agent was lost")]
    Connection(#[source] io::Error),
    /// What came is not of the protocol.
    #[error("the agent does not speak banger's protocol")]
    Protocol(#[source] FrameError),
    /// The agent answered another question.
    #[error("the agent gave an answer that does not fit the question")]
    Unexpected,
    /// The agent is older than the question.
    #[error(
        "the agent in this guest is of banger {version} and cannot answer that; it is renewed when the \
         VM is stopped and started"
    )]
    Older {
        /// The agent's version.
        version: String,
    },
    /// The agent refused.
    #[error("the agent refused")]
    Refused(#[source] AgentError),
    /// The deadline passed.
    #[error("the agent did not answer in time")]
    Deadline,
}

/// A connection to an agent, for questions.
#[derive(Debug)]
pub struct AgentClient {
    stream: UnixStream,
    hello: Option<Hello>,
}

/// A text from a guest, short and with nothing that a terminal would obey.
fn printable(text: &str) -> String {
    let shown = text.chars().take(MAX_OWNER_NAME);
    shown
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// What a guest says of its ports, within the protocol's bounds whatever it sent.
fn bounded(mut listeners: Listeners) -> Listeners {
    listeners.cut |= listeners.listeners.len() > MAX_LISTENERS;
    listeners.listeners.truncate(MAX_LISTENERS);
    for listener in &mut listeners.listeners {
        listener.user = listener.user.as_deref().map(printable);
        listener.process = listener.process.as_deref().map(printable);
    }
    listeners
}

impl AgentClient {
    /// Connects, trying until the agent listens or the deadline passes, and says hello.
    ///
    /// # Errors
    /// [`AgentCallError`] when it was not reached or does not speak the protocol.
    pub async fn connect(
        address: &GuestAddress,
        deadline: Instant,
    ) -> Result<Self, AgentCallError> {
        loop {
            let dialled = address.dial_until(deadline).await;
            let mut client = Self::over(dialled.map_err(AgentCallError::Dial)?);
            let hello = tokio::time::timeout_at(deadline, client.hello()).await;
            match hello {
                Ok(Ok(_)) => return Ok(client),
                // A VMM that goes away, or a guest that restarts, between the two.
                Ok(Err(AgentCallError::Connection(_))) if Instant::now() < deadline => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(AgentCallError::Deadline),
            }
        }
    }

    /// Over a dialled stream on which nothing was spoken yet. Writes nothing.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            hello: None,
        }
    }

    /// The agent's hello. Speaks ours when this is the first call on the connection.
    ///
    /// # Errors
    /// [`AgentCallError`] when the connection fails.
    pub async fn hello(&mut self) -> Result<Hello, AgentCallError> {
        if let Some(hello) = &self.hello {
            return Ok(hello.clone());
        }
        self.send(&[ClientMessage::Hello(Hello::ours())]).await?;
        match self.receive().await? {
            AgentMessage::Hello(hello) => {
                self.hello = Some(hello.clone());
                Ok(hello)
            }
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// [`AgentCallError`] when none comes.
    pub async fn ping(&mut self) -> Result<(), AgentCallError> {
        match self.call(ClientMessage::Ping).await? {
            AgentMessage::Pong => Ok(()),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// How the guest is.
    ///
    /// # Errors
    /// [`AgentCallError`] when the connection fails.
    pub async fn status(&mut self) -> Result<Status, AgentCallError> {
        match self.call(ClientMessage::Status).await? {
            AgentMessage::Status(status) => Ok(status),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// Resolves when the guest is that far. Sets no deadline of its own.
    ///
    /// # Errors
    /// [`AgentCallError`] when the connection fails, as it does when the guest ends.
    pub async fn wait(&mut self, readiness: Readiness) -> Result<Status, AgentCallError> {
        match self.call(ClientMessage::Wait { readiness }).await? {
            AgentMessage::Status(status) => Ok(status),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// Who listens in the guest. What it says is the guest's word, within the protocol's bounds.
    ///
    /// # Errors
    /// [`AgentCallError`] when the connection fails or the agent is too old.
    pub async fn listeners(&mut self) -> Result<Listeners, AgentCallError> {
        match self.call(ClientMessage::Listeners).await? {
            AgentMessage::Listeners(listeners) => Ok(bounded(listeners)),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// What the guest uses.
    ///
    /// # Errors
    /// [`AgentCallError`] when the connection fails or the agent is too old.
    pub async fn figures(&mut self) -> Result<Figures, AgentCallError> {
        match self.call(ClientMessage::Figures).await? {
            AgentMessage::Figures(figures) => Ok(figures),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// Gives the VM its environment; returns when it is kept.
    ///
    /// # Errors
    /// [`AgentCallError`] when the agent cannot keep it or is too old, or the connection fails.
    pub async fn set_environment(&mut self, to: &Environment) -> Result<(), AgentCallError> {
        let variables = to.variables().to_vec();
        match self
            .call(ClientMessage::SetEnvironment { variables })
            .await?
        {
            AgentMessage::EnvironmentSet => Ok(()),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    /// Asks for a clean end; returns when it has begun.
    ///
    /// # Errors
    /// [`AgentCallError`] when the agent refuses or the connection fails.
    pub async fn shutdown(&mut self, verb: ShutdownVerb) -> Result<(), AgentCallError> {
        match self.call(ClientMessage::Shutdown { verb }).await? {
            AgentMessage::ShuttingDown => Ok(()),
            _ => Err(AgentCallError::Unexpected),
        }
    }

    async fn call(&mut self, message: ClientMessage) -> Result<AgentMessage, AgentCallError> {
        // What not every agent knows is only sent to one that does: that costs a round trip.
        let wanted = message.generation();
        if wanted > 1 {
            let hello = self.hello().await?;
            if hello.common_generation() < wanted {
                return Err(AgentCallError::Older {
                    version: printable(&hello.version),
                });
            }
        }
        if self.hello.is_some() {
            self.send(&[message]).await?;
        } else {
            // One write for both: no round trip for the hello.
            self.send(&[ClientMessage::Hello(Hello::ours()), message])
                .await?;
            match self.receive().await? {
                AgentMessage::Hello(hello) => self.hello = Some(hello),
                _ => return Err(AgentCallError::Unexpected),
            }
        }
        match self.receive().await? {
            AgentMessage::Error(error) => Err(AgentCallError::Refused(error)),
            answer => Ok(answer),
        }
    }

    async fn send(&mut self, messages: &[ClientMessage]) -> Result<(), AgentCallError> {
        let mut bytes = vec![];
        for message in messages {
            encode_control(&mut bytes, message);
        }
        let written = self.stream.write_all(&bytes).await;
        written.map_err(AgentCallError::Connection)
    }

    async fn receive(&mut self) -> Result<AgentMessage, AgentCallError> {
        let mut head = [0; 4];
        let read = self.stream.read_exact(&mut head).await;
        read.map_err(AgentCallError::Connection)?;
        let length = u32::from_le_bytes(head);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=MAX_FRAME).contains(&size) {
            return Err(AgentCallError::Protocol(FrameError::Length { length }));
        }
        let mut frame = head.to_vec();
        frame.resize(4 + size, 0);
        let read = self.stream.read_exact(&mut frame[4..]).await;
        read.map_err(AgentCallError::Connection)?;
        match banger_guest_proto::read_frame(&mut frame.as_slice()) {
            Ok(Frame::Control(json)) => Frame::parse(&json).map_err(AgentCallError::Protocol),
            Ok(_) => Err(AgentCallError::Unexpected),
            Err(banger_guest_proto::ReadFrameError::Frame(error)) => {
                Err(AgentCallError::Protocol(error))
            }
            Err(_) => Err(AgentCallError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that says these messages, whatever it is asked.
    fn agent(messages: Vec<AgentMessage>) -> AgentClient {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        tokio::spawn(async move {
            let mut bytes = vec![];
            for message in &messages {
                encode_control(&mut bytes, message);
            }
            let _ = theirs.write_all(&bytes).await;
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        });
        AgentClient::over(ours)
    }

    fn hello(generation: u32) -> AgentMessage {
        AgentMessage::Hello(Hello {
            generation,
            version: "0.0.9\u{1b}[2J".to_owned(),
        })
    }

    #[tokio::test]
    async fn an_older_agent_is_not_asked_what_it_cannot_know() {
        let error = agent(vec![hello(1)]).listeners().await.unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, AgentCallError::Older { .. }), "{error:?}");
        assert!(told.contains("banger 0.0.9?[2J"), "{told:?}");
        let error = agent(vec![hello(1)]).figures().await.unwrap_err();
        assert!(matches!(error, AgentCallError::Older { .. }));
        let pong = agent(vec![hello(1), AgentMessage::Pong]).ping().await;
        assert!(pong.is_ok(), "what it does know, it is asked");
    }

    #[tokio::test]
    async fn what_a_guest_says_is_cut_and_cleaned() {
        let listener = banger_guest_proto::Listener {
            transport: banger_guest_proto::Transport::Tcp,
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 1,
            uid: 0,
            user: Some("\u{1b}]0;x\u{7}".to_owned()),
            pid: Some(1),
            process: Some("y".repeat(500)),
        };
        let many = Listeners {
            listeners: vec![listener; 2 * MAX_LISTENERS + 1],
            cut: false,
        };
        let mut client = agent(vec![
            hello(2),
            AgentMessage::Listeners(bounded(many.clone())),
        ]);
        assert_eq!(
            client.listeners().await.unwrap().listeners.len(),
            MAX_LISTENERS
        );
        let found = bounded(many);
        assert!(found.cut);
        assert_eq!(found.listeners[0].user.as_deref(), Some("?]0;x?"));
        let name = found.listeners[0].process.as_deref();
        assert_eq!(name.map(str::len), Some(MAX_OWNER_NAME));
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_an_error() {
        let error = agent(vec![hello(2), AgentMessage::Pong]).listeners().await;
        assert!(matches!(error, Err(AgentCallError::Unexpected)));
    }
}
