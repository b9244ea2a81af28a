//! The owner API: HTTP/1.1 and JSON on the owner's Unix socket, under `/v1`. Types only.
//!
//! Requests refuse unknown fields; replies may gain fields. Times are RFC 3339 strings in UTC.

mod catalog;
mod config;
mod error;
mod image;
mod kernel;
mod operation;
mod ports;
mod stats;
mod system;
mod vm;
mod workspace;

pub use catalog::{
    Availability, AvailableImage, AvailableKernel, CatalogView, PullFromCatalogRequest,
};
pub use config::{ConfigEntry, ConfigOrigin, ConfigView};
pub use error::ApiError;
pub use image::{
    BuildImageRequest, BuildOnRequest, BuildScript, BuildSource, Deleted, GoOnRequest, Image,
    ImageList, ImageRunConfig, PullImageRequest, RegisterImageRequest, WorkSeedOrigin,
};
pub use kernel::{ImportKernelRequest, Kernel, KernelList, KernelSource};
pub use operation::{
    AtWork, Operation, OperationEvent, OperationKind, OperationState, Stage, StageState,
};
pub use ports::{Port, PortList, PortProtocol};
pub use stats::{DiskFigures, FileSystemFigures, GuestFigures, HostFigures, StatsList, VmStats};
pub use system::{
    Check, CheckResult, Component, DaemonStatus, Doctor, EffectiveDefault, HelperStatus, Version,
};
pub use vm::{
    CONNECT_PROTOCOL, CreateVmRequest, DeleteQuery, KillVmRequest, LogQuery, Readiness,
    RestartVmRequest, RootFill, SetVmRequest, SpecLine, SshAccess, SshTarget, StopVmRequest, Vm,
    VmList, VmPaths,
};
pub use workspace::{UnpulledList, UnpulledWorkspace};

/// The version of the API in its paths.
pub const API_VERSION: u32 = 1;
