//! `vm workspace`: a git checkout into a VM, and its commits back.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::answer::{Answer, AnswerError, Bounds, answer};
use banger_guest::files::TransferError;
use banger_guest_proto::ExecRequest;
use banger_workspace::{
    CheckoutError, Collected, Git, GuestRefs, GuestRepo, How, NOTE_PULLED, Options, PACK,
    PrepareError, Prepared, PullError, Pulled, SNAPSHOT, Staging, fetch, prepare, repository,
    says_disk_full, submodules, wanted,
};
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;

use super::{CommandResult, Context, agents_own, cp};
use crate::cli::{BackArgs, DiffArgs, PrepareArgs, WorkspaceCommand};
use crate::error::CommandError;
use crate::progress::Progress;
use crate::start::Needs;

/// Where the work disk is in a guest.
pub(super) const GUEST_HOME: &str = "/root";
/// Where a checkout goes in a guest.
pub(crate) const GUEST_PATH: &str = "/root/repo";

/// `vm workspace …`.
pub(crate) async fn workspace(context: &Context<'_>, command: WorkspaceCommand) -> CommandResult {
    match command {
        WorkspaceCommand::Prepare(args) => prepare_command(context, args).await,
        WorkspaceCommand::Diff(args) => diff(context, args).await,
        WorkspaceCommand::Pull(args) => pull(context, args).await,
    }
}

/// A transfer's connections to a VM.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) vm: String,
    pub(super) path: PathBuf,
}

impl Target {
    /// For the place that checkouts go to.
    pub(super) fn of(client: &Client, vm: &str) -> Self {
        Self {
            client: client.clone(),
            vm: vm.to_owned(),
            path: GUEST_PATH.into(),
        }
    }

    fn connect(&self, runtime: &Handle) -> Result<UnixStream, TransferError> {
        let stream = runtime.block_on(self.client.connect_workspace(&self.vm));
        stream.map_err(|error| TransferError::Connection(std::io::Error::other(error)))
    }
}

/// Lists what a path's checkout consists of, off the runtime.
pub(super) async fn collect(
    context: &Context<'_>,
    path: PathBuf,
    options: Options,
) -> Result<Collected, CommandError> {
    let staging = staging(context)?;
    blocking(move || {
        let collected = Collected::new(&path, &options, &staging);
        collected.map_err(|error| checkout_failed(&error))
    })
    .await
}

/// Where what is sent or comes is put meanwhile. What killed commands have left there is gone then.
pub(super) fn staging(context: &Context<'_>) -> Result<Staging, CommandError> {
    let folder = context.paths.staging();
    Staging::open(&folder).map_err(|error| {
        let what = format!("the folder {} cannot be made", folder.display());
        CommandError::because(ErrorCode::HostNotReady, what, &error)
            .hint("set XDG_CACHE_HOME to a folder of your own that can be written")
    })
}

/// Puts a checkout into a VM, off the runtime.
pub(super) async fn put(
    target: Target,
    checkout: Arc<Collected>,
    how: How,
    progress: Progress,
) -> Result<Prepared, CommandError> {
    let runtime = Handle::current();
    blocking(move || {
        let guest = GuestRepo {
            connect: &|| target.connect(&runtime),
            path: target.path.clone(),
            home: GUEST_HOME.into(),
            progress: &|bytes| progress.add(bytes),
        };
        prepare(&checkout, &guest, how).map_err(|error| prepare_failed(&error, &target))
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CommandError> + Send + 'static,
) -> Result<T, CommandError> {
    super::blocking("the work", work).await?
}

async fn prepare_command(context: &Context<'_>, args: PrepareArgs) -> CommandResult {
    let options = Options {
        mode: args.mode.map_or_else(Default::default, Into::into),
        branch: args.branch,
        from: args.from,
        untracked: args.include_untracked,
    };
    let path = args.path.unwrap_or_else(|| PathBuf::from("."));
    let checkout = collect(context, path, options).await?;
    let client = context.client(Needs::Daemon).await?;
    let target = Target {
        client,
        vm: args.vm.clone(),
        path: args.guest_path.unwrap_or_else(|| GUEST_PATH.into()),
    };
    // Whether it runs, before anything else.
    drop(
        target
            .client
            .connect_guest(&args.vm, Readiness::Reachable, None)
            .await?,
    );
    let folder = target.path.to_str().map(str::to_owned);
    if args.readonly && folder.is_none() {
        let what = format!(
            "`{}` cannot be made read-only: it is no text",
            target.path.display()
        );
        return Err(CommandError::new(ErrorCode::InvalidArgument, what));
    }
    if let Some(folder) = folder.as_deref().filter(|_| !args.dry_run) {
        // A folder that is read-only for the guest's programs is so for the agent, too.
        make_writable(&target, folder).await?;
    }
    let how = How {
        force: args.force,
        dry_run: args.dry_run,
    };
    let progress = Progress::new(None, !context.ui.is_json());
    let prepared = put(target.clone(), Arc::new(checkout), how, progress).await?;
    if let Some(folder) = folder.filter(|_| args.readonly && !args.dry_run) {
        make_read_only(&target, &folder).await?;
    }
    context.ui.result(&prepared, |prepared| {
        if args.dry_run {
            listed(prepared)
        } else {
            summary(prepared)
        }
    });
    notes(context, &prepared);
    Ok(0)
}

/// What was left out.
pub(super) fn notes(context: &Context<'_>, prepared: &Prepared) {
    for note in &prepared.notes {
        context.ui.note(&banger_guest_proto::shown(note.as_bytes()));
    }
}

/// Has programs in the guest only read the folder. The agent's own program does it: the image need not have one for this.
pub(super) async fn make_read_only(target: &Target, folder: &str) -> Result<(), CommandError> {
    let request = agents_own::request(["read-only", folder]);
    let answer = ask(target, request, "", &mut vec![], SHORT).await?;
    if answer.status.success() {
        return Ok(());
    }
    if answer.status.exit_code() == agents_own::UNKNOWN_WORD {
        return Err(agents_own::too_old(&target.vm, "make a folder read-only"));
    }
    let what = "the folder could not be made read-only";
    let mut error = CommandError::new(ErrorCode::ExecFailed, what);
    error
        .0
        .causes
        .push(banger_guest_proto::shown(answer.stderr.trim_ascii()));
    Err(error)
}

/// Undoes that. Best effort: what is read-only still, the transfer says.
async fn make_writable(target: &Target, folder: &str) -> Result<(), CommandError> {
    let request = agents_own::request(["writable", folder]);
    let answer = ask(target, request, "", &mut vec![], SHORT).await;
    answer.map(drop)
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

pub(super) fn summary(prepared: &Prepared) -> String {
    let sent = prepared.sent.len();
    let files = if sent == 1 { "file" } else { "files" };
    let mut parts = vec![format!("{sent} {files} sent")];
    if prepared.unchanged > 0 {
        parts.push(format!("{} unchanged", prepared.unchanged));
    }
    if !prepared.removed.is_empty() {
        parts.push(format!("{} removed", prepared.removed.len()));
    }
    format!(
        "{}: {} ({})",
        prepared.guest_path,
        parts.join(", "),
        size(prepared.bytes)
    )
}

fn listed(prepared: &Prepared) -> String {
    let mut lines: Vec<String> = prepared
        .sent
        .iter()
        .map(|file| format!("send    {:>12}  {}", file.size, file.path))
        .collect();
    lines.extend(
        prepared
            .removed
            .iter()
            .map(|path| format!("remove  {:>12}  {path}", "")),
    );
    if prepared.git_bytes > 0 {
        lines.push(format!("send    {:>12}  .git", prepared.git_bytes));
    }
    lines.push(format!("would be {}", summary(prepared)));
    lines.join("\n")
}

/// What to do when there is no room for what is put aside.
pub(super) const ROOM_HERE: &str =
    "make room here; XDG_CACHE_HOME says where what is sent or comes is put";
/// What to do about a repository that git does not trust.
const TRUST: &str = "it belongs to another user; `git config --global --add safe.directory PATH` says that you trust it";

pub(super) fn checkout_failed(error: &CheckoutError) -> CommandError {
    if error.is_disk_full() {
        let what = "the checkout cannot be made ready to be sent";
        return CommandError::because(ErrorCode::DiskFull, what, error).hint(ROOM_HERE);
    }
    let told = CommandError::because(
        ErrorCode::InvalidArgument,
        "there is no checkout to send",
        error,
    );
    match error {
        CheckoutError::NotACheckout { source, .. } | CheckoutError::Git(source)
            if source.is_of_another_user() =>
        {
            told.hint(TRUST)
        }
        CheckoutError::NotACheckout { .. } => {
            told.hint("name a folder in a git checkout; `banger vm cp` copies any folder")
        }
        CheckoutError::Submodules { .. } => told.hint("use --mode full_copy"),
        CheckoutError::Git(banger_workspace::GitError::Start(_)) => told.hint("install git"),
        _ => told,
    }
}

fn prepare_failed(error: &PrepareError, target: &Target) -> CommandError {
    match error {
        PrepareError::Checkout(error) => checkout_failed(error),
        PrepareError::Transfer(error) => cp::failed(error),
        PrepareError::WouldLose {
            files,
            head,
            submodules,
        } => {
            let mut told = CommandError::new(ErrorCode::WorkInGuest, error.to_string());
            if let Some(head) = head {
                let at = head.commit.as_deref().unwrap_or("no commit");
                let branch = head.branch.as_deref().unwrap_or("no branch");
                told.0.causes.push(format!(
                    "its HEAD is at {at} ({branch}), which was not sent from here"
                ));
            }
            let moved = submodules.iter();
            told.0.causes.extend(moved.map(|path| {
                format!("the submodule {path} has commits that were not sent from here")
            }));
            let shown = 20;
            told.0.causes.extend(
                files
                    .iter()
                    .take(shown)
                    .map(|lost| format!("{}: {}", lost.path, lost.reason.as_str())),
            );
            if files.len() > shown {
                told.0
                    .causes
                    .push(format!("and {} more", files.len() - shown));
            }
            told.hint(format!(
                "`banger vm workspace pull {}` brings it here first",
                target.vm
            ))
            .hint(
                "--force overwrites these files; commits stay in the guest under refs/banger/kept",
            )
        }
        error => CommandError::because(
            ErrorCode::InvalidArgument,
            "nothing can be put there",
            error,
        ),
    }
}

/// What to do when there is no room in a guest.
pub(super) const ROOM_IN_GUEST: &str =
    "make room in the guest; `banger vm exec VM -- df -h` shows where";

/// What a guest may say in answer to a short question.
const SHORT: u64 = 16 << 20;
/// The most that `diff` prints, in bytes.
const LONGEST_DIFF: u64 = 1 << 30;
/// How long a guest may say nothing: git counts before it packs, and guests may be slow.
const SILENCE: Duration = Duration::from_secs(600);

/// Runs a script in the guest with the folder, any bytes, as its argument. The answer is its code, and what it said
/// on standard output, or on standard error when it failed.
pub(super) async fn in_guest(
    target: &Target,
    script: &str,
    folder: &Path,
) -> Result<(u8, Vec<u8>), CommandError> {
    let mut said = vec![];
    let answer = ask(target, shell(script, folder), "", &mut said, SHORT).await?;
    let code = answer.status.exit_code();
    Ok((code, if code == 0 { said } else { answer.stderr }))
}

/// A script with the folder as its argument. Arguments are text: what is none goes as printf(1) has it, with a letter that
/// keeps a line's end at its end.
fn shell(script: &str, folder: &Path) -> ExecRequest {
    let mut request = match folder.to_str() {
        Some(folder) => ExecRequest::own(["sh", "-c", script, "sh", folder]),
        None => {
            let bytes = folder.as_os_str().as_bytes().iter();
            let octal: String = bytes.map(|byte| format!("\\0{byte:03o}")).collect();
            let unpack =
                format!("set -- \"$(printf '%bx' \"$1\")\"; set -- \"${{1%x}}\"\n{script}");
            ExecRequest::own(["sh", "-c", &unpack, "sh", &octal])
        }
    };
    request.env = vec![("LC_ALL".to_owned(), "C".to_owned())];
    request
}

/// Runs a program in the guest with something on its standard input; its output, which goes to `to`, is bounded.
async fn ask<W: AsyncWrite + Unpin>(
    target: &Target,
    mut request: ExecRequest,
    input: &str,
    to: &mut W,
    bytes: u64,
) -> Result<Answer, CommandError> {
    request.no_stdin = input.is_empty();
    let wait = Readiness::Reachable;
    let stream = target.client.connect_guest(&target.vm, wait, None).await?;
    let bounds = Bounds {
        bytes,
        silence: SILENCE,
    };
    let answered = answer(stream, &request, input.as_bytes(), to, bounds).await;
    answered.map_err(|error| {
        let what = "the guest did not do it";
        let code = match &error {
            AnswerError::Write(error) if error.kind() == io::ErrorKind::StorageFull => {
                ErrorCode::DiskFull
            }
            AnswerError::GuestGone | AnswerError::Connection(_) => ErrorCode::AgentUnreachable,
            _ => ErrorCode::ExecFailed,
        };
        let told = CommandError::because(code, what, &error);
        match error {
            AnswerError::Write(_) if code == ErrorCode::DiskFull => told.hint(ROOM_HERE),
            AnswerError::GuestGone | AnswerError::Connection(_) => told.hint(format!(
                "`banger vm show {}` says how the VM is; the command said again begins anew",
                target.vm
            )),
            AnswerError::TooMuch { .. } => told
                .hint("look at what the guest has: `banger vm exec`; `pull --max-size` takes more"),
            _ => told,
        }
    })
}

/// A file without a name, for what a guest sends, and another handle of it to write with.
fn scratch(staging: &Staging) -> Result<(File, tokio::fs::File), CommandError> {
    let made = staging.file().and_then(|file| {
        let handle = file.try_clone()?;
        Ok((file, tokio::fs::File::from_std(handle)))
    });
    made.map_err(|error| CommandError::internal("a temporary file cannot be made", &error))
}

/// What the guest has, with the work that is not committed as one more commit.
async fn snapshot(target: &Target, folder: &Path) -> Result<GuestRefs, CommandError> {
    let (code, output) = in_guest(target, SNAPSHOT, folder).await?;
    if code != 0 {
        let said = banger_guest_proto::shown(String::from_utf8_lossy(&output).trim().as_bytes());
        let mut told = CommandError::new(
            ErrorCode::ExecFailed,
            format!(
                "git in the guest could not say what `{}` holds",
                folder.display()
            ),
        );
        let is_full = says_disk_full(&said);
        told.0.causes.push(said);
        if is_full {
            told.0.code = ErrorCode::DiskFull;
            return Err(told.hint(ROOM_IN_GUEST));
        }
        return Err(told.hint(
            "it needs git in the guest and a checkout there; `banger vm cp` copies files without",
        ));
    }
    GuestRefs::parse(&output).map_err(|error| pull_failed(&error))
}

fn pull_failed(error: &PullError) -> CommandError {
    let code = if error.is_disk_full() {
        ErrorCode::DiskFull
    } else {
        ErrorCode::CopyFailed
    };
    let told = CommandError::because(code, "the guest's commits were not taken", error);
    match error {
        _ if error.is_disk_full() => told.hint("make room where the repository is, and pull again"),
        PullError::Git(source) if source.is_of_another_user() => told.hint(TRUST),
        PullError::BranchExists { .. } => told.hint("name another branch with --branch"),
        _ => told,
    }
}

async fn target(
    context: &Context<'_>,
    vm: &str,
    path: Option<PathBuf>,
) -> Result<Target, CommandError> {
    let client = context.client(Needs::Daemon).await?;
    let vm = client.vm(vm).await?.name;
    let path = path.unwrap_or_else(|| GUEST_PATH.into());
    Ok(Target { client, vm, path })
}

async fn diff(context: &Context<'_>, args: DiffArgs) -> CommandResult {
    let target = target(context, &args.vm, args.guest_path).await?;
    let folder = target.path.as_path();
    let refs = snapshot(&target, folder).await?;
    let Some(tip) = refs.tip() else { return Ok(0) };
    let base = refs.base().map_or_else(
        || "$(git hash-object -t tree /dev/null)".to_owned(),
        str::to_owned,
    );
    let flags = if args.stat { "--stat" } else { "" };
    // The ids were checked to be ids.
    let script = format!(
        "cd \"$1\" && git -c core.hooksPath=/dev/null -c safe.directory='*' --no-pager diff --no-ext-diff --no-textconv --no-color {flags} {base} {tip}"
    );
    let (mut file, mut to) = scratch(&staging(context)?)?;
    let answer = ask(&target, shell(&script, folder), "", &mut to, LONGEST_DIFF).await?;
    if !answer.status.success() {
        return Err(CommandError::new(
            ErrorCode::ExecFailed,
            "git in the guest could not compare",
        ));
    }
    let unread =
        |error: std::io::Error| CommandError::internal("a temporary file cannot be read", &error);
    file.rewind().map_err(unread)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer);
        match count.map_err(unread)? {
            0 => return Ok(0),
            count => {
                let written = context.ui.bytes(&buffer[..count]);
                written
                    .map_err(|error| CommandError::internal("nobody reads the output", &error))?;
            }
        }
    }
}

#[derive(Debug, serde::Serialize)]
struct PullResult {
    refs: Vec<Pulled>,
    branch: Option<String>,
    submodules: Vec<PulledSubmodule>,
}

/// What came of a submodule, into its repository here.
#[derive(Debug, serde::Serialize)]
struct PulledSubmodule {
    path: String,
    refs: Vec<Pulled>,
}

async fn pull(context: &Context<'_>, args: BackArgs) -> CommandResult {
    let path = args.path.unwrap_or_else(|| PathBuf::from("."));
    let (git, inner) = blocking(move || {
        let inner = submodules(&path).map_err(|error| pull_failed(&error));
        Ok((find(&path)?, inner?))
    })
    .await?;
    let target = target(context, &args.vm, args.guest_path).await?;
    let most = args.max_size.0;
    let staging = staging(context)?;
    let branch = args.branch.clone();
    let refs = pull_one(&target, &target.path, git, branch, (&staging, most)).await?;
    let mut pulled = vec![];
    for (path, git) in inner {
        let at = target.path.join(path.as_path());
        // One that is not there now has nothing to bring.
        let is_there = r#"[ -e "$1/.git" ]"#;
        let (code, _) = in_guest(&target, is_there, &at).await?;
        if code == 0 {
            let refs = pull_one(&target, &at, git, None, (&staging, most)).await?;
            let path = path.to_string();
            pulled.push(PulledSubmodule { path, refs });
        }
    }
    let result = PullResult {
        refs,
        branch: args.branch,
        submodules: pulled,
    };
    context.ui.result(&result, brought);
    Ok(0)
}

/// Brings the commits of one repository in the guest into one here.
async fn pull_one(
    target: &Target,
    folder: &Path,
    git: Git,
    branch: Option<String>,
    (staging, most): (&Staging, u64),
) -> Result<Vec<Pulled>, CommandError> {
    let refs = snapshot(target, folder).await?;
    let (one, two) = (git.clone(), refs.clone());
    let name = target.vm.clone();
    let input =
        blocking(move || wanted(&one, &name, &two).map_err(|error| pull_failed(&error))).await?;
    let mut pack = None;
    if let Some(input) = input {
        let (file, mut to) = scratch(staging)?;
        let answer = ask(target, shell(PACK, folder), &input, &mut to, most).await?;
        if !answer.status.success() {
            let what = "git in the guest could not send its commits";
            let mut told = CommandError::new(ErrorCode::ExecFailed, what);
            told.0
                .causes
                .push(banger_guest_proto::shown(answer.stderr.trim_ascii()));
            return Err(told);
        }
        pack = Some(file);
    }
    let name = target.vm.clone();
    let pulled = blocking(move || {
        fetch(&git, &name, &refs, pack, branch.as_deref()).map_err(|error| pull_failed(&error))
    })
    .await?;
    note_pulled(target, folder, &pulled).await;
    Ok(pulled)
}

fn brought(result: &PullResult) -> String {
    let line = |one: &Pulled| {
        format!(
            "{} {} {}",
            if one.new { "new " } else { "same" },
            &one.commit[..12],
            one.reference
        )
    };
    let mut lines: Vec<String> = result.refs.iter().map(line).collect();
    lines.extend(
        result
            .branch
            .iter()
            .map(|branch| format!("branch {branch}")),
    );
    for inner in &result.submodules {
        let refs = inner.refs.iter().map(line);
        lines.extend(refs.map(|line| format!("{line} ({})", inner.path)));
    }
    if lines.is_empty() {
        "the guest has no commits and no changes".to_owned()
    } else {
        lines.join("\n")
    }
}

/// Tells the guest what is here now, so that nobody is warned of losing it. Best effort: who is warned in
/// vain loses nothing.
async fn note_pulled(target: &Target, folder: &Path, pulled: &[Pulled]) {
    let input: String = pulled.iter().map(|one| one.note(&target.vm)).collect();
    if !input.is_empty() {
        let mut said = vec![];
        drop(ask(target, shell(NOTE_PULLED, folder), &input, &mut said, SHORT).await);
    }
}

fn find(path: &Path) -> Result<Git, CommandError> {
    repository(path).map_err(|error| {
        let what = format!("`{}` is in no git repository that can be used", path.display());
        let told = CommandError::because(ErrorCode::InvalidArgument, what, &error);
        match &error {
            PullError::Git(source) if source.is_of_another_user() => told.hint(TRUST),
            _ => told.hint("run it in the repository that the workspace came from, or name it: `banger vm workspace pull VM PATH`"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;
    use banger_workspace::SentFile;

    fn prepared() -> Prepared {
        Prepared {
            guest_path: GUEST_PATH.to_owned(),
            sent: vec![SentFile {
                path: "src/main.c".to_owned(),
                size: 512,
            }],
            removed: vec!["old.c".to_owned()],
            git_bytes: 8192,
            bytes: 8704,
            unchanged: 41,
            notes: vec!["lib is a submodule: `--mode full_copy` takes it".to_owned()],
        }
    }

    fn pulled() -> PullResult {
        let one = |reference: &str, new| Pulled {
            reference: format!("refs/banger/demo/{reference}"),
            commit: "5f2c".repeat(10),
            new,
        };
        PullResult {
            refs: vec![one("HEAD", true), one("heads/main", false)],
            branch: Some("from-demo".to_owned()),
            submodules: vec![PulledSubmodule {
                path: "lib".to_owned(),
                refs: vec![one("tags/v1", true)],
            }],
        }
    }

    #[test]
    fn a_folder_that_is_no_text_arrives_as_it_is() {
        for bytes in [
            &b"/root/text"[..],
            b"/root/caf\xe9",
            b"/root/a\xff\n",
            b"/root/\\n%s \xfe'$(x)\"",
        ] {
            let folder = Path::new(std::ffi::OsStr::from_bytes(bytes));
            let request = shell("printf %s \"$1\"", folder);
            let mut command = std::process::Command::new(&request.argv[0]);
            let output = command.args(&request.argv[1..]).output().unwrap();
            assert_eq!(output.stdout, bytes);
        }
    }

    #[test]
    fn the_sentences() {
        let nothing = PullResult {
            refs: vec![],
            branch: None,
            submodules: vec![],
        };
        let all = [
            summary(&prepared()),
            listed(&prepared()),
            brought(&pulled()),
            brought(&nothing),
        ];
        insta::assert_snapshot!(all.join("\n\n"));
    }

    #[test]
    fn the_json_is_the_documented_one() {
        assert_documented("prepared", &serde_json::to_value(prepared()).unwrap());
        assert_documented("pulled", &serde_json::to_value(pulled()).unwrap());
    }
}
