//! `vm cp`: files and trees both ways, over the connection that the daemon hands out.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use banger_api::Readiness;
use banger_core::ErrorCode;
use banger_files::{Destination, DestinationError, Policy, Receiver, source};
use banger_guest::files::{TransferError, get, get_stream, put};
use banger_guest_proto::{
    AgentErrorCode, Entry, EntryKind, FileTime, FilesDone, GetFiles, PutFiles, RelPath, WirePath,
};

use super::{CommandResult, Context, blocking};
use crate::cli::CpArgs;
use crate::error::CommandError;
use crate::progress::Progress;
use crate::start::Needs;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// This process's standard input or output.
    Stream,
    /// A file or folder here.
    Here(PathBuf),
    /// One in a VM.
    There { vm: String, path: WirePath },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Files here into a VM.
    Put {
        sources: Vec<PathBuf>,
        vm: String,
        target: WirePath,
    },
    /// Standard input into a file of a VM.
    PutStream { vm: String, target: WirePath },
    /// Files of VMs to here, each VM's at once.
    Get {
        sources: Vec<(String, Vec<WirePath>)>,
        target: PathBuf,
    },
    /// A file of a VM to standard output.
    GetStream { vm: String, source: WirePath },
}

fn parse(argument: &OsStr) -> Result<Place, String> {
    let bytes = argument.as_bytes();
    if bytes == b"-" {
        return Ok(Place::Stream);
    }
    let colon = bytes.iter().position(|byte| *byte == b':');
    let slash = bytes.iter().position(|byte| *byte == b'/');
    let Some(colon) = colon.filter(|colon| slash.is_none_or(|slash| *colon < slash)) else {
        return Ok(Place::Here(PathBuf::from(argument)));
    };
    let vm = std::str::from_utf8(&bytes[..colon]).unwrap_or_default();
    if vm.is_empty() {
        return Err(format!(
            "`{}` names no VM before the colon",
            argument.display()
        ));
    }
    let path = WirePath(bytes[colon + 1..].to_vec());
    Ok(Place::There {
        vm: vm.to_owned(),
        path,
    })
}

fn plan(arguments: &[OsString]) -> Result<Plan, String> {
    let mut places = arguments
        .iter()
        .map(|one| parse(one))
        .collect::<Result<Vec<_>, _>>()?;
    let target = places.pop().ok_or("nothing to copy")?;
    let streams = places
        .iter()
        .filter(|place| **place == Place::Stream)
        .count();
    if streams > 0 && places.len() > 1 {
        return Err("`-` is copied alone".to_owned());
    }
    match target {
        Place::There { vm, path } => {
            let mut sources = vec![];
            for place in places {
                match place {
                    Place::Stream => return Ok(Plan::PutStream { vm, target: path }),
                    Place::Here(path) => sources.push(path),
                    Place::There { .. } => {
                        return Err(
                            "one end of a copy is on this side; go from VM to VM through a \
                            folder here or a pipe of two commands"
                                .to_owned(),
                        );
                    }
                }
            }
            Ok(Plan::Put {
                sources,
                vm,
                target: path,
            })
        }
        Place::Here(_) | Place::Stream => {
            let mut sources: Vec<(String, Vec<WirePath>)> = vec![];
            for place in places {
                let Place::There { vm, path } = place else {
                    return Err(
                        "neither end of the copy is in a VM; write it as VM:PATH".to_owned()
                    );
                };
                match sources.iter_mut().find(|(known, _)| *known == vm) {
                    Some((_, paths)) => paths.push(path),
                    None => sources.push((vm, vec![path])),
                }
            }
            match (target, sources.as_mut_slice()) {
                (Place::Here(target), _) => Ok(Plan::Get { sources, target }),
                (_, [(vm, paths)]) if paths.len() == 1 => Ok(Plan::GetStream {
                    vm: std::mem::take(vm),
                    source: paths.remove(0),
                }),
                _ => Err("`-` takes one file".to_owned()),
            }
        }
    }
}

/// `vm cp`.
pub(crate) async fn cp(context: &Context<'_>, args: CpArgs) -> CommandResult {
    let plan = plan(&args.paths).map_err(|what| {
        CommandError::new(ErrorCode::InvalidArgument, what).hint("see `banger vm cp --help`")
    })?;
    let show = !context.ui.is_json();
    let done = match plan {
        Plan::Put {
            sources,
            vm,
            target,
        } => {
            let total = look(&sources)?;
            over(context, &vm, move |stream| {
                let progress = Progress::new(total, show);
                put_files(stream, &sources, target, &progress)
            })
            .await?
        }
        Plan::PutStream { vm, target } => {
            over(context, &vm, move |stream| {
                let progress = Progress::new(None, show);
                put_stdin(stream, target, &progress)
            })
            .await?
        }
        Plan::Get { sources, target } => {
            let several = sources.iter().map(|(_, paths)| paths.len()).sum::<usize>() > 1;
            let mut all = FilesDone::default();
            for (vm, paths) in sources {
                let target = target.clone();
                let done = over(context, &vm, move |stream| {
                    let progress = Progress::new(None, show);
                    get_files(stream, paths, &target, several, &progress)
                })
                .await?;
                add(&mut all, done);
            }
            all
        }
        Plan::GetStream { vm, source } => {
            let done = over(context, &vm, move |stream| {
                let progress = Progress::new(None, show);
                let request = GetFiles {
                    sources: vec![source],
                };
                let out = io::stdout().lock();
                get_stream(stream, request, &|bytes| progress.add(bytes), out)
                    .map_err(|e| failed(&e))
            })
            .await?;
            return told(context, &done);
        }
    };
    if context.ui.is_json() {
        context.ui.result(&done, |_| String::new());
    }
    told(context, &done)
}

/// Says what was left out.
fn told(context: &Context<'_>, done: &FilesDone) -> CommandResult {
    for problem in &done.problems {
        context.ui.note(&problem.sentence());
    }
    if done.more_problems > 0 {
        context.ui.note(&format!("and {} more", done.more_problems));
    }
    Ok(u8::from(!done.is_whole()))
}

fn add(all: &mut FilesDone, done: FilesDone) {
    all.files += done.files;
    all.bytes += done.bytes;
    all.problems.extend(done.problems);
    all.more_problems += done.more_problems;
}

/// Sees that all sources are there, before anything is changed. The answer is their size, when all are
/// files.
fn look(sources: &[PathBuf]) -> Result<Option<u64>, CommandError> {
    let mut total = Some(0);
    for path in sources {
        let found = std::fs::metadata(path).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound => ErrorCode::FileNotFound,
                _ => ErrorCode::CopyFailed,
            };
            CommandError::because(
                code,
                format!("`{}` cannot be copied", path.display()),
                &error,
            )
        })?;
        total = total
            .filter(|_| found.is_file())
            .map(|total: u64| total + found.len());
    }
    Ok(total)
}

/// Runs a transfer over a connection to the guest, off the runtime.
async fn over<T: Send + 'static>(
    context: &Context<'_>,
    vm: &str,
    transfer: impl FnOnce(&UnixStream) -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    let client = context.client(Needs::Daemon).await?;
    let stream = client.connect_guest(vm, Readiness::Reachable, None).await?;
    blocking("the transfer", move || transfer(&stream)).await?
}

/// The failed command that a failed transfer is.
pub(crate) fn failed(error: &TransferError) -> CommandError {
    let (code, hint) = match error {
        TransferError::OldAgent { .. } => (
            ErrorCode::AgentTooOld,
            Some("restart the VM: it then boots with this banger's agent"),
        ),
        TransferError::Refused(refusal) => match refusal.code {
            AgentErrorCode::FileNotFound => (ErrorCode::FileNotFound, None),
            AgentErrorCode::DiskFull => {
                (ErrorCode::DiskFull, Some(super::workspace::ROOM_IN_GUEST))
            }
            _ => (ErrorCode::CopyFailed, None),
        },
        TransferError::Receive(banger_files::ReceiveError::Full { .. }) => (
            ErrorCode::DiskFull,
            Some("make room here, or name another folder"),
        ),
        TransferError::Connection(_) => (
            ErrorCode::AgentUnreachable,
            Some("the VM may have stopped; `banger vm show VM` tells"),
        ),
        _ => (ErrorCode::CopyFailed, None),
    };
    let told = CommandError::because(code, "the copy did not come to its end", error);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

fn local(path: &Path, error: &(dyn std::error::Error + 'static)) -> CommandError {
    CommandError::because(
        ErrorCode::CopyFailed,
        format!("`{}` cannot be copied", path.display()),
        error,
    )
}

fn put_files(
    stream: &UnixStream,
    sources: &[PathBuf],
    target: WirePath,
    progress: &Progress,
) -> Result<FilesDone, CommandError> {
    let mut found = vec![];
    for path in sources {
        let (folder, at, name) = source(path).map_err(|error| local(path, &error))?;
        let name = RelPath::new(name).map_err(|error| local(path, &error))?;
        found.push((folder, at, name));
    }
    let request = PutFiles {
        target,
        into: sources.len() > 1,
        file: false,
        exact: false,
    };
    let (left_out, mut done) = put(stream, request, &|bytes| progress.add(bytes), |sender| {
        for (folder, at, name) in &found {
            sender.send(folder.as_fd(), at, name)?;
        }
        Ok(())
    })
    .map_err(|error| failed(&error))?;
    done.with_senders(left_out);
    Ok(done)
}

/// Sends standard input as the file of that name.
fn put_stdin(
    stream: &UnixStream,
    target: WirePath,
    progress: &Progress,
) -> Result<FilesDone, CommandError> {
    let name = Path::new(OsStr::from_bytes(&target.0)).file_name();
    let name = RelPath::new(name.unwrap_or_default().as_bytes()).map_err(|_| {
        CommandError::new(
            ErrorCode::InvalidArgument,
            "a stream needs the name of a file: VM:FILE",
        )
    })?;
    let request = PutFiles {
        target,
        into: false,
        file: true,
        exact: false,
    };
    let file = (name, 0o644);
    put_stream(stream, request, file, &mut io::stdin().lock(), progress)
}

/// Sends what a reader gives as one file of that name and mode.
pub(super) fn put_stream(
    stream: &UnixStream,
    request: PutFiles,
    (name, mode): (RelPath, u16),
    from: &mut impl Read,
    progress: &Progress,
) -> Result<FilesDone, CommandError> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let entry = Entry {
        path: name,
        kind: EntryKind::File {
            size: 0,
            linked: false,
        },
        mode,
        mtime: FileTime {
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanos: now.subsec_nanos(),
        },
    };
    let sent = put(stream, request, &|bytes| progress.add(bytes), |sender| {
        let out = sender.out();
        out.entry(&entry).map_err(TransferError::Connection)?;
        loop {
            let read = out.data_from(usize::MAX, |buffer| from.read(buffer));
            match read.map_err(TransferError::Connection)? {
                Ok(0) => return Ok(()),
                Ok(_) => out.flush().map_err(TransferError::Connection)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TransferError::Local(error)),
            }
        }
    });
    sent.map(|(_, done)| done).map_err(|error| failed(&error))
}

fn get_files(
    stream: &UnixStream,
    sources: Vec<WirePath>,
    target: &Path,
    several: bool,
    progress: &Progress,
) -> Result<FilesDone, CommandError> {
    let destination = Destination::find(target, several, false).map_err(|error| {
        let code = match error {
            DestinationError::Missing { .. } => ErrorCode::FileNotFound,
            _ => ErrorCode::CopyFailed,
        };
        CommandError::because(code, "nothing can be copied there", &error)
    })?;
    // Only what was asked for is taken; `.` and `..` have a name that only the guest knows.
    let mut names = HashMap::new();
    let mut known = true;
    for path in &sources {
        match path.absolute().file_name() {
            Some(name) => {
                let name = name.as_bytes().to_vec();
                let here = destination.name.clone().unwrap_or_else(|| name.clone());
                names.insert(name, here);
            }
            None => known = false,
        }
    }
    if !known && destination.name.is_some() {
        let what = format!("`{}` is no folder that exists", target.display());
        return Err(CommandError::new(ErrorCode::FileNotFound, what));
    }
    let policy = Policy {
        exact: false,
        unseen: false,
        special_bits: false,
        first_names: known.then_some(names),
    };
    let receiver = Receiver::new(destination.base, policy);
    let request = GetFiles { sources };
    let got = get(stream, request, &|bytes| progress.add(bytes), receiver);
    let (there, mut done) = got.map_err(|error| failed(&error))?;
    done.with_senders(there);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(arguments: &[&str]) -> Result<Plan, String> {
        plan(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn there(path: &str) -> WirePath {
        WirePath(path.into())
    }

    #[test]
    fn ends_are_told_apart() {
        let put = Plan::Put {
            sources: vec!["a".into(), "./b:c".into()],
            vm: "demo".into(),
            target: there("/srv/"),
        };
        assert_eq!(planned(&["a", "./b:c", "demo:/srv/"]).unwrap(), put);
        let get = Plan::Get {
            sources: vec![
                ("x".into(), vec![there("a"), there("")]),
                ("y".into(), vec![there("b")]),
            ],
            target: ".".into(),
        };
        assert_eq!(planned(&["x:a", "y:b", "x:", "."]).unwrap(), get);
        let stream = Plan::PutStream {
            vm: "x".into(),
            target: there("f"),
        };
        assert_eq!(planned(&["-", "x:f"]).unwrap(), stream);
        let stream = Plan::GetStream {
            vm: "x".into(),
            source: there("f"),
        };
        assert_eq!(planned(&["x:f", "-"]).unwrap(), stream);
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let problem = banger_guest_proto::FileProblem {
            path: "a/fifo".into(),
            what: "a pipe is not copied".into(),
        };
        let done = FilesDone {
            problems: vec![problem],
            ..FilesDone::default()
        };
        crate::documented::assert_documented("copied", &serde_json::to_value(done).unwrap());
    }

    #[test]
    fn what_makes_no_copy_is_refused() {
        for bad in [
            &["a", "b"][..],
            &["-", "-"],
            &["x:a", "y:b"],
            &["-", "a", "x:b"],
            &["x:a", "x:b", "-"],
            &[":a", "b"],
            &["a", ":b"],
            &["-", "f"],
        ] {
            assert!(planned(bad).is_err(), "{bad:?}");
        }
    }
}
