//! Requests as values: what is sent can be looked at before anything is.

use http::Method;
use serde::Serialize;

use super::api::{
    Action, Balloon, BalloonStatsUpdate, BalloonUpdate, BootSource, Drive, Entropy, Logger,
    MachineConfig, Metrics, NetworkInterface, Serial, SnapshotCreate, SnapshotLoad, VmStateChange,
    Vsock,
};

/// Something that Firecracker is told to do. Each answers with `204` and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the body of the same name")]
pub enum Request {
    MachineConfig(MachineConfig),
    BootSource(BootSource),
    Drive(Drive),
    NetworkInterface(NetworkInterface),
    Vsock(Vsock),
    Entropy(Entropy),
    Serial(Serial),
    Balloon(Balloon),
    BalloonUpdate(BalloonUpdate),
    BalloonStatsUpdate(BalloonStatsUpdate),
    Metrics(Metrics),
    Logger(Logger),
    Action(Action),
    VmStateChange(VmStateChange),
    SnapshotCreate(SnapshotCreate),
    SnapshotLoad(SnapshotLoad),
}

impl Request {
    /// `PUT` or `PATCH`.
    #[must_use]
    pub const fn method(&self) -> Method {
        match self {
            Self::BalloonUpdate(_) | Self::BalloonStatsUpdate(_) | Self::VmStateChange(_) => {
                Method::PATCH
            }
            _ => Method::PUT,
        }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::MachineConfig(_) => "/machine-config".into(),
            Self::BootSource(_) => "/boot-source".into(),
            Self::Drive(drive) => format!("/drives/{}", drive.drive_id),
            Self::NetworkInterface(interface) => {
                format!("/network-interfaces/{}", interface.iface_id)
            }
            Self::Vsock(_) => "/vsock".into(),
            Self::Entropy(_) => "/entropy".into(),
            Self::Serial(_) => "/serial".into(),
            Self::Balloon(_) | Self::BalloonUpdate(_) => "/balloon".into(),
            Self::BalloonStatsUpdate(_) => "/balloon/statistics".into(),
            Self::Metrics(_) => "/metrics".into(),
            Self::Logger(_) => "/logger".into(),
            Self::Action(_) => "/actions".into(),
            Self::VmStateChange(_) => "/vm".into(),
            Self::SnapshotCreate(_) => "/snapshot/create".into(),
            Self::SnapshotLoad(_) => "/snapshot/load".into(),
        }
    }

    /// The JSON.
    ///
    /// # Errors
    /// serde's; there is none that these types can give.
    pub fn body(&self) -> serde_json::Result<Vec<u8>> {
        fn json(body: &impl Serialize) -> serde_json::Result<Vec<u8>> {
            serde_json::to_vec(body)
        }
        match self {
            Self::MachineConfig(body) => json(body),
            Self::BootSource(body) => json(body),
            Self::Drive(body) => json(body),
            Self::NetworkInterface(body) => json(body),
            Self::Vsock(body) => json(body),
            Self::Entropy(body) => json(body),
            Self::Serial(body) => json(body),
            Self::Balloon(body) => json(body),
            Self::BalloonUpdate(body) => json(body),
            Self::BalloonStatsUpdate(body) => json(body),
            Self::Metrics(body) => json(body),
            Self::Logger(body) => json(body),
            Self::Action(body) => json(body),
            Self::VmStateChange(body) => json(body),
            Self::SnapshotCreate(body) => json(body),
            Self::SnapshotLoad(body) => json(body),
        }
    }

    /// Method and path, for people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.method(), self.path())
    }
}
