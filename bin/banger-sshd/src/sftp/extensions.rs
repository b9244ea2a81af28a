//! What OpenSSH's clients ask for beyond the protocol's draft (OpenSSH's PROTOCOL, section 4).

use rustix::fs::StatVfs;
use rustix::io::Errno;

use super::attributes::Changes;
use super::files::{self, Handles};
use super::wire::{Answer, Code, Fields, MAX_DATA, MAX_PACKET, tell};
use super::{Refusal, names};

const KNOWN: [(&[u8], &[u8]); 8] = [
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
];

/// Adds what is known here to the first answer.
pub(super) fn advertise(answer: Answer) -> Answer {
    KNOWN.iter().fold(answer, |answer, (name, version)| {
        answer.string(name).string(version)
    })
}

/// Does one of them.
pub(super) fn answer(
    id: u32,
    mut fields: Fields<'_>,
    handles: &mut Handles,
) -> Result<Answer, Refusal> {
    match fields.string()? {
        b"posix-rename@openssh.com" => rustix::fs::rename(fields.path()?, fields.path()?)?,
        b"statvfs@openssh.com" => return Ok(space(id, &rustix::fs::statvfs(fields.path()?)?)),
        b"fstatvfs@openssh.com" => {
            let file = handles.file(fields.string()?)?;
            return Ok(space(id, &rustix::fs::fstatvfs(file)?));
        }
        b"hardlink@openssh.com" => rustix::fs::link(fields.path()?, fields.path()?)?,
        b"fsync@openssh.com" => rustix::fs::fsync(handles.file(fields.string()?)?)?,
        b"lsetstat@openssh.com" => {
            let path = fields.path()?;
            files::change(path, Changes::read(&mut fields)?, false)?;
        }
        b"limits@openssh.com" => {
            let (packet, data) = (MAX_PACKET.into(), MAX_DATA.into());
            let answer = Answer::new(tell::EXTENDED_REPLY, id);
            return Ok(answer.u64(packet).u64(data).u64(data).u64(0));
        }
        b"expand-path@openssh.com" => {
            return Ok(names(id, &files::real_path(&expand(fields.path()?)?)?));
        }
        _ => return Err(Refusal::Code(Code::Unsupported)),
    }
    Ok(Answer::status(id, Code::Ok))
}

/// A path with its `~` replaced: the user's own home, or another's.
fn expand(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    let Some(rest) = path.strip_prefix(b"~") else {
        return Ok(path.to_vec());
    };
    let end = rest.iter().position(|byte| *byte == b'/');
    let (name, below) = rest.split_at(end.unwrap_or(rest.len()));
    let home = match name {
        b"" => std::env::var_os("HOME").map(|home| home.as_encoded_bytes().to_vec()),
        name => {
            let name = std::str::from_utf8(name).ok();
            let user = name.and_then(|name| banger_login::User::find(Some(name)));
            user.map(|user| user.home.into_bytes())
        }
    };
    let mut expanded = home.ok_or(Errno::NOENT)?;
    expanded.extend(below);
    Ok(expanded)
}

fn space(id: u32, found: &StatVfs) -> Answer {
    let read_only = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    let no_suid = found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID);
    Answer::new(tell::EXTENDED_REPLY, id)
        .u64(found.f_bsize)
        .u64(found.f_frsize)
        .u64(found.f_blocks)
        .u64(found.f_bfree)
        .u64(found.f_bavail)
        .u64(found.f_files)
        .u64(found.f_ffree)
        .u64(found.f_favail)
        .u64(found.f_fsid)
        .u64(u64::from(read_only) | u64::from(no_suid) << 1)
        .u64(found.f_namemax)
}
