//! Building images on top of other ones: the plan is made first, then each stage's steps are done in a builder, a VM
//! of the build's own. What a step has made is kept in the cache; the last state becomes the image.

mod bases;
mod builder;
mod copying;
mod log;
mod run;
mod waiting;

use std::collections::BTreeMap;
use std::path::PathBuf;

use banger_api::{BuildOnRequest, BuildSource};
use banger_build::context::Context;
use banger_build::ignore::Ignore;
use banger_build::plan::{PlanOptions, bases as bases_of, plan};
use banger_build::{Base, Dockerfile, DockerfileError, Plan, Provision, Stage};
use banger_core::{ByteSize, ErrorCode, ImageName};
use banger_engine::TaskContext;
use banger_engine::ports::{Failure, Progress as _};

use crate::state::Shared;

pub(crate) use builder::remove_builders;
pub(crate) use waiting::Waiting;

/// A build whose request makes sense.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) name: ImageName,
    what: What,
    size: Option<ByteSize>,
    no_cache: bool,
    interactive: bool,
    enter_on_failure: bool,
}

#[derive(Debug)]
enum What {
    Image {
        from: String,
        provision: Provision,
    },
    Dockerfile {
        file: Dockerfile,
        options: PlanOptions,
        context: Context,
    },
}

fn invalid(what: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, what)
}

fn cancelled() -> Failure {
    Failure::new(ErrorCode::Cancelled, "the build was cancelled")
}

fn still_wanted(context: &TaskContext) -> Result<(), Failure> {
    match context.cancelled() {
        true => Err(cancelled()),
        false => Ok(()),
    }
}

/// What is wrong in a Dockerfile.
fn in_dockerfile(error: &DockerfileError) -> Failure {
    let failure = Failure::because(
        ErrorCode::InvalidArgument,
        "the Dockerfile cannot be built",
        error,
    );
    match &error.hint {
        Some(hint) => failure.hint(hint.clone()),
        None => failure,
    }
}

impl Order {
    /// Checks a request as far as that goes without doing anything.
    pub(crate) fn of(request: BuildOnRequest) -> Result<Self, Failure> {
        let what = match request.source {
            BuildSource::Image {
                from,
                packages,
                tools,
                script,
            } => {
                let provision = Provision {
                    packages: parsed(&packages)?,
                    tools: parsed(&tools)?,
                    script: script.map(|script| (script.name, script.content)),
                };
                if provision.is_empty() && !request.interactive {
                    return Err(invalid("nothing is to be done").hint(
                        "give it --packages, --with, --script, --interactive or a Dockerfile",
                    ));
                }
                What::Image { from, provision }
            }
            BuildSource::Dockerfile {
                text,
                context,
                ignore,
                args,
                target,
            } => {
                let context = PathBuf::from(context);
                if !context.is_absolute() || !context.is_dir() {
                    let what = format!("the context `{}` is no folder", context.display());
                    return Err(invalid(what));
                }
                let ignore = Ignore::parse(&ignore.unwrap_or_default())
                    .map_err(|error| invalid(error.to_string()))?;
                What::Dockerfile {
                    file: Dockerfile::parse(&text).map_err(|error| in_dockerfile(&error))?,
                    options: PlanOptions { args, target },
                    context: Context::new(context, ignore),
                }
            }
        };
        // What cannot be planned is told at once: that needs no image.
        if let What::Dockerfile { file, options, .. } = &what {
            let nothing = |_: &str| banger_build::Config::default();
            plan(file, options, &nothing).map_err(|error| in_dockerfile(&error))?;
        }
        Ok(Self {
            name: request.name,
            what,
            size: request.size.map(ByteSize),
            no_cache: request.no_cache,
            interactive: request.interactive,
            enter_on_failure: request.enter_on_failure,
        })
    }

    /// The images that it begins with, as written.
    fn bases(&self) -> Result<Vec<String>, Failure> {
        match &self.what {
            What::Image { from, .. } => Ok(vec![from.clone()]),
            What::Dockerfile { file, options, .. } => {
                bases_of(file, options).map_err(|error| in_dockerfile(&error))
            }
        }
    }

    fn plan(&self, bases: &BTreeMap<String, bases::BaseImage>) -> Result<Plan, Failure> {
        let config_of = |image: &str| {
            let base = bases.get(image);
            base.map(|base| base.config.clone()).unwrap_or_default()
        };
        match &self.what {
            What::Image { from, provision } => Ok(Plan {
                stages: vec![Stage {
                    base: Base::Image(from.clone()),
                    name: from.clone(),
                    steps: provision.steps(),
                    config: config_of(from),
                }],
                notes: vec![],
            }),
            What::Dockerfile { file, options, .. } => {
                plan(file, options, &config_of).map_err(|error| in_dockerfile(&error))
            }
        }
    }

    fn context(&self) -> Option<&Context> {
        match &self.what {
            What::Image { .. } => None,
            What::Dockerfile { context, .. } => Some(context),
        }
    }
}

fn parsed<T: std::str::FromStr>(texts: &[String]) -> Result<Vec<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    let one = |text: &String| {
        text.parse::<T>()
            .map_err(|error: T::Err| invalid(error.to_string()))
    };
    texts.iter().map(one).collect()
}

/// Builds it. Whatever happens, no builder is left.
pub(crate) async fn build(
    state: Shared,
    order: Order,
    context: TaskContext,
) -> Result<(), Failure> {
    let _alone = state.waiting.begin(&order.name)?;
    let log_path = state.build_log(&format!("build-{}", order.name));
    let log = log::Log::create(&log_path).map_err(|error| {
        Failure::because(ErrorCode::Internal, "the log cannot be written", &error)
    })?;
    let mut build = run::Build::new(&state, &order, &context, &log)?;
    let done = build.run().await;
    build.clear().await;
    done.map_err(|mut failure| {
        log.line(&format!("failed: {failure}"));
        for cause in &failure.causes {
            log.line(&format!("  {cause}"));
        }
        if failure.code != ErrorCode::Cancelled {
            failure
                .hints
                .push(format!("the log: {}", log_path.display()));
            if !order.enter_on_failure && failure.code == ErrorCode::ImageBuildFailed {
                let hint = "`--enter-on-failure` gives you a shell where it failed";
                failure.hints.push(hint.to_owned());
            }
        }
        failure
    })
}
