//! `sftp`: the guest's files by the sftp protocol, on standard input and output. A process of its own, with the user's rights, as
//! OpenSSH's `sftp-server` is: what blocks in it holds up nothing else.

mod attributes;
mod extensions;
mod files;
mod wire;

use std::io;
use std::process::ExitCode;

use rustix::io::Errno;

use files::{Handles, Offset};
use wire::{Answer, Code, Fields, Malformed, ask, tell};

/// The version that is spoken.
const VERSION: u32 = 3;

/// Serves until the client's end.
pub(crate) fn main() -> ExitCode {
    // The client's modes are final.
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            crate::complain(&format!("sftp: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Answers each request in turn.
fn serve(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut handles = Handles::default();
    while let Some(packet) = wire::read_packet(from)? {
        let mut fields = Fields(&packet);
        let malformed = |Malformed| io::Error::from(io::ErrorKind::InvalidData);
        let kind = fields.byte().map_err(malformed)?;
        if kind == ask::INIT {
            extensions::advertise(Answer::bare(tell::VERSION).u32(VERSION)).send(to)?;
            continue;
        }
        let id = fields.u32().map_err(malformed)?;
        answer(kind, id, fields, &mut handles).send(to)?;
    }
    Ok(())
}

/// Why a request has no other answer.
#[derive(Debug)]
enum Refusal {
    /// As the protocol has it.
    Code(Code),
    /// What the system says.
    System(Errno),
}

impl From<Malformed> for Refusal {
    fn from(Malformed: Malformed) -> Self {
        Self::Code(Code::BadMessage)
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

fn answer(kind: u8, id: u32, fields: Fields<'_>, handles: &mut Handles) -> Answer {
    match try_answer(kind, id, fields, handles) {
        Ok(answer) => answer,
        Err(Refusal::Code(code)) => Answer::status(id, code),
        Err(Refusal::System(Errno::NOENT | Errno::NOTDIR)) => Answer::status(id, Code::NoSuchFile),
        Err(Refusal::System(Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            Answer::status(id, Code::PermissionDenied)
        }
        Err(Refusal::System(error)) => {
            let text = io::Error::from(error).to_string();
            Answer::explained(id, Code::Failure, text.as_bytes())
        }
    }
}

fn try_answer(
    kind: u8,
    id: u32,
    mut fields: Fields<'_>,
    handles: &mut Handles,
) -> Result<Answer, Refusal> {
    let done = || Answer::status(id, Code::Ok);
    let attributes = |stat| attributes::write(Answer::new(tell::ATTRS, id), &stat);
    Ok(match kind {
        ask::OPEN => {
            let (path, flags) = (fields.path()?, fields.u32()?);
            let changes = attributes::Changes::read(&mut fields)?;
            let handle = handles.open(path, flags, changes)?;
            Answer::new(tell::HANDLE, id).string(&handle)
        }
        ask::OPENDIR => {
            let handle = handles.open_folder(fields.path()?)?;
            Answer::new(tell::HANDLE, id).string(&handle)
        }
        ask::CLOSE => {
            handles.close(fields.string()?)?;
            done()
        }
        ask::READ => {
            let (handle, offset, length) = (fields.string()?, fields.u64()?, fields.u32()?);
            let data = handles.read(handle, Offset(offset), length)?;
            Answer::new(tell::DATA, id).string(&data)
        }
        ask::WRITE => {
            let (handle, offset) = (fields.string()?, fields.u64()?);
            handles.write(handle, Offset(offset), fields.string()?)?;
            done()
        }
        ask::READDIR => handles.read_folder(fields.string()?, id)?,
        ask::LSTAT => attributes(rustix::fs::lstat(fields.path()?)?),
        ask::STAT => attributes(rustix::fs::stat(fields.path()?)?),
        ask::FSTAT => attributes(rustix::fs::fstat(handles.file(fields.string()?)?)?),
        ask::SETSTAT => {
            let path = fields.path()?;
            files::change(path, attributes::Changes::read(&mut fields)?, true)?;
            done()
        }
        ask::FSETSTAT => {
            let file = handles.file(fields.string()?)?;
            files::change_open(file, attributes::Changes::read(&mut fields)?)?;
            done()
        }
        ask::REMOVE => {
            rustix::fs::unlink(fields.path()?)?;
            done()
        }
        ask::MKDIR => {
            let path = fields.path()?;
            let mode = attributes::Changes::read(&mut fields)?.mode;
            rustix::fs::mkdir(path, files::mode(mode.unwrap_or(0o777)))?;
            done()
        }
        ask::RMDIR => {
            rustix::fs::rmdir(fields.path()?)?;
            done()
        }
        ask::REALPATH => names(id, &files::real_path(fields.path()?)?),
        ask::READLINK => names(id, rustix::fs::readlink(fields.path()?, vec![])?.as_bytes()),
        ask::RENAME => {
            files::rename(fields.path()?, fields.path()?)?;
            done()
        }
        // OpenSSH has the two the other way around than the draft, and everybody follows it.
        ask::SYMLINK => {
            let (target, link) = (fields.path()?, fields.path()?);
            rustix::fs::symlink(target, link)?;
            done()
        }
        ask::EXTENDED => extensions::answer(id, fields, handles)?,
        _ => return Err(Refusal::Code(Code::Unsupported)),
    })
}

/// A single name, without attributes that anybody would look at.
fn names(id: u32, name: &[u8]) -> Answer {
    let answer = Answer::new(tell::NAME, id).u32(1);
    answer.string(name).string(name).u32(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends requests, and gives the answers without their lengths.
    fn conversation(requests: Vec<Answer>) -> Vec<Vec<u8>> {
        let (mut sent, mut said) = (vec![], vec![]);
        for request in requests {
            request.send(&mut sent).unwrap();
        }
        serve(&mut &sent[..], &mut said).unwrap();
        let mut rest = &said[..];
        let mut answers = vec![];
        while let Some(packet) = wire::read_packet(&mut rest).unwrap() {
            answers.push(packet);
        }
        answers
    }

    fn code(answer: &[u8]) -> (u8, u32) {
        let mut fields = Fields(answer);
        let kind = fields.byte().unwrap();
        fields.u32().unwrap();
        (kind, fields.u32().unwrap())
    }

    #[test]
    fn names_are_bytes_and_a_rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().as_os_str().as_encoded_bytes();
        let path = |name: &[u8]| [base, b"/", name].concat();
        let (odd, other) = (path(b"a\xff\n"), path(b"other"));
        std::fs::write(dir.path().join("other"), "kept").unwrap();
        let open = Answer::new(ask::OPEN, 1).string(&odd).u32(0x1a).u32(0);
        let answers = conversation(vec![
            Answer::bare(ask::INIT).u32(3),
            open,
            Answer::new(ask::RENAME, 2).string(&odd).string(&other),
            Answer::new(ask::LSTAT, 3).string(&odd),
            Answer::new(ask::LSTAT, 4).string(&path(b"a\xef\xbf\xbd\n")),
            Answer::new(99, 5),
            Answer::new(ask::OPEN, 6),
            Answer::new(ask::READ, 7).string(b"no handle").u64(0).u32(1),
        ]);
        assert_eq!(answers[0][..5], [tell::VERSION, 0, 0, 0, 3]);
        assert_eq!(answers[1][0], tell::HANDLE);
        assert_eq!(code(&answers[2]), (tell::STATUS, Code::Failure as u32));
        assert_eq!(answers[3][0], tell::ATTRS);
        assert_eq!(code(&answers[4]), (tell::STATUS, Code::NoSuchFile as u32));
        assert_eq!(code(&answers[5]), (tell::STATUS, Code::Unsupported as u32));
        assert_eq!(code(&answers[6]), (tell::STATUS, Code::BadMessage as u32));
        assert_eq!(code(&answers[7]).0, tell::STATUS);
        let kept = std::fs::read(dir.path().join("other")).unwrap();
        assert_eq!(kept, b"kept");
    }

    #[test]
    fn what_is_no_sftp_ends_it() {
        let mut said = vec![];
        assert!(serve(&mut &b"GET / HTTP/1.1\r\n"[..], &mut said).is_err());
        assert!(said.is_empty());
    }

    proptest! {
        #[test]
        fn any_request_has_an_answer(
            kind in any::<u8>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            // What changes files is left out: the paths are random.
            let looks = [ask::READ, ask::LSTAT, ask::STAT, ask::FSTAT, ask::READDIR, ask::REALPATH, ask::READLINK, ask::CLOSE];
            let kind = looks[usize::from(kind) % looks.len()];
            let mut handles = Handles::default();
            prop_assert!(answer(kind, 1, Fields(&bytes), &mut handles).len() > 8);
        }
    }
}
