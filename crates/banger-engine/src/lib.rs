//! The heart: VM actors, plans, executor, reconcile. It knows ports (traits), not adapters.
//!
//! A request becomes a *wish* in the queue of the VM's actor, the one task that owns the VM's phase.
//! The actor asks [`plan`] what to do, has [`execute`] do it step by step, and publishes a view.

mod actor;
mod admission;
mod change;
mod database;
mod engine;
mod execute;
mod guest_wait;
mod helper_wait;
mod inner;
mod lockup;
mod names;
mod namesake;
mod operation;
mod pausing;
mod plan;
mod planted;
pub mod ports;
mod reconcile;
mod resume;
mod space;
mod step;
mod stored;
mod view;

pub use database::open_failure;
pub use engine::{CreateVm, Engine, EngineConfig, Ports};
pub use lockup::locked_up;
pub use operation::{
    AtWork, Goal, OpKind, OpState, OperationView, StageStatus, StageView, TaskContext,
};
pub use pausing::PauseReason;
pub use plan::{plan_delete, plan_set, plan_start, plan_teardown};
pub use reconcile::ReconcileReport;
pub use step::Step;
pub use view::VmView;
