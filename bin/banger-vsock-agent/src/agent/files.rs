//! Copying files in and out.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use banger_files::{
    Destination, DestinationError, Policy, ReceiveError, Receiver, SendError, Sender, source,
};
use banger_guest_proto::{
    AgentErrorCode, AgentMessage, FilesDone, GetFiles, GetPaths, PutFiles, ReadRecordError, Record,
    RecordReader, RecordWriter, RelPath,
};
use rustix::fs::{Mode, OFlags};

use super::connection::{Connection, error};
use super::linger::linger;

/// The most bytes of paths that a client may ask for at once.
const MAX_WANTED: usize = 256 << 20;

/// Why a transfer ended early.
enum Failed {
    /// The client is to be told.
    Told(AgentErrorCode, String),
    /// The connection is gone.
    Gone(io::Error),
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self::Gone(error.0)
    }
}

/// An error and what caused it, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

impl From<ReceiveError> for Failed {
    fn from(error: ReceiveError) -> Self {
        let code = match error {
            ReceiveError::Full { .. } => AgentErrorCode::DiskFull,
            ReceiveError::OutOfPlace | ReceiveError::NotAskedFor { .. } => {
                AgentErrorCode::BadRequest
            }
        };
        Self::Told(code, chain(&error))
    }
}

impl From<DestinationError> for Failed {
    fn from(error: DestinationError) -> Self {
        let code = match error {
            DestinationError::Missing { .. } => AgentErrorCode::FileNotFound,
            _ => AgentErrorCode::FileFailed,
        };
        Self::Told(code, chain(&error))
    }
}

impl From<ReadRecordError> for Failed {
    fn from(error: ReadRecordError) -> Self {
        match error {
            ReadRecordError::Closed => Self::Gone(io::ErrorKind::UnexpectedEof.into()),
            ReadRecordError::Read(error) => Self::Gone(error),
            error => Self::Told(AgentErrorCode::BadRequest, chain(&error)),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failed {
    let code = match error.kind() {
        io::ErrorKind::NotFound => AgentErrorCode::FileNotFound,
        io::ErrorKind::StorageFull => AgentErrorCode::DiskFull,
        _ => AgentErrorCode::FileFailed,
    };
    Failed::Told(code, format!("{}: {error}", path.display()))
}

/// Says how it went, and waits for the client to hang up.
fn finish(connection: &mut Connection, result: Result<FilesDone, Failed>) -> io::Result<()> {
    let message = match result {
        Ok(done) => AgentMessage::FilesDone(done),
        Err(Failed::Told(code, what)) => error(code, what),
        Err(Failed::Gone(error)) => return Err(error),
    };
    connection.send(&message)?;
    linger(connection);
    Ok(())
}

/// Sends trees.
pub(super) fn get(connection: &mut Connection, request: &GetFiles) -> io::Result<()> {
    let result = get_trees(&connection.stream, request);
    finish(connection, result)
}

fn get_trees(stream: &File, request: &GetFiles) -> Result<FilesDone, Failed> {
    let mut found = vec![];
    // All are looked at before anything is sent: a name that is wrong costs nothing.
    for wanted in &request.sources {
        let path = wanted.absolute();
        let (folder, at, name) = source(&path).map_err(|error| failed(&path, &error))?;
        let name = RelPath::new(name)
            .map_err(|bad| Failed::Told(AgentErrorCode::BadRequest, bad.to_string()))?;
        found.push((folder, at, name));
    }
    let mut sender = Sender::new(RecordWriter::new(stream), true, true);
    for (folder, at, name) in found {
        sender.send(folder.as_fd(), &at, &name)?;
    }
    Ok(sender.end()?.1)
}

/// Sends or lists what stands at given paths.
pub(super) fn get_paths(connection: &mut Connection, request: &GetPaths) -> io::Result<()> {
    let before = connection.decoder.take_rest();
    let result = wanted(&connection.stream, &before).and_then(|paths| {
        let base = request.base.absolute();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&base, flags, Mode::empty());
        let folder = folder.map_err(|error| failed(&base, &error.into()))?;
        let out = RecordWriter::new(&connection.stream);
        let mut sender = Sender::new(out, request.content, request.recursive);
        sender.skip_at_top = Some(b".git");
        if paths.is_empty() && request.recursive {
            sender.send_all(folder.as_fd())?;
        }
        for path in &paths {
            sender.send(folder.as_fd(), path.as_path(), path)?;
        }
        Ok(sender.end()?.1)
    });
    finish(connection, result)
}

fn wanted(stream: &File, before: &[u8]) -> Result<Vec<RelPath>, Failed> {
    let mut records = RecordReader::new(stream, before);
    let mut paths = vec![];
    let mut bytes = 0;
    loop {
        match records.next_record()? {
            Record::Want(path) => {
                bytes += path.as_bytes().len() + size_of::<RelPath>();
                paths.push(path);
            }
            Record::End => return Ok(paths),
            _ => bytes = usize::MAX,
        }
        if bytes > MAX_WANTED {
            let what = "these are no paths, or too many".to_owned();
            return Err(Failed::Told(AgentErrorCode::BadRequest, what));
        }
    }
}

/// Takes a tree.
pub(super) fn put(connection: &mut Connection, request: &PutFiles) -> io::Result<()> {
    let before = connection.decoder.take_rest();
    let result = take(&connection.stream, &before, request);
    finish(connection, result)
}

fn take(stream: &File, before: &[u8], request: &PutFiles) -> Result<FilesDone, Failed> {
    let target = request.target.absolute();
    let destination = if request.exact {
        std::fs::create_dir_all(&target).map_err(|error| failed(&target, &error))?;
        Destination::find(&target, true, false)?
    } else {
        Destination::find(&target, request.into, request.file)?
    };
    let policy = Policy {
        exact: request.exact,
        // A stream is as long as it is.
        unseen: request.file,
        special_bits: true,
        first_names: None,
    };
    let mut records = RecordReader::new(stream, before);
    let mut receiver = Receiver::new(destination.base, policy);
    let mut top: Option<Vec<u8>> = None;
    loop {
        let mut record = records.next_record()?;
        if let (Record::Entry(entry), Some(name)) = (&mut record, &destination.name) {
            // One tree may be given another name; a second one has no place.
            let first = top.get_or_insert_with(|| entry.path.first().to_vec());
            if entry.path.first() != first.as_slice() {
                let what = format!("`{}` is no folder", target.display());
                return Err(Failed::Told(AgentErrorCode::FileFailed, what));
            }
            let rename = |path: &RelPath| {
                let renamed = path.with_first(name);
                renamed.map_err(|bad| Failed::Told(AgentErrorCode::BadRequest, bad.to_string()))
            };
            entry.path = rename(&entry.path)?;
            if let banger_guest_proto::EntryKind::HardLink(first) = &mut entry.kind {
                *first = rename(first)?;
            }
        }
        match record {
            Record::End => break,
            record => receiver.take(record)?,
        }
    }
    Ok(receiver.finish()?)
}
