//! Copying files over an open connection to an agent: blocking, one thread.
//!
//! What a guest sends is not trusted: see `banger_files`.

mod error;
mod wire;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use banger_files::{Receiver, Sender};
use banger_guest_proto::{
    AgentMessage, ClientMessage, Entry, EntryKind, FilesDone, Frame, GetFiles, GetPaths, Hello,
    PutFiles, Record, RecordReader, RecordWriter, RelPath, encode_control,
};

pub use error::TransferError;
pub use wire::Wire;

/// A connection on which a transfer was asked for.
#[derive(Debug)]
struct Transfer<'a> {
    records: RecordReader<Wire<'a>>,
    out: RecordWriter<Wire<'a>>,
}

/// What is told of bytes as they pass.
pub type Progress<'a> = &'a (dyn Fn(u64) + 'a);

impl<'a> Transfer<'a> {
    /// Says hello and asks, and sees that the agent can do it.
    fn begin(
        stream: &'a UnixStream,
        message: &ClientMessage,
        progress: Progress<'a>,
    ) -> Result<Self, TransferError> {
        let mut hello = vec![];
        encode_control(&mut hello, &ClientMessage::Hello(Hello::ours()));
        let mut greeted = stream;
        greeted
            .write_all(&hello)
            .map_err(TransferError::Connection)?;
        let mut records = RecordReader::new(Wire::new(stream, progress), &[]);
        match records.next_record()? {
            Record::Control(json) => match Frame::parse(json).map_err(TransferError::Protocol)? {
                AgentMessage::Hello(hello)
                    if hello.generation < banger_guest_proto::FILES_GENERATION =>
                {
                    return Err(TransferError::OldAgent {
                        version: banger_guest_proto::shown(hello.version.as_bytes()),
                    });
                }
                AgentMessage::Hello(_) => {}
                AgentMessage::Error(error) => return Err(TransferError::Refused(error)),
                _ => return Err(TransferError::Unexpected),
            },
            _ => return Err(TransferError::Unexpected),
        }
        let mut request = vec![];
        encode_control(&mut request, message);
        greeted
            .write_all(&request)
            .map_err(TransferError::Connection)?;
        let out = RecordWriter::new(Wire::new(stream, progress));
        Ok(Self { records, out })
    }

    /// Reads the last message.
    fn last(records: &mut RecordReader<Wire<'a>>) -> Result<FilesDone, TransferError> {
        match records.next_record()? {
            Record::Control(json) => done(json),
            _ => Err(TransferError::Unexpected),
        }
    }
}

fn done(json: &[u8]) -> Result<FilesDone, TransferError> {
    match Frame::parse(json).map_err(TransferError::Protocol)? {
        AgentMessage::FilesDone(done) => Ok(done),
        AgentMessage::Error(error) => Err(TransferError::Refused(error)),
        _ => Err(TransferError::Unexpected),
    }
}

/// Sends files: `send` is given what sends them. The answer is what was left out here, and how it went
/// there.
///
/// # Errors
/// [`TransferError`] when it did not come to its end.
pub fn put(
    stream: &UnixStream,
    request: PutFiles,
    progress: Progress<'_>,
    send: impl FnOnce(&mut Sender<Wire<'_>>) -> Result<(), TransferError>,
) -> Result<(FilesDone, FilesDone), TransferError> {
    let begun = Transfer::begin(stream, &ClientMessage::PutFiles(request), progress)?;
    let Transfer { mut records, out } = begun;
    let mut sender = Sender::new(out, true, true);
    let sent = send(&mut sender).and_then(|()| Ok(sender.end()?));
    match sent {
        Ok((_, left_out)) => Ok((left_out, Transfer::last(&mut records)?)),
        // The agent has said why it takes no more.
        Err(error) if error.is_connection() => match Transfer::last(&mut records) {
            Err(TransferError::Refused(refusal)) => Err(TransferError::Refused(refusal)),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Fetches trees into a receiver. The answer is what was left out there, and how it went here.
///
/// # Errors
/// [`TransferError`] when it did not come to its end.
pub fn get(
    stream: &UnixStream,
    request: GetFiles,
    progress: Progress<'_>,
    mut receiver: Receiver,
) -> Result<(FilesDone, FilesDone), TransferError> {
    let mut transfer = Transfer::begin(stream, &ClientMessage::GetFiles(request), progress)?;
    let there = drain(&mut transfer.records, |record| Ok(receiver.take(record)?))?;
    Ok((there, receiver.finish()?))
}

/// Fetches one file as a stream.
///
/// # Errors
/// [`TransferError`] when it did not come to its end, or is no file.
pub fn get_stream(
    stream: &UnixStream,
    request: GetFiles,
    progress: Progress<'_>,
    mut to: impl Write,
) -> Result<FilesDone, TransferError> {
    let mut transfer = Transfer::begin(stream, &ClientMessage::GetFiles(request), progress)?;
    let mut begun = false;
    let done = drain(&mut transfer.records, |record| {
        match record {
            Record::Entry(Entry {
                kind: EntryKind::File { .. },
                ..
            }) if !begun => begun = true,
            Record::Entry(_) => return Err(TransferError::NotAFile),
            Record::Data(bytes) if begun => to.write_all(bytes).map_err(TransferError::Local)?,
            Record::Hole(bytes) if begun => {
                io::copy(&mut io::repeat(0).take(bytes), &mut to).map_err(TransferError::Local)?;
            }
            _ => return Err(TransferError::Unexpected),
        }
        Ok(())
    })?;
    to.flush().map_err(TransferError::Local)?;
    Ok(done)
}

/// Fetches trees and passes each record on as it comes, unchecked but for its form.
///
/// # Errors
/// [`TransferError`] when it did not come to its end, or `each` fails.
pub fn get_records(
    stream: &UnixStream,
    request: GetFiles,
    progress: Progress<'_>,
    each: impl FnMut(Record<'_>) -> Result<(), TransferError>,
) -> Result<FilesDone, TransferError> {
    let mut transfer = Transfer::begin(stream, &ClientMessage::GetFiles(request), progress)?;
    drain(&mut transfer.records, each)
}

/// Asks for what stands at given paths, and passes each record on.
///
/// # Errors
/// [`TransferError`] when it did not come to its end, or `each` fails.
pub fn get_paths<'p>(
    stream: &UnixStream,
    request: GetPaths,
    paths: impl IntoIterator<Item = &'p RelPath>,
    progress: Progress<'_>,
    each: impl FnMut(Record<'_>) -> Result<(), TransferError>,
) -> Result<FilesDone, TransferError> {
    let mut transfer = Transfer::begin(stream, &ClientMessage::GetPaths(request), progress)?;
    for path in paths {
        transfer.out.want(path).map_err(TransferError::Connection)?;
    }
    transfer.out.end().map_err(TransferError::Connection)?;
    drain(&mut transfer.records, each)
}

fn drain(
    records: &mut RecordReader<Wire<'_>>,
    mut each: impl FnMut(Record<'_>) -> Result<(), TransferError>,
) -> Result<FilesDone, TransferError> {
    loop {
        match records.next_record()? {
            Record::End => return Transfer::last(records),
            // Before the end: the guest cannot go on.
            Record::Control(json) => {
                done(json)?;
                return Err(TransferError::Unexpected);
            }
            record => each(record)?,
        }
    }
}
