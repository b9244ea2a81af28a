//! A guest that was booted by an older banger: its agent knows nothing of sessions, and what is asked of it says so.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use banger_guest::session::{AttachIo, SessionError, attach, call, logs};
use banger_guest_proto::{
    AgentError, AgentErrorCode, AgentMessage, AttachRequest, Hello, LogStart, LogsRequest,
    SessionRequest, encode_control,
};

use crate::agent::{name, sh};

/// An agent of the generation before sessions: to what it does not know it says just that.
fn older() -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut bytes = vec![];
        let hello = Hello {
            generation: 3,
            version: "0.0.9".to_owned(),
        };
        encode_control(&mut bytes, &AgentMessage::Hello(hello));
        let error = AgentError {
            code: AgentErrorCode::Unsupported,
            message: "unknown message".to_owned(),
            hint: None,
        };
        encode_control(&mut bytes, &AgentMessage::Error(error));
        theirs.write_all(&bytes).unwrap();
        let _ = theirs.read_to_end(&mut vec![]);
    });
    ours
}

fn is_told(error: &SessionError) {
    assert!(
        matches!(error, SessionError::Outdated { version } if version == "0.0.9"),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("banger 0.0.9, which cannot do this yet"),
        "{text}"
    );
    // Over another connection it would be no better.
    assert!(!error.is_lost());
}

#[test]
fn whatever_is_asked_about_sessions_the_agents_age_is_told() {
    for request in [
        SessionRequest::List,
        SessionRequest::Start(sh("one", "true")),
        SessionRequest::Show { name: name("one") },
    ] {
        is_told(&call(older(), request).unwrap_err());
    }
    let request = LogsRequest {
        name: name("one"),
        from: LogStart::Oldest,
        stream: None,
        follow: true,
    };
    is_told(&logs(older(), request, &mut None, |_| Ok(())).unwrap_err());
    let request = AttachRequest {
        name: name("one"),
        from: LogStart::Untaken,
        take_over: false,
        tty: None,
    };
    let (_read, to) = std::io::pipe().unwrap();
    let io = AttachIo {
        stdin: None,
        stdout: to.as_fd(),
        stderr: to.as_fd(),
    };
    let mut next = None;
    is_told(&attach(older(), &request, io, &mut next, &mut |_| {}).unwrap_err());
    assert_eq!(next, None);
}
