//! From a Dockerfile to stages of steps: every variable replaced, every path absolute, nothing that no stage needs.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Config, absolute};
use crate::dockerfile::{Dockerfile, DockerfileError, Form, From, RawStage, What, Written};
use crate::step::{Action, CopyFrom, CopyStep, RunStep, Step};
use crate::words::{self, WordError};

/// Variables that every stage may use, and that do not change what comes out.
const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// What the platform's variables say.
const PLATFORM: &[(&str, &str)] = &[
    ("TARGETPLATFORM", "linux/amd64"),
    ("TARGETOS", "linux"),
    ("TARGETARCH", "amd64"),
    ("TARGETVARIANT", ""),
    ("BUILDPLATFORM", "linux/amd64"),
    ("BUILDOS", "linux"),
    ("BUILDARCH", "amd64"),
    ("BUILDVARIANT", ""),
];

/// What is given beside the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// `--build-arg`s.
    pub args: BTreeMap<String, String>,
    /// The stage that is wanted; without one, the last.
    pub target: Option<String>,
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An image, as written.
    Image(String),
    /// An earlier stage of the plan.
    Stage(usize),
}

/// A stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What it begins with.
    pub base: Base,
    /// Its name, or `stage 2`.
    pub name: String,
    /// What is done in it.
    pub steps: Vec<Step>,
    /// How an image of it wants to be run.
    pub config: Config,
}

/// What is to be done. The last stage is the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Each after those that it needs.
    pub stages: Vec<Stage>,
    /// What is worth being told.
    pub notes: Vec<String>,
}

/// The images that a build begins with: those of the stages that are needed, as written.
///
/// # Errors
/// A stage that is not there, or a variable that cannot be replaced.
pub fn bases(file: &Dockerfile, options: &PlanOptions) -> Result<Vec<String>, DockerfileError> {
    let (froms, needed) = needed(file, options)?;
    let images = froms.into_iter().enumerate();
    let images = images.filter_map(|(at, from)| match from {
        Base::Image(image) if needed.contains(&at) => Some(image),
        _ => None,
    });
    let external = file.stages.iter().enumerate();
    let external = external
        .filter(|(at, _)| needed.contains(at))
        .flat_map(|(at, stage)| copied_from(file, at, stage))
        .filter_map(|source| match source {
            Base::Image(image) => Some(image),
            Base::Stage(_) => None,
        });
    let all: BTreeSet<String> = images.chain(external).collect();
    Ok(all.into_iter().collect())
}

/// Plans a build. `config_of` tells how an image, as it is written, wants to be run.
///
/// # Errors
/// What a stage says makes no sense, with its line.
pub fn plan(
    file: &Dockerfile,
    options: &PlanOptions,
    config_of: &dyn Fn(&str) -> Config,
) -> Result<Plan, DockerfileError> {
    let (froms, needed) = needed(file, options)?;
    let mut planner = Planner {
        file,
        options,
        globals: globals(file, options)?,
        stages: vec![],
        place: BTreeMap::new(),
        images: BTreeMap::new(),
        used: BTreeSet::new(),
        notes: vec![],
        config_of,
    };
    for (at, raw) in file.stages.iter().enumerate() {
        if needed.contains(&at) {
            planner.stage(at, raw, &froms[at])?;
        }
    }
    for name in options.args.keys() {
        let known = planner.used.contains(name) || PROXIES.contains(&name.as_str());
        if !known && !file.globals.iter().any(|(_, text)| names(text, name)) {
            let shown: String = name.chars().take(60).collect();
            planner
                .notes
                .push(format!("no `ARG` takes --build-arg {shown}"));
        }
    }
    Ok(Plan {
        stages: planner.stages,
        notes: planner.notes,
    })
}

fn names(arg: &str, name: &str) -> bool {
    arg.split_whitespace()
        .any(|word| word.split('=').next() == Some(name))
}

/// The variables that `FROM` may use.
fn globals(
    file: &Dockerfile,
    options: &PlanOptions,
) -> Result<BTreeMap<String, String>, DockerfileError> {
    let mut known: BTreeMap<String, String> = PLATFORM
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    for (line, text) in &file.globals {
        for (name, default) in assignments_of_arg(text, file.escape, *line, &known)? {
            let value = options.args.get(&name).cloned().or(default);
            if let Some(value) = value {
                known.insert(name, value);
            }
        }
    }
    Ok(known)
}

fn wrong(line: usize) -> impl Fn(WordError) -> DockerfileError {
    move |error| DockerfileError::new(line, error.to_string())
}

/// `NAME[=value]…` of an `ARG`.
fn assignments_of_arg(
    text: &str,
    escape: char,
    line: usize,
    known: &BTreeMap<String, String>,
) -> Result<Vec<(String, Option<String>)>, DockerfileError> {
    let lookup = |name: &str| known.get(name).cloned();
    let mut all = vec![];
    for piece in words::split(text, escape).map_err(wrong(line))? {
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) => {
                let value = words::word(value, escape, &lookup).map_err(wrong(line))?;
                (name.to_owned(), Some(value))
            }
            None => (piece, None),
        };
        all.push((checked_name(name, line)?, value));
    }
    Ok(all)
}

fn checked_name(name: String, line: usize) -> Result<String, DockerfileError> {
    let bad = |c: char| c == '=' || c == '\0' || c == '$' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(bad) {
        let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(DockerfileError::new(
            line,
            format!("`{shown}` is no name of a variable"),
        ));
    }
    Ok(name)
}

/// What each stage begins with, and which are needed.
fn needed(
    file: &Dockerfile,
    options: &PlanOptions,
) -> Result<(Vec<Base>, BTreeSet<usize>), DockerfileError> {
    let globals = globals(file, options)?;
    let lookup = |name: &str| globals.get(name).cloned();
    let mut froms = vec![];
    for (at, stage) in file.stages.iter().enumerate() {
        let image = words::word(&stage.from, file.escape, &lookup).map_err(wrong(stage.line))?;
        if image.is_empty() {
            let what = format!("`FROM {}` names no image", stage.from);
            return Err(DockerfileError::new(stage.line, what)
                .hint("give its variable a value: --build-arg NAME=VALUE"));
        }
        if image == "scratch" {
            let what = "`FROM scratch`: a builder needs something to boot";
            return Err(DockerfileError::new(stage.line, what)
                .hint("begin with a small image, such as `debian-minimal`"));
        }
        let lower = image.to_ascii_lowercase();
        let earlier = file.stages[..at]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(&lower));
        froms.push(earlier.map_or(Base::Image(image), Base::Stage));
    }
    let target = match &options.target {
        None => file.stages.len() - 1,
        Some(name) => stage_called(file, file.stages.len(), name).ok_or_else(|| {
            let shown: String = name.chars().take(60).collect();
            let named = file.stages.iter().filter_map(|stage| stage.name.as_deref());
            let named: Vec<&str> = named.collect();
            let hint = match named.is_empty() {
                true => "no stage has a name; they are counted from 0".to_owned(),
                false => format!("stages: {}", named.join(", ")),
            };
            DockerfileError::new(1, format!("there is no stage `{shown}`")).hint(hint)
        })?,
    };
    let mut needed = BTreeSet::new();
    let mut waiting = vec![target];
    while let Some(at) = waiting.pop() {
        if !needed.insert(at) {
            continue;
        }
        if let Base::Stage(base) = froms[at] {
            waiting.push(base);
        }
        for source in copied_from(file, at, &file.stages[at]) {
            if let Base::Stage(stage) = source {
                waiting.push(stage);
            }
        }
    }
    Ok((froms, needed))
}

/// A stage before `before`, by name or number.
fn stage_called(file: &Dockerfile, before: usize, name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let stages = &file.stages[..before];
    let named = stages
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&lower));
    named.or_else(|| name.parse().ok().filter(|at| *at < before))
}

/// What a stage copies from.
fn copied_from(file: &Dockerfile, at: usize, stage: &RawStage) -> Vec<Base> {
    let flag = |written: &Written| match &written.what {
        What::Copy { flags, .. } => flags
            .iter()
            .find(|(name, _)| name == "from")
            .map(|(_, value)| value.clone()),
        _ => None,
    };
    let names = stage.instructions.iter().filter_map(flag);
    names
        .map(|name| match stage_called(file, at, &name) {
            Some(stage) => Base::Stage(stage),
            None => Base::Image(name),
        })
        .collect()
}

struct Planner<'a> {
    file: &'a Dockerfile,
    options: &'a PlanOptions,
    globals: BTreeMap<String, String>,
    stages: Vec<Stage>,
    /// Where a stage of the file is in the plan.
    place: BTreeMap<usize, usize>,
    /// Where an image that is only copied from is in the plan.
    images: BTreeMap<String, usize>,
    /// `ARG`s that were declared.
    used: BTreeSet<String>,
    notes: Vec<String>,
    config_of: &'a dyn Fn(&str) -> Config,
}

/// A stage as it comes to be.
struct Open {
    at: usize,
    steps: Vec<Step>,
    config: Config,
    args: BTreeMap<String, String>,
    shell: Vec<String>,
    /// `CMD` of the base counts no more once there is an `ENTRYPOINT`.
    own_cmd: bool,
}

impl Open {
    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.config.env.iter().find(|(known, _)| known == name);
        env.map(|(_, value)| value.clone())
            .or_else(|| self.args.get(name).cloned())
    }
}

impl Planner<'_> {
    fn stage(&mut self, at: usize, raw: &RawStage, from: &Base) -> Result<(), DockerfileError> {
        let (base, config) = match from {
            Base::Image(image) => (from.clone(), (self.config_of)(image)),
            Base::Stage(earlier) => {
                let place = self.place[earlier];
                (Base::Stage(place), self.stages[place].config.clone())
            }
        };
        let mut open = Open {
            at,
            steps: vec![],
            config,
            args: BTreeMap::new(),
            shell: vec!["/bin/sh".to_owned(), "-c".to_owned()],
            own_cmd: false,
        };
        for written in &raw.instructions {
            self.instruction(&mut open, written)?;
        }
        self.place.insert(at, self.stages.len());
        let number = at + 1;
        self.stages.push(Stage {
            base,
            name: raw.name.clone().unwrap_or(format!("stage {number}")),
            steps: open.steps,
            config: open.config,
        });
        Ok(())
    }

    fn instruction(&mut self, open: &mut Open, written: &Written) -> Result<(), DockerfileError> {
        let line = written.line;
        let escape = self.file.escape;
        let one = |open: &Open, text: &str| {
            words::word(text, escape, &|name| open.lookup(name)).map_err(wrong(line))
        };
        let many = |open: &Open, texts: &[String]| {
            let all = texts.iter().map(|text| one(open, text));
            all.collect::<Result<Vec<_>, _>>()
        };
        match &written.what {
            What::Arg(text) => self.arg(open, text, line)?,
            What::Env(text) => {
                // What one instruction sets counts from the next one on.
                for (name, value) in pairs(text, escape, line, &|name| open.lookup(name))? {
                    open.config.set_env(&name, value);
                }
            }
            What::Label(text) => {
                let pairs = pairs(text, escape, line, &|name| open.lookup(name))?;
                open.config.labels.extend(pairs);
            }
            What::Workdir(text) => {
                let path = absolute(open.config.folder(), &one(open, text)?);
                let path = match path.trim_end_matches('/') {
                    "" => "/".to_owned(),
                    path => path.to_owned(),
                };
                open.config.working_dir.clone_from(&path);
                open.steps.push(step(written, Action::Folder { path }));
            }
            What::User(text) => open.config.user = one(open, text)?,
            What::StopSignal(text) => open.config.stop_signal = one(open, text)?,
            What::Expose(ports) => {
                for port in many(open, ports)? {
                    let port = exposed(&port, line)?;
                    if !open.config.exposed_ports.contains(&port) {
                        open.config.exposed_ports.push(port);
                    }
                }
            }
            What::Volume(folders) => {
                for folder in many(open, folders)? {
                    if !open.config.volumes.contains(&folder) {
                        open.config.volumes.push(folder);
                    }
                }
                let note = "`VOLUME` is noted; a VM's disks keep what is in it anyway";
                self.note(note);
            }
            What::Shell(words) => {
                if words.is_empty() {
                    return Err(DockerfileError::new(line, "`SHELL` needs a program"));
                }
                open.shell.clone_from(words);
            }
            What::Cmd(form) => {
                open.config.cmd = argv(form, &open.shell);
                open.own_cmd = true;
            }
            What::Entrypoint(form) => {
                open.config.entrypoint = argv(form, &open.shell);
                if !open.own_cmd {
                    open.config.cmd.clear();
                }
            }
            What::Run { flags, command } => {
                if let Some((name, _)) = flags.first() {
                    let what = format!("`RUN --{name}` is not supported");
                    return Err(DockerfileError::new(line, what));
                }
                let run = self.run(open, command, line)?;
                open.steps.push(step(written, Action::Run(run)));
            }
            What::Copy {
                add,
                flags,
                sources,
                dest,
            } => {
                let copy = self.copy(open, line, *add, flags, sources, dest)?;
                open.steps.push(step(written, Action::Copy(copy)));
            }
            What::Noted(what) => self.note(&format!("`{what}` means nothing for a VM")),
        }
        Ok(())
    }

    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    fn arg(&mut self, open: &mut Open, text: &str, line: usize) -> Result<(), DockerfileError> {
        let mut known = open.args.clone();
        known.extend(open.config.env.iter().cloned());
        for (name, default) in assignments_of_arg(text, self.file.escape, line, &known)? {
            let given = self.options.args.get(&name).cloned();
            let value = given
                .or(default)
                .or_else(|| self.globals.get(&name).cloned());
            self.used.insert(name.clone());
            if let Some(value) = value {
                open.args.insert(name, value);
            }
        }
        Ok(())
    }

    fn run(&self, open: &Open, command: &Form, line: usize) -> Result<RunStep, DockerfileError> {
        let argv = argv(command, &open.shell);
        if argv.first().is_none_or(String::is_empty) {
            return Err(DockerfileError::new(line, "`RUN` needs a command"));
        }
        let in_env = |name: &str| open.config.env.iter().any(|(known, _)| known == name);
        let args = open.args.iter().filter(|(name, _)| !in_env(name));
        let args = args.map(|(name, value)| (name.clone(), value.clone()));
        let proxies = self.options.args.iter();
        let proxies = proxies.filter(|(name, _)| {
            PROXIES.contains(&name.as_str()) && !in_env(name) && !open.args.contains_key(*name)
        });
        Ok(RunStep {
            argv,
            env: args.chain(open.config.env.iter().cloned()).collect(),
            env_unkeyed: proxies
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            cwd: open.config.folder().to_owned(),
            user: user_of(&open.config.user, line)?,
            script: None,
        })
    }

    fn copy(
        &mut self,
        open: &Open,
        line: usize,
        add: bool,
        flags: &[(String, String)],
        sources: &[From],
        dest: &str,
    ) -> Result<CopyStep, DockerfileError> {
        let escape = self.file.escape;
        let one =
            |text: &str| words::word(text, escape, &|name| open.lookup(name)).map_err(wrong(line));
        let word = if add { "ADD" } else { "COPY" };
        let (mut from, mut chown, mut chmod) = (CopyFrom::Context, None, None);
        for (name, value) in flags {
            match name.as_str() {
                "from" if !add => {
                    let place = self.copied_stage(open, value, line)?;
                    from = CopyFrom::Stage(place);
                }
                "chown" => chown = Some(checked_owner(one(value)?, line)?),
                "chmod" => chmod = Some(mode(&one(value)?, line)?),
                "link" => {}
                other => {
                    let what = format!("`{word} --{other}` is not supported");
                    return Err(DockerfileError::new(line, what));
                }
            }
        }
        let dest = absolute(open.config.folder(), &one(dest)?);
        let (mut paths, mut inline) = (vec![], vec![]);
        for source in sources {
            match source {
                From::Path(path) => {
                    let path = one(path)?;
                    let remote = ["http://", "https://", "git@", "ftp://"];
                    if add && remote.iter().any(|scheme| path.starts_with(scheme)) {
                        return Err(
                            DockerfileError::new(line, "`ADD` of a URL is not supported")
                                .hint("fetch it with `RUN`, where it can also be checked"),
                        );
                    }
                    if path.is_empty() {
                        return Err(DockerfileError::new(line, "an empty path is copied"));
                    }
                    paths.push(absolute("/", &path));
                }
                From::Inline { content, expand } => {
                    let content = match expand {
                        true => expanded(content, &|name| open.lookup(name)),
                        false => content.clone(),
                    };
                    let name = dest.rsplit('/').next().unwrap_or_default();
                    if name.is_empty() {
                        let what = "a here-document needs the name of a file to go to";
                        return Err(DockerfileError::new(line, what));
                    }
                    inline.push((name.to_owned(), content));
                }
            }
        }
        if paths.len() + inline.len() > 1
            && (!dest.ends_with('/') || !inline.is_empty())
            && dest != "/"
        {
            let what = format!("several files are copied to `{dest}`, which is no folder");
            return Err(DockerfileError::new(line, what).hint("end it with a slash"));
        }
        Ok(CopyStep {
            from,
            sources: paths,
            inline,
            dest,
            chown,
            chmod,
            add,
        })
    }

    /// The stage of the plan that `--from` means; an image becomes one.
    fn copied_stage(
        &mut self,
        open: &Open,
        name: &str,
        line: usize,
    ) -> Result<usize, DockerfileError> {
        if name.is_empty() {
            return Err(DockerfileError::new(line, "`--from` names nothing"));
        }
        if let Some(at) = stage_called(self.file, open.at, name) {
            return Ok(self.place[&at]);
        }
        let later = stage_called(self.file, self.file.stages.len(), name);
        if later.is_some() || name.parse::<usize>().is_ok() {
            let what = format!("`--from={name}` is no stage before this one");
            return Err(DockerfileError::new(line, what));
        }
        if let Some(place) = self.images.get(name) {
            return Ok(*place);
        }
        self.stages.push(Stage {
            base: Base::Image(name.to_owned()),
            name: name.to_owned(),
            steps: vec![],
            config: (self.config_of)(name),
        });
        self.images.insert(name.to_owned(), self.stages.len() - 1);
        Ok(self.stages.len() - 1)
    }
}

fn step(written: &Written, action: Action) -> Step {
    Step {
        title: written.title.clone(),
        line: Some(written.line),
        action,
    }
}

fn argv(form: &Form, shell: &[String]) -> Vec<String> {
    match form {
        Form::Exec(words) => words.clone(),
        Form::Shell(text) if text.trim().is_empty() => vec![],
        Form::Shell(text) => shell.iter().cloned().chain([text.clone()]).collect(),
    }
}

/// `name=value…`, or the older `name value`.
fn pairs(
    text: &str,
    escape: char,
    line: usize,
    lookup: words::Lookup<'_>,
) -> Result<Vec<(String, String)>, DockerfileError> {
    let pieces = words::split(text, escape).map_err(wrong(line))?;
    let Some(first) = pieces.first() else {
        return Err(DockerfileError::new(line, "nothing is set"));
    };
    if !first.contains('=') {
        let rest = text.trim_start();
        let rest = rest.get(first.len()..).unwrap_or_default().trim();
        if rest.is_empty() {
            let what = format!("`{}` is given no value", first.escape_debug());
            return Err(DockerfileError::new(line, what));
        }
        let value = words::word(rest, escape, lookup).map_err(wrong(line))?;
        return Ok(vec![(checked_name(first.clone(), line)?, value)]);
    }
    let mut all = vec![];
    for piece in pieces {
        let Some((name, value)) = piece.split_once('=') else {
            let what = format!("`{}` is no `name=value`", piece.escape_debug());
            return Err(DockerfileError::new(line, what));
        };
        let name = words::word(name, escape, lookup).map_err(wrong(line))?;
        let value = words::word(value, escape, lookup).map_err(wrong(line))?;
        all.push((checked_name(name, line)?, value));
    }
    Ok(all)
}

/// Variables of a here-document; quotes are nothing special in it.
fn expanded(text: &str, lookup: words::Lookup<'_>) -> String {
    let line = |line: &str| {
        let escaped = line.replace('"', "\\\"");
        let quoted = format!("\"{escaped}\"");
        words::word(&quoted, '\\', lookup).unwrap_or_else(|_| line.to_owned())
    };
    let mut out: String = text.lines().map(|text| line(text) + "\n").collect();
    if !text.ends_with('\n') {
        out.pop();
    }
    out
}

fn exposed(text: &str, line: usize) -> Result<String, DockerfileError> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let fits = match ports.split_once('-') {
        Some((from, to)) => is_port(from) && is_port(to),
        None => is_port(ports),
    };
    let protocol = protocol.to_ascii_lowercase();
    if !fits || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        let what = format!("`{}` is no port", text.escape_debug());
        return Err(
            DockerfileError::new(line, what).hint("write it as `80`, `80/tcp` or `8000-8010/udp`")
        );
    }
    Ok(format!("{ports}/{protocol}"))
}

fn user_of(user: &str, line: usize) -> Result<Option<String>, DockerfileError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    match (name, group) {
        ("" | "root" | "0", "" | "root" | "0") => Ok(None),
        (_, "") => Ok(Some(name.to_owned())),
        _ => Err(DockerfileError::new(
            line,
            format!("`RUN` as `{user}`: a group of its own is not supported"),
        )
        .hint("`USER` with a name takes the user's groups")),
    }
}

fn checked_owner(owner: String, line: usize) -> Result<String, DockerfileError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    let parts = owner.split(':').count();
    if owner.is_empty() || owner == ":" || parts > 2 || owner.contains(bad) {
        let what = format!("`{}` is no owner", owner.escape_debug());
        return Err(DockerfileError::new(line, what).hint("write it as `user` or `user:group`"));
    }
    Ok(owner)
}

fn mode(text: &str, line: usize) -> Result<u16, DockerfileError> {
    let parsed = u16::from_str_radix(text, 8).ok();
    parsed.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
        let what = format!("`{}` is no octal mode", text.escape_debug());
        DockerfileError::new(line, what)
    })
}

#[cfg(test)]
mod tests;
