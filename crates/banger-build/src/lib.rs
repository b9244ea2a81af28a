//! What an image build does, decided before anything runs: Dockerfiles and flags become stages of steps, each with
//! all that it depends on. Only [`context`] looks at files.

pub mod config;
pub mod context;
pub mod dockerfile;
pub mod ignore;
pub mod plan;
pub mod provision;
pub mod step;
mod words;

pub use config::Config;
pub use dockerfile::{Dockerfile, DockerfileError};
pub use plan::{Base, Plan, PlanOptions, Stage};
pub use provision::{Package, Provision, Tool};
pub use step::{Action, CopyFrom, CopyStep, Key, RunStep, Step};
