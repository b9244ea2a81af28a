//! A vsock device for one VM, as a vhost-user backend: the guest's side is the virtio socket device
//! (virtio 1.2, section 5.10), the host's side is Firecracker's Unix-socket convention. A host
//! program connects to the socket, writes `CONNECT <port>\n`, and reads `OK <host port>\n` once the
//! guest has accepted; a guest that connects to port P of the host reaches the socket `./v_P`.
//!
//! A connection to a port on which nobody listens yet is *parked*: it waits until somebody does, or
//! until the host program hangs up. So nobody polls while a guest boots.

mod connection;
mod device;
mod host;
mod mux;
mod packet;
pub mod sys;

pub use device::{DeviceError, serve};
