//! A registry that does what a test says, however wrong.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request's path and headers (names in lower case).
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Only so much of the body is sent; then it is over, or nothing more comes.
    pub(crate) cut: Option<(usize, After)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Close,
    Stall,
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self {
            status: 200,
            headers: vec![("content-length".to_owned(), body.len().to_string())],
            body: body.to_vec(),
            cut: None,
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::ok(b"")
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn cut(mut self, at: usize, after: After) -> Self {
        self.cut = Some((at, after));
        self
    }

    /// The part of the body that a range asks for.
    pub(crate) fn ranged(self, request: &Request) -> Self {
        let Some(range) = request.headers.get("range") else {
            return self;
        };
        let start: usize = range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap();
        let length = self.body.len();
        let mut answer = Self::ok(&self.body[start..]);
        answer.status = 206;
        answer.header(
            "content-range",
            &format!("bytes {start}-{}/{length}", length - 1),
        )
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server; it ends when dropped.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) seen: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let handler: Arc<Handler> = Arc::new(handler);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (log, end) = (Arc::clone(&seen), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    break;
                }
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*handler, &log));
            }
        });
        Self { host, seen, ended }
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|request| request.path.contains(part))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(&self.host);
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
        // A TLS greeting: this server is plain.
        if head[0] == 0x16 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let request = Request {
        path,
        headers: headers.collect(),
    };
    log.lock().unwrap().push(request.clone());
    let answer = handler(&request);
    let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let (end, after) = answer.cut.unwrap_or((answer.body.len(), After::Close));
    let sent = stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.write_all(&answer.body[..end]));
    if sent.is_ok() && after == After::Stall {
        // Until the client has had enough.
        let _ = stream.read(&mut byte);
    }
}
