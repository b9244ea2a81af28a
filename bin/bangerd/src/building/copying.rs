//! Files into a builder: from the context, from the Dockerfile itself, from the builder of another stage.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use banger_build::context::{Context, Kind, Selection};
use banger_core::ErrorCode;
use banger_engine::ports::Failure;
use banger_files::Sender;
use banger_guest::files::{TransferError, Wire, get_records, put};
use banger_guest_proto::{
    Entry, EntryKind, FileTime, FilesDone, GetFiles, PutFiles, Record, RelPath, WirePath,
};

/// What was put where: the folder, and the paths below it.
#[derive(Debug, Default)]
pub(super) struct Put {
    pub(super) folder: String,
    pub(super) paths: Vec<RelPath>,
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::because(
        ErrorCode::ImageBuildFailed,
        "the files could not be copied",
        error,
    )
}

/// Something that was left out is a failure: an image lacks nothing silently.
fn whole(done: &FilesDone) -> Result<(), Failure> {
    let Some(first) = done.problems.first() else {
        return Ok(());
    };
    let what = format!("`{}` could not be copied: {}", first.path, first.what);
    Err(Failure::new(ErrorCode::ImageBuildFailed, what))
}

/// The folder of a destination, and the name in it of what is no folder.
pub(super) fn split(dest: &str) -> (&str, &str) {
    match dest.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => ("/", dest),
    }
}

/// Makes a folder and all that leads to it. Links on the way are followed.
pub(super) fn make_folder(stream: &UnixStream, path: &str) -> Result<(), Failure> {
    let request = PutFiles {
        target: WirePath(path.into()),
        into: false,
        file: false,
        exact: true,
    };
    let put = put(stream, request, &|_| {}, |_| Ok(()));
    put.map(drop).map_err(|error| failed(&error))
}

fn into_folder(folder: &str) -> PutFiles {
    PutFiles {
        target: WirePath(folder.into()),
        into: true,
        file: false,
        exact: false,
    }
}

/// Sends what was selected of a context.
pub(super) fn from_context(
    stream: &UnixStream,
    context: &Context,
    selection: &Selection,
    folder: &str,
) -> Result<Put, Failure> {
    let root = File::open(context.root()).map_err(|error| failed(&error))?;
    let mut paths = vec![];
    for item in &selection.items {
        let path = RelPath::new(item.to.as_os_str().as_bytes());
        paths.push(path.map_err(|error| failed(&error))?);
    }
    let (left_out, done) = put(stream, into_folder(folder), &|_| {}, |sender| {
        for (item, path) in selection.items.iter().zip(&paths) {
            match item.kind {
                Kind::Folder => sender
                    .out()
                    .entry(&Entry {
                        path: path.clone(),
                        kind: EntryKind::Folder,
                        mode: item.mode,
                        mtime: FileTime {
                            seconds: item.mtime.0,
                            nanos: item.mtime.1,
                        },
                    })
                    .map_err(TransferError::Connection)?,
                Kind::File | Kind::Link => sender.send(root.as_fd(), &item.source, path)?,
            }
        }
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    whole(&left_out)?;
    whole(&done)?;
    Ok(Put {
        folder: folder.to_owned(),
        paths,
    })
}

/// Writes files whose content is given.
pub(super) fn given(
    stream: &UnixStream,
    folder: &str,
    files: &[(String, String)],
    mode: u16,
) -> Result<Put, Failure> {
    let mut paths = vec![];
    for (name, _) in files {
        paths.push(RelPath::new(name.as_bytes()).map_err(|error| failed(&error))?);
    }
    let (_, done) = put(stream, into_folder(folder), &|_| {}, |sender| {
        for ((_, content), path) in files.iter().zip(&paths) {
            let entry = Entry {
                path: path.clone(),
                kind: EntryKind::File {
                    size: content.len() as u64,
                    linked: false,
                },
                mode,
                mtime: FileTime {
                    seconds: 0,
                    nanos: 0,
                },
            };
            let out = sender.out();
            out.entry(&entry).map_err(TransferError::Connection)?;
            // In pieces that a record may hold.
            for piece in content.as_bytes().chunks(32 << 10) {
                out.data(piece).map_err(TransferError::Connection)?;
            }
        }
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    whole(&done)?;
    Ok(Put {
        folder: folder.to_owned(),
        paths,
    })
}

fn wanted(path: &str) -> GetFiles {
    GetFiles {
        sources: vec![WirePath(path.into())],
    }
}

/// Whether a path of a guest leads to a folder.
pub(super) fn is_folder(stream: &UnixStream, path: &str) -> Result<bool, Failure> {
    if path == "/" {
        return Ok(true);
    }
    let mut kind = None;
    let asked = get_records(stream, wanted(path), &|_| {}, |record| match record {
        Record::Entry(entry) => {
            kind = Some(entry.kind);
            // No more is wanted.
            Err(TransferError::Unexpected)
        }
        _ => Ok(()),
    });
    match (kind, asked) {
        (Some(kind), _) => Ok(kind == EntryKind::Folder),
        (None, Err(error)) => Err(failed(&error)),
        (None, Ok(_)) => Ok(false),
    }
}

/// Copies a file, or what a folder holds, from one guest to another, record by record: modes stay as they are.
pub(super) fn from_guest(
    from: &UnixStream,
    to: &UnixStream,
    source: &str,
    folder: &str,
    name: Option<&str>,
) -> Result<Put, Failure> {
    let mut paths = vec![];
    let mut there = None;
    let (_, done) = put(to, into_folder(folder), &|_| {}, |sender| {
        let all = get_records(from, wanted(source), &|_| {}, |record| {
            relay(sender, record, name, &mut paths)
        })?;
        there = Some(all);
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    whole(&there.unwrap_or_default())?;
    whole(&done)?;
    Ok(Put {
        folder: folder.to_owned(),
        paths,
    })
}

fn relay(
    sender: &mut Sender<Wire<'_>>,
    record: Record<'_>,
    name: Option<&str>,
    paths: &mut Vec<RelPath>,
) -> Result<(), TransferError> {
    let out = sender.out();
    match record {
        Record::Entry(mut entry) => {
            let Some(path) = renamed(&entry.path, name)? else {
                // The folder whose content is copied.
                return Ok(());
            };
            if let EntryKind::HardLink(first) = &mut entry.kind {
                *first = renamed(first, name)?.ok_or(TransferError::Unexpected)?;
            }
            entry.path = path.clone();
            paths.push(path);
            out.entry(&entry).map_err(TransferError::Connection)
        }
        Record::Data(bytes) => out.data(bytes).map_err(TransferError::Connection),
        Record::Hole(bytes) => out.hole(bytes).map_err(TransferError::Connection),
        _ => Err(TransferError::Unexpected),
    }
}

/// The path at the destination: a file's new name, or without the folder whose content is copied.
fn renamed(path: &RelPath, name: Option<&str>) -> Result<Option<RelPath>, TransferError> {
    let bytes = match name {
        Some(name) => name.as_bytes(),
        None => match path.as_bytes().iter().position(|byte| *byte == b'/') {
            Some(slash) => &path.as_bytes()[slash + 1..],
            None => return Ok(None),
        },
    };
    let path = RelPath::new(bytes).map_err(|_| TransferError::Unexpected)?;
    Ok(Some(path))
}

/// The paths as `build own` reads them.
pub(super) fn as_input(put: &Put) -> Vec<u8> {
    let mut input = vec![];
    for path in &put.paths {
        input.extend_from_slice(path.as_bytes());
        input.push(0);
    }
    input
}

/// The last name of a path.
pub(super) fn base_name(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.unwrap_or("root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_split_and_paths_renamed() {
        assert_eq!(split("/a"), ("/", "a"));
        assert_eq!(split("/a/b"), ("/a", "b"));
        assert_eq!(split("/a/b/"), ("/a/b", ""));
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let to = |from: &str, name| renamed(&path(from), name).unwrap();
        assert_eq!(to("tool", Some("renamed")), Some(path("renamed")));
        assert_eq!(to("folder", None), None);
        assert_eq!(to("folder/a/b", None), Some(path("a/b")));
    }
}
