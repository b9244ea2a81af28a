//! One client that reads a session's log, or is attached to the session: then it also has its input.
//! One poll loop, as for an exec; what the client has not taken yet is the log's to keep.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use banger_guest_proto::{
    AgentErrorCode, AgentMessage, AttachRequest, ClientMessage, Frame, LogsRequest, MAX_DATA,
    Outbox, ReceiveWindow, SendWindow, SessionReply, Stream, encode_control, encode_frame,
    encode_record,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;

use super::entry::{Entry, Shared, Wake};
use super::log::{Cursor, Found};
use super::{Refusal, refuse};
use crate::agent::connection::Connection;
use crate::agent::linger::LINGER;

/// End of input on a terminal (termios(3), VEOF).
const CONTROL_D: u8 = 4;

/// A client.
pub(super) struct View<'a> {
    connection: &'a mut Connection,
    entry: &'a Entry,
    wake: Arc<Wake>,
    cursor: Cursor,
    only: Option<Stream>,
    follow: bool,
    window: SendWindow,
    outbox: Outbox,
    /// The last message is among what is to be sent.
    last: bool,
    attached: Option<Attached>,
}

/// What only the one who is attached has.
struct Attached {
    number: u64,
    /// Which of its program's runs the input goes to.
    runs: u32,
    input: VecDeque<u8>,
    window: ReceiveWindow,
    ended: bool,
    /// What was sent and not taken yet: positions and lengths.
    under_way: VecDeque<(u64, usize)>,
}

impl<'a> View<'a> {
    fn new(connection: &'a mut Connection, entry: &'a Entry) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        entry.lock().add_reader(&wake);
        Ok(Self {
            connection,
            entry,
            wake,
            cursor: Cursor::new(0),
            only: None,
            follow: true,
            window: SendWindow::default(),
            outbox: Outbox::default(),
            last: false,
            attached: None,
        })
    }

    /// A reader of the log.
    pub(super) fn logs(
        connection: &'a mut Connection,
        entry: &'a Entry,
        request: &LogsRequest,
    ) -> io::Result<Self> {
        let mut view = Self::new(connection, entry)?;
        (view.only, view.follow) = (request.stream, request.follow);
        let shared = entry.lock();
        let from = shared.log.resolve(request.from, shared.record.taken);
        view.cursor = Cursor::new(from);
        drop(shared);
        view.say(SessionReply::Log { from });
        Ok(view)
    }

    /// Whoever is attached, unless another is, or the session has no input.
    pub(super) fn attach(
        connection: &'a mut Connection,
        entry: &'a Entry,
        request: &AttachRequest,
    ) -> io::Result<Result<Self, Refusal>> {
        let mut view = Self::new(connection, entry)?;
        let mut shared = entry.lock();
        let name = &request.name;
        if !shared.accepts_input() {
            let what = format!("the session `{name}` was started detached: it has no input");
            let hint = "`banger vm session logs --follow` shows its output; to attach, start it with --stdin-mode pipe or pty";
            let refusal = refuse(AgentErrorCode::BadRequest, what, Some(hint));
            return Ok(Err(refusal));
        }
        let from = shared.log.resolve(request.from, shared.record.taken);
        let Some(number) = shared.attach(&view.wake, request.take_over, from) else {
            let what = format!("somebody is attached to the session `{name}`");
            let hint = "--take-over detaches them";
            return Ok(Err(refuse(AgentErrorCode::Busy, what, Some(hint))));
        };
        view.cursor = Cursor::new(from);
        view.attached = Some(Attached {
            number,
            runs: shared.record.runs,
            input: VecDeque::new(),
            window: ReceiveWindow::default(),
            ended: false,
            under_way: VecDeque::new(),
        });
        let (info, input_taken) = (shared.info(), shared.input_taken);
        if let Some(size) = request.tty {
            resize(&shared, size);
        }
        drop(shared);
        // Somebody who stalled may be detached now.
        entry.keeper.wake();
        view.say(SessionReply::Attached {
            info,
            from,
            input_taken,
        });
        Ok(Ok(view))
    }

    fn say(&mut self, reply: SessionReply) {
        encode_control(self.outbox.frames(), &AgentMessage::Session(reply));
    }

    /// Until all was sent, or the client is gone.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.connection.stream, true)?;
        self.take_frames()?;
        loop {
            self.fill()?;
            self.connection.send_some(&mut self.outbox)?;
            if self.last && self.outbox.backlog() == 0 {
                self.linger();
                return Ok(());
            }
            let ready = self.wait()?;
            if ready.connection {
                self.receive()?;
            }
            if ready.input {
                self.feed();
            }
        }
    }

    /// Hears the client out until it hangs up: what it has taken is still to come, and closing a vsock
    /// stream with unread data resets it, which can overtake the last message.
    fn linger(&mut self) {
        let deadline = Instant::now() + LINGER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.connection.stream, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(0) => return,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if self.receive().is_err() {
                return;
            }
        }
    }

    /// Gets what is to be sent next from the log.
    fn fill(&mut self) -> io::Result<()> {
        while !self.last && self.outbox.has_room() {
            let shared = self.entry.lock();
            if let Some(attached) = &mut self.attached {
                if !shared.is_attached(attached.number) {
                    drop(shared);
                    self.last = true;
                    self.say(SessionReply::TakenOver);
                    return Ok(());
                }
                let runs = shared.record.runs;
                if runs != attached.runs {
                    attached.runs = runs;
                    attached.ended = false;
                    drop(shared);
                    self.say(SessionReply::Restarted { runs });
                    continue;
                }
            }
            let most = self.window.left().min(MAX_DATA);
            let next = self.cursor.position();
            if next >= shared.log.extent(0).end {
                if self.follow && shared.record.state.is_live() {
                    return Ok(());
                }
                let info = shared.info();
                drop(shared);
                self.last = true;
                self.say(match self.attached {
                    Some(_) => SessionReply::Ended(info),
                    None => SessionReply::LogEnd { next },
                });
                return Ok(());
            }
            let found = self.cursor.next(&shared.log, most)?;
            drop(shared);
            match found {
                Found::Record(stream, at, bytes) if self.only.is_none_or(|only| only == stream) => {
                    self.window.sent(bytes.len());
                    encode_record(self.outbox.frames(), stream, at, &bytes);
                    if let Some(attached) = &mut self.attached {
                        attached.under_way.push_back((at, bytes.len()));
                    }
                }
                Found::Record(..) => {}
                Found::Gap { from, to } => self.say(SessionReply::Gap { from, to }),
                // The client has to take some first.
                Found::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut on_connection = PollFlags::IN;
        if self.outbox.backlog() > 0 {
            on_connection |= PollFlags::OUT;
        }
        let mut fds = vec![
            PollFd::new(&self.connection.stream, on_connection),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        let hungry = self.attached.as_ref().is_some_and(|a| !a.input.is_empty());
        let input = hungry.then(|| self.input()).flatten();
        if let Some(input) = &input {
            fds.push(PollFd::new(&**input, PollFlags::OUT));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let come = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let in_or_end = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let ready = Ready {
            connection: fds[0].revents().intersects(in_or_end),
            // The program may be another one now.
            input: come(2) || (come(1) && hungry),
        };
        self.wake.clear();
        Ok(ready)
    }

    /// The input of the program that runs.
    fn input(&self) -> Option<Arc<OwnedFd>> {
        self.entry.lock().program.as_ref()?.stdin.clone()
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        if self.connection.receive(&mut buffer)? {
            self.take_frames()?;
        }
        Ok(())
    }

    fn take_frames(&mut self) -> io::Result<()> {
        while let Some(frame) = self.connection.decoded()? {
            match frame {
                Frame::Credit(Stream::Stdout, count) => self.taken(count),
                Frame::Data(Stream::Stdin, bytes) => self.take_input(&bytes)?,
                Frame::Control(json) => {
                    // Else from a newer client; it knows our generation, so it is nothing we need.
                    if let Ok(message) = Frame::parse(&json) {
                        self.take_message(message);
                    }
                }
                Frame::Credit(..) | Frame::Data(..) | Frame::Record(..) => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    /// The client has taken so many bytes.
    fn taken(&mut self, count: u32) {
        self.window.granted(count);
        let Some(attached) = &mut self.attached else {
            return;
        };
        let mut count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut position = None;
        while let Some((at, length)) = attached.under_way.front_mut() {
            let part = count.min(*length);
            (*at, *length) = (*at + part as u64, *length - part);
            (count, position) = (count - part, Some(*at));
            if *length > 0 {
                break;
            }
            attached.under_way.pop_front();
        }
        if let Some(position) = position {
            let mut shared = self.entry.lock();
            // A keeper that had room waits for nothing of this.
            let stalled = !shared.has_room();
            shared.took(attached.number, position);
            drop(shared);
            if stalled {
                self.entry.keeper.wake();
            }
        }
    }

    fn take_input(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(attached) = &mut self.attached else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let received = attached.window.received(bytes.len());
        received.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        attached.input.extend(bytes);
        self.feed();
        Ok(())
    }

    fn take_message(&mut self, message: ClientMessage) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        let shared = self.entry.lock();
        match message {
            ClientMessage::StdinEof => {
                let on_terminal = shared
                    .program
                    .as_ref()
                    .is_some_and(|p| p.terminal.is_some());
                if on_terminal {
                    attached.input.push_back(CONTROL_D);
                } else {
                    attached.ended = true;
                }
                drop(shared);
                self.feed();
            }
            ClientMessage::Resize(size) => resize(&shared, size),
            ClientMessage::Signal { number } => {
                if let (Some(program), Some(signal)) =
                    (&shared.program, Signal::from_named_raw(number))
                {
                    let terminal = program.terminal.as_ref();
                    let _ = banger_login::signal_foreground(program.pid, terminal, signal);
                }
            }
            _ => {}
        }
    }

    /// Passes input on to the program, as much as it takes now. Between two programs it waits for the
    /// next one.
    fn feed(&mut self) {
        let program = self.entry.lock().program.as_ref().map(|p| p.stdin.clone());
        let Some(attached) = &mut self.attached else {
            return;
        };
        let mut done = 0;
        match program {
            None => return,
            // The program has closed it, or somebody has.
            Some(None) => done = attached.input.len(),
            Some(Some(stdin)) => loop {
                let rest = attached.input.make_contiguous();
                let rest = rest.get(done..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
                match rustix::io::write(&*stdin, rest) {
                    Ok(count) => done += count,
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR) => {}
                    // It has closed its input; that is its right, and no error.
                    Err(_) => {
                        done = attached.input.len();
                        if let Some(program) = &mut self.entry.lock().program {
                            program.stdin = None;
                        }
                    }
                }
            },
        }
        attached.input.drain(..done);
        if let Some(count) = attached.window.consumed(done) {
            encode_frame(self.outbox.frames(), &Frame::Credit(Stream::Stdin, count));
        }
        let mut shared = self.entry.lock();
        shared.input_taken += done as u64;
        if attached.ended
            && attached.input.is_empty()
            && let Some(program) = &mut shared.program
        {
            program.stdin = None;
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(attached) = &self.attached {
            self.entry
                .lock()
                .detach(attached.number, &self.entry.folder);
            self.entry.keeper.wake();
        }
    }
}

/// Tells the terminal its size, and the program to draw anew in any case: who looks at it is new.
fn resize(shared: &Shared, size: banger_guest_proto::TtySize) {
    if let Some(program) = &shared.program
        && let Some(master) = &program.terminal
    {
        let _ = banger_login::resize(master, size);
        let _ = banger_login::signal_foreground(program.pid, Some(master), Signal::WINCH);
    }
}

struct Ready {
    connection: bool,
    input: bool,
}
