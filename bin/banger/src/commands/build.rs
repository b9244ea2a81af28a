//! `image build`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use banger_api::{BuildOnRequest, BuildScript, BuildSource, Stage};
use banger_client::Client;
use banger_core::{ErrorCode, ImageName};
use banger_guest_proto::ExecRequest;

use super::exec::in_guest;
use super::{CommandResult, Context, image};
use crate::cli::BuildArgs;
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::operation::{OnInterrupt, follow_and};
use crate::start::Needs;

fn invalid(what: impl Into<String>) -> CommandError {
    CommandError::new(ErrorCode::InvalidArgument, what)
}

fn read(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorCode::FileNotFound,
            _ => ErrorCode::InvalidArgument,
        };
        CommandError::because(code, format!("{} cannot be read", path.display()), &error)
    })
}

/// `image build`.
pub(crate) async fn build(context: &Context<'_>, mut args: BuildArgs) -> CommandResult {
    let name = settle_names(&mut args)?;
    let has_dockerfile = args.file.is_some() || args.context.is_some();
    let name = match &name {
        Some(name) if has_dockerfile || args.from.is_some() => name.clone(),
        name => {
            let asked = [
                (args.size.is_some(), "--size"),
                (args.no_cache, "--no-cache"),
                (args.interactive, "--interactive"),
                (args.enter_on_failure, "--enter-on-failure"),
                (!args.build_arg.is_empty(), "--build-arg"),
                (args.target.is_some(), "--target"),
            ];
            if let Some((_, flag)) = asked.into_iter().find(|(given, _)| *given) {
                let what = format!("{flag} needs --from IMAGE or a Dockerfile");
                return Err(invalid(what).hint("`banger image build NAME -f Dockerfile .`"));
            }
            return image::build_recipe(context, name.clone(), args.force).await;
        }
    };
    let can_enter = rustix::termios::isatty(rustix::stdio::stdin());
    if (args.interactive || args.enter_on_failure) && !can_enter {
        return Err(invalid("a shell needs a terminal, and there is none"));
    }
    let source = match args.from.clone() {
        Some(from) => on_image(&args, from)?,
        None => dockerfile(&args)?,
    };
    let request = BuildOnRequest {
        name: name.clone(),
        source,
        size: args.size.map(|size| size.0),
        no_cache: args.no_cache,
        interactive: args.interactive,
        enter_on_failure: args.enter_on_failure,
    };
    let client = context.client(Needs::Helper).await?;
    let mut interrupts = Interrupts::watch()?;
    let operation = client.build_on(&request).await?;
    let enter = async |stage: &Stage| enter(context, &client, &operation.id, stage).await;
    let ui = context.ui;
    let cancel = OnInterrupt::Cancel;
    follow_and(ui, &client, &operation, &mut interrupts, cancel, enter).await?;
    show(context, &client, &name).await
}

/// The image's name, wherever it was given; what stands in its place beside `--name` is the folder.
fn settle_names(args: &mut BuildArgs) -> Result<Option<ImageName>, CommandError> {
    let Some(named) = args.named.take() else {
        let name = args.name.take();
        let parsed = name.map(|name| name.parse()).transpose();
        return parsed.map_err(|error: banger_core::ParseNameError| invalid(error.to_string()));
    };
    if let Some(place) = args.name.take() {
        if args.context.is_some() || args.from.is_some() || args.force {
            return Err(invalid(format!(
                "the image is named twice, or `{place}` has no place here"
            ))
            .hint("give its name first, or with --name"));
        }
        args.context = Some(PathBuf::from(place));
    }
    Ok(Some(named))
}

async fn show(context: &Context<'_>, client: &Client, name: &ImageName) -> CommandResult {
    let image = client.image(name.as_str()).await?;
    context.ui.result(&image, |image| {
        let digest = image.digest.get(..12).unwrap_or_default();
        format!("{name} {digest}\n  run it: banger vm run --image {name}")
    });
    Ok(0)
}

/// A shell in the builder, and then what becomes of it.
async fn enter(
    context: &Context<'_>,
    client: &Client,
    operation: &str,
    stage: &Stage,
) -> Result<(), CommandError> {
    let vm = stage.detail.clone().unwrap_or_default();
    let has_failed = stage.key == "enter-failed";
    let what = match has_failed {
        true => format!("{}; what you do in it makes no image", stage.title),
        false => "what is there when you leave is the image".to_owned(),
    };
    context.ui.note(&format!("a shell in {vm}: {what}"));
    let code = in_guest(client, &vm, ExecRequest::default(), true).await;
    // Whatever became of the shell, the build does not wait for ever. Its code is often that of its last command.
    let keep = match code {
        _ if has_failed => false,
        Ok(0) => true,
        Ok(code) => {
            let question = format!("The shell ended with {code}. Keep what is there?");
            context.ui.confirm(&question).unwrap_or(false)
        }
        Err(_) => false,
    };
    client.go_on(operation, keep).await?;
    code.map(drop)
}

fn on_image(args: &BuildArgs, from: String) -> Result<BuildSource, CommandError> {
    let mut packages = vec![];
    for package in &args.packages {
        match package.strip_prefix('@') {
            None => packages.push(package.clone()),
            Some(file) => {
                let text = read(Path::new(file))?;
                let lines = text.lines().map(str::trim);
                let names = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
                packages.extend(names.map(str::to_owned));
            }
        }
    }
    let docker = args.docker.then(|| "docker".to_owned());
    let script = match &args.script {
        None => None,
        Some(path) => Some(BuildScript {
            name: path.display().to_string(),
            content: read(path)?,
        }),
    };
    Ok(BuildSource::Image {
        from,
        packages,
        tools: docker
            .into_iter()
            .chain(args.with.iter().cloned())
            .collect(),
        script,
    })
}

fn dockerfile(args: &BuildArgs) -> Result<BuildSource, CommandError> {
    let context = args.context.clone().unwrap_or_else(|| PathBuf::from("."));
    let file = match &args.file {
        Some(file) => file.clone(),
        None => context.join("Dockerfile"),
    };
    let text = read(&file)?;
    // One beside the Dockerfile counts before the context's.
    let own = file.with_file_name(format!(
        "{}.dockerignore",
        file.file_name().unwrap_or_default().display()
    ));
    let ignore = [own, context.join(".dockerignore")];
    let ignore = ignore.iter().find(|path| path.exists());
    Ok(BuildSource::Dockerfile {
        text,
        ignore: ignore.map(|path| read(path)).transpose()?,
        context: image::absolute(context)?,
        args: arguments(&args.build_arg, |name| std::env::var(name).ok())?,
        target: args.target.clone(),
    })
}

/// `NAME=VALUE`; a name alone is looked up, and left out when it is not set.
fn arguments(
    given: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, CommandError> {
    let mut all = BTreeMap::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), lookup(text)),
        };
        if name.is_empty() {
            return Err(invalid(format!("--build-arg `{text}` has no name")));
        }
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Alone {
        #[command(flatten)]
        args: BuildArgs,
    }

    #[test]
    fn a_name_is_taken_first_or_as_a_flag() {
        let settled = |line: &str| {
            let words = std::iter::once("build").chain(line.split_whitespace());
            let mut args = <Alone as clap::Parser>::try_parse_from(words).ok()?.args;
            let name = settle_names(&mut args).ok()?;
            let place = args.context.map(|path| path.display().to_string());
            Some((name.map(|name| name.to_string()), place))
        };
        let some = |text: &str| Some(text.to_owned());
        for (line, expected) in [
            ("", Some((None, None))),
            ("app", Some((some("app"), None))),
            ("app .", Some((some("app"), some(".")))),
            ("--name app .", Some((some("app"), some(".")))),
            (
                "--name app --from-image base --docker",
                Some((some("app"), None)),
            ),
            ("--name app -f File", Some((some("app"), None))),
            ("--name app other .", None),
            ("--name app other --from base", None),
            ("app . --from base", None),
            ("Bad_Name", None),
            ("--name Bad_Name", None),
            ("--from base", None),
        ] {
            assert_eq!(settled(line), expected, "{line}");
        }
    }

    #[test]
    fn arguments_have_values_or_those_of_the_environment() {
        let given = ["A=1", "B=", "C", "D", "E=x=y"].map(str::to_owned);
        let lookup = |name: &str| (name == "C").then(|| "3".to_owned());
        let all = arguments(&given, lookup).unwrap();
        let all: Vec<(&str, &str)> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(all, [("A", "1"), ("B", ""), ("C", "3"), ("E", "x=y")]);
        assert!(arguments(&["=x".to_owned()], lookup).is_err());
    }
}
