//! A Dockerfile as written: stages and instructions with their lines, nothing replaced yet.

use banger_core::nearest;
use parse_dockerfile::{
    Command as ParsedCommand, Flag, HereDoc, Instruction, JsonOrStringArray, Source, Span,
};

/// The instructions that a Dockerfile may have.
const KNOWN: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
/// The most that a title shows of an instruction, in characters.
const TITLE: usize = 100;
/// The largest Dockerfile, in bytes.
const LARGEST: usize = 1 << 20;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct DockerfileError {
    /// From 1 on.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl DockerfileError {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) escape: char,
    /// `ARG`s before the first stage.
    pub(crate) globals: Vec<(usize, String)>,
    pub(crate) stages: Vec<RawStage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawStage {
    pub(crate) line: usize,
    pub(crate) from: String,
    pub(crate) name: Option<String>,
    pub(crate) instructions: Vec<Written>,
}

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) line: usize,
    pub(crate) title: String,
    pub(crate) what: What,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    Exec(Vec<String>),
    Shell(String),
}

/// A source of `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    Path(String),
    Inline { content: String, expand: bool },
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Arg(String),
    Env(String),
    Label(String),
    Workdir(String),
    User(String),
    StopSignal(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    Shell(Vec<String>),
    Cmd(Form),
    Entrypoint(Form),
    Run {
        flags: Vec<(String, String)>,
        command: Form,
    },
    Copy {
        add: bool,
        flags: Vec<(String, String)>,
        sources: Vec<From>,
        dest: String,
    },
    /// It means nothing for a VM.
    Noted(&'static str),
}

/// Lines and columns of a text.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.0.as_bytes().get(..at).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The instruction that begins there, shortened.
    fn title(&self, at: usize) -> String {
        let rest = self.0.get(at..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default().trim_end();
        let first = line.trim_end_matches(['\\', '`']);
        let joined = first.split_whitespace().collect::<Vec<_>>().join(" ");
        let printable = joined.chars().filter(|c| !c.is_control());
        let mut title: String = printable.clone().take(TITLE).collect();
        if printable.count() > TITLE || first != line {
            title.push('…');
        }
        title
    }
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// It is none, with the line that is wrong.
    pub fn parse(text: &str) -> Result<Self, DockerfileError> {
        if text.len() > LARGEST {
            let what = format!("a Dockerfile of more than {LARGEST} bytes is not read");
            return Err(DockerfileError::new(1, what));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = parse_dockerfile::parse(text).map_err(|error| told(text, &error))?;
        let escape = parsed
            .parser_directives
            .escape
            .as_ref()
            .map_or('\\', |directive| directive.value.value);
        let at = Text(text);
        let globals = parsed
            .global_args()
            .map(|arg| (at.line(arg.arg.span.start), arg.arguments.value.to_string()))
            .collect();
        let stages = parsed
            .stages()
            .map(|stage| raw_stage(&at, escape, &stage))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            escape,
            globals,
            stages,
        })
    }
}

fn told(text: &str, error: &parse_dockerfile::Error) -> DockerfileError {
    let line = error.line().max(1);
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let word = written.split_whitespace().next().unwrap_or_default();
    let upper = word.to_ascii_uppercase();
    let shown: String = word.chars().take(40).flat_map(char::escape_debug).collect();
    if error.line() > 0 && !word.is_empty() && !KNOWN.contains(&upper.as_str()) {
        let unknown = DockerfileError::new(line, format!("unknown instruction `{shown}`"));
        let letters = |word: &str| {
            let mut letters: Vec<char> = word.chars().collect();
            letters.sort_unstable();
            letters
        };
        let swapped = KNOWN.iter().find(|known| letters(known) == letters(&upper));
        return match swapped
            .copied()
            .or_else(|| nearest(&upper, KNOWN.iter().copied()))
        {
            Some(near) => unknown.hint(format!("did you mean `{near}`?")),
            None => unknown.hint(format!("instructions: {}", KNOWN.join(", "))),
        };
    }
    DockerfileError::new(line, format!("{error:#}"))
}

fn raw_stage(
    at: &Text<'_>,
    escape: char,
    stage: &parse_dockerfile::Stage<'_, '_>,
) -> Result<RawStage, DockerfileError> {
    let line = at.line(stage.from.from.span.start);
    for (name, value) in flags(&stage.from.options) {
        match (name.as_str(), value.as_str()) {
            (
                "platform",
                "" | "linux/amd64" | "$BUILDPLATFORM" | "$TARGETPLATFORM" | "${BUILDPLATFORM}"
                | "${TARGETPLATFORM}",
            ) => {}
            ("platform", other) => {
                let what = format!("the platform `{other}` is not this machine's, linux/amd64");
                return Err(DockerfileError::new(line, what));
            }
            (other, _) => {
                return Err(DockerfileError::new(
                    line,
                    format!("`FROM` has no option `--{other}`"),
                ));
            }
        }
    }
    let mut instructions = vec![];
    for instruction in stage.instructions {
        instructions.push(written(at, escape, instruction)?);
    }
    Ok(RawStage {
        line,
        from: stage.from.image.value.to_string(),
        name: stage
            .from
            .as_
            .as_ref()
            .map(|(_, name)| name.value.to_ascii_lowercase()),
        instructions,
    })
}

fn flags(flags: &[Flag<'_>]) -> Vec<(String, String)> {
    let pair = |flag: &Flag<'_>| {
        let value = flag.value.as_ref().map(|value| value.value.to_string());
        (flag.name.value.to_string(), value.unwrap_or_default())
    };
    flags.iter().map(pair).collect()
}

/// Joins lines as Docker does: an escape at a line's end, and comment lines in between, go away.
fn joined(text: &str, escape: char) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        let bare = line.trim_end();
        if inside && (bare.trim_start().starts_with('#') || bare.trim_start().is_empty()) {
            continue;
        }
        match bare.strip_suffix(escape) {
            Some(rest) => {
                out.push_str(rest);
                inside = true;
            }
            None => {
                out.push_str(line);
                return out;
            }
        }
    }
    out
}

fn form(command: &ParsedCommand<'_>, escape: char) -> Form {
    match command {
        ParsedCommand::Exec(words) => {
            Form::Exec(words.value.iter().map(|w| w.value.to_string()).collect())
        }
        ParsedCommand::Shell(text) => Form::Shell(joined(text.value, escape)),
        _ => Form::Exec(vec![]),
    }
}

/// A here-document as a command: its own interpreter, or all of it as the shell's script.
fn with_document(command: Form, documents: &[HereDoc<'_>]) -> Result<Form, &'static str> {
    match (command, documents) {
        (command, []) => Ok(command),
        (Form::Shell(rest), [document]) if rest.trim().is_empty() => {
            Ok(Form::Shell(document.value.to_string()))
        }
        _ => Err("a here-document after `RUN` stands alone: `RUN <<EOF`"),
    }
}

fn written(
    at: &Text<'_>,
    escape: char,
    instruction: &Instruction<'_>,
) -> Result<Written, DockerfileError> {
    let text = |value: &parse_dockerfile::UnescapedString<'_>| value.value.to_string();
    let (span, what): (&Span, What) = match instruction {
        Instruction::Arg(i) => (&i.arg.span, What::Arg(text(&i.arguments))),
        Instruction::Env(i) => (&i.env.span, What::Env(text(&i.arguments))),
        Instruction::Label(i) => (&i.label.span, What::Label(text(&i.arguments))),
        Instruction::Workdir(i) => (&i.workdir.span, What::Workdir(text(&i.arguments))),
        Instruction::User(i) => (&i.user.span, What::User(text(&i.arguments))),
        Instruction::Stopsignal(i) => (&i.stopsignal.span, What::StopSignal(text(&i.arguments))),
        Instruction::Expose(i) => {
            let ports = i.arguments.iter().map(text).collect();
            (&i.expose.span, What::Expose(ports))
        }
        Instruction::Volume(i) => {
            let folders = match &i.arguments {
                JsonOrStringArray::Json(all) => all.value.iter().map(text).collect(),
                JsonOrStringArray::String(all) => all.iter().map(text).collect(),
            };
            (&i.volume.span, What::Volume(folders))
        }
        Instruction::Shell(i) => {
            let words = i.arguments.iter().map(text).collect();
            (&i.shell.span, What::Shell(words))
        }
        Instruction::Cmd(i) => (&i.cmd.span, What::Cmd(form(&i.arguments, escape))),
        Instruction::Entrypoint(i) => {
            let form = form(&i.arguments, escape);
            (&i.entrypoint.span, What::Entrypoint(form))
        }
        Instruction::Run(i) => {
            let command = with_document(form(&i.arguments, escape), &i.here_docs);
            let line = at.line(i.run.span.start);
            let command = command.map_err(|what| DockerfileError::new(line, what))?;
            let flags = flags(&i.options);
            (&i.run.span, What::Run { flags, command })
        }
        Instruction::Copy(i) => (&i.copy.span, copy(false, &i.options, &i.src, text(&i.dest))),
        Instruction::Add(i) => (&i.add.span, copy(true, &i.options, &i.src, text(&i.dest))),
        Instruction::Healthcheck(i) => (&i.healthcheck.span, What::Noted("HEALTHCHECK")),
        Instruction::Maintainer(i) => (&i.maintainer.span, What::Noted("MAINTAINER")),
        Instruction::Onbuild(i) => {
            let line = at.line(i.onbuild.span.start);
            return Err(DockerfileError::new(line, "`ONBUILD` is not supported")
                .hint("write the instruction into the Dockerfiles that need it"));
        }
        Instruction::From(i) => {
            return Err(DockerfileError::new(
                at.line(i.from.span.start),
                "`FROM` within a stage",
            ));
        }
        _ => {
            return Err(DockerfileError::new(
                1,
                "an instruction that is not supported",
            ));
        }
    };
    Ok(Written {
        line: at.line(span.start),
        title: at.title(span.start),
        what,
    })
}

fn copy(add: bool, options: &[Flag<'_>], sources: &[Source<'_>], dest: String) -> What {
    let source = |source: &Source<'_>| match source {
        Source::HereDoc(document) => From::Inline {
            content: document.value.to_string(),
            expand: document.expand,
        },
        Source::Path(path) => From::Path(path.value.to_string()),
        _ => From::Path(String::new()),
    };
    What::Copy {
        add,
        flags: flags(options),
        sources: sources.iter().map(source).collect(),
        dest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> DockerfileError {
        Dockerfile::parse(text).unwrap_err()
    }

    #[test]
    fn an_unknown_instruction_is_told_with_its_line_and_what_was_meant() {
        let wrong = error("FROM a\n\nRNU echo\n");
        assert_eq!(wrong.to_string(), "line 3: unknown instruction `RNU`");
        assert_eq!(wrong.hint.as_deref(), Some("did you mean `RUN`?"));
        assert!(error("FROM a\nzzz\n").hint.unwrap().contains("WORKDIR"));
    }

    #[test]
    fn what_is_missing_is_told_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("# nothing\n", 1),
            ("RUN echo\n", 1),
            ("FROM a\nCOPY x\n", 2),
            ("FROM a\nENV\n", 2),
            ("FROM a AS b\nFROM c AS b\n", 2),
            ("FROM a\nONBUILD RUN x\n", 2),
            ("FROM --platform=linux/arm64 a\n", 1),
            ("FROM a\nRUN <<EOF\nnever ends\n", 4),
        ] {
            assert_eq!(error(text).line, line, "{text:?}: {}", error(text));
        }
    }

    #[test]
    fn continued_lines_are_joined_without_their_comments() {
        let file = Dockerfile::parse(
            "FROM a\nRUN apt-get install \\\n    # why\n    one \\\n\n    two && \\\n  three\nRUN <<EOF\nset -e\necho $A\nEOF\n",
        )
        .unwrap();
        let run = |at: usize| match &file.stages[0].instructions[at].what {
            What::Run {
                command: Form::Shell(text),
                ..
            } => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(run(0), "apt-get install     one     two &&   three");
        assert_eq!(run(1), "set -e\necho $A\n");
        assert_eq!(file.stages[0].instructions[1].line, 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn nothing_panics(
            lines in proptest::collection::vec(
                "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|USER|CMD|SHELL|VOLUME|EXPOSE|RNU|#|)( |\\[|\"|\\\\|<<E|--from=|\\$\\{|')?[\\PC\\\\\"\\[\\],<E]{0,12}",
                0..8
            ),
            newline in "(\n|\r\n|\\\\\n)"
        ) {
            let _ = Dockerfile::parse(&lines.join(&newline));
        }

        #[test]
        fn no_text_panics(text in "(?s).{0,200}") {
            let _ = Dockerfile::parse(&text);
        }
    }
}
