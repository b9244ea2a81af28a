//! The device: virtqueues on one side, sockets on the other, one thread for both.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::mux::{Mux, Token};
use crate::packet::{HEADER_LEN, Header};

const RX_QUEUE: usize = 0;
const TX_QUEUE: usize = 1;
const QUEUES: usize = 3;
const QUEUE_SIZE: usize = 1024;
/// Tells the sockets' events from the queues'.
const SOCKETS_EVENT: u16 = 16;
const LISTENER: Token = 0;
const TIMER: Token = 1;
const FIRST_STREAM: Token = 2;
/// How long a parked stream waits before the guest is asked again.
const RETRY: Duration = Duration::from_millis(2);
/// The most data in one packet, as Linux sends it (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
const MAX_DATA: usize = 64 << 10;

/// Why the device could not be served.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A socket or timer could not be set up.
    #[error("failed to set up the host's side")]
    Setup(#[source] io::Error),
    /// The VMM did not speak vhost-user.
    #[error("failed to serve the VMM: {0}")]
    Serve(vhost_user_backend::Error),
}

struct Device {
    mux: Mux,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    guest_cid: u64,
    listener: UnixListener,
    /// Watches the listener, the timer and every stream.
    epoll: Arc<OwnedFd>,
    timer: OwnedFd,
    buffer: Vec<u8>,
}

impl Device {
    fn new(
        guest_cid: u64,
        listener: UnixListener,
        memory: GuestMemoryAtomic<GuestMemoryMmap>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(
            &epoll,
            &listener,
            epoll::EventData::new_u64(LISTENER),
            readable,
        )?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            readable | epoll::EventFlags::ET,
        )?;
        Ok(Self {
            mux: Mux::new(guest_cid, FIRST_STREAM),
            memory,
            guest_cid,
            listener,
            epoll: Arc::new(epoll),
            timer,
            buffer: vec![0; MAX_DATA],
        })
    }

    fn on_sockets(&mut self) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::wait(
            &*self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&now),
        )?;
        for event in events {
            let flags = event.flags;
            match event.data.u64() {
                LISTENER => self.accept(),
                TIMER => self.mux.retry_parked(),
                token => {
                    let ended =
                        epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                    let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                    let readable = flags.intersects(epoll::EventFlags::IN | ended);
                    let writable = flags.contains(epoll::EventFlags::OUT);
                    self.mux.on_host_event(token, readable, writable, hung_up);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.mux.add_host(stream);
            }
        }
    }

    /// Watches new streams, and has parked ones asked again. Closed ones leave the watch by themselves.
    fn rearm(&mut self) -> io::Result<()> {
        let all = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        for token in std::mem::take(&mut self.mux.new_tokens) {
            if let Some(stream) = self.mux.stream(token) {
                epoll::add(&*self.epoll, stream, epoll::EventData::new_u64(token), all)?;
            }
        }
        if self.mux.has_parked() {
            let after = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(RETRY.subsec_nanos()),
            };
            let once = Itimerspec {
                it_interval: Timespec::default(),
                it_value: after,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        }
        Ok(())
    }

    /// Takes every packet that the guest has put into its queue.
    fn take_from_guest(&mut self, vring: &VringRwLock) -> io::Result<()> {
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        if !state.get_queue().ready() {
            return Ok(());
        }
        let mut used = false;
        let queue = state.get_queue_mut();
        while let Some(chain) = queue.pop_descriptor_chain(&*memory) {
            let head = chain.head_index();
            // A chain that is no packet is given back unread: it is the guest's own loss.
            if let Ok(mut reader) = chain.reader(&*memory) {
                let mut header = [0; HEADER_LEN];
                if reader.read_exact(&mut header).is_ok() {
                    let header = Header::parse(&header);
                    let length = header.len as usize;
                    if length <= reader.available_bytes() && length <= MAX_DATA {
                        let data = &mut self.buffer[..length];
                        if reader.read_exact(data).is_ok() {
                            self.mux.on_guest_packet(&header, data);
                        }
                    }
                }
            }
            queue
                .add_used(&*memory, head, 0)
                .map_err(io::Error::other)?;
            used = true;
        }
        if used {
            state.signal_used_queue()?;
        }
        Ok(())
    }

    /// Gives the guest packets while there are any and it has buffers. The queue is left alone until
    /// the driver has made it ready: touching it before kills the device for the whole boot.
    fn give_to_guest(&mut self, vring: &VringRwLock) -> io::Result<()> {
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        if !state.is_enabled() || !state.get_queue().ready() {
            return Ok(());
        }
        let mut used = false;
        let queue = state.get_queue_mut();
        while self.mux.has_packets() {
            let Some(chain) = queue.pop_descriptor_chain(&*memory) else {
                break;
            };
            let head = chain.head_index();
            let Ok(mut writer) = chain.writer(&*memory) else {
                queue
                    .add_used(&*memory, head, 0)
                    .map_err(io::Error::other)?;
                continue;
            };
            let room = writer
                .available_bytes()
                .saturating_sub(HEADER_LEN)
                .min(MAX_DATA);
            let packet = self.mux.next_packet(&mut self.buffer[..room]);
            let Some(header) = packet else {
                queue.go_to_previous_position();
                break;
            };
            let data = &self.buffer[..header.len as usize];
            writer.write_all(&header.to_bytes())?;
            writer.write_all(data)?;
            let written = u32::try_from(writer.bytes_written()).unwrap_or(0);
            queue
                .add_used(&*memory, head, written)
                .map_err(io::Error::other)?;
            used = true;
        }
        if used {
            state.signal_used_queue()?;
        }
        Ok(())
    }
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    /// The configuration space is the guest's context id (section 5.10.4).
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let cid = self.guest_cid.to_le_bytes();
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        cid.get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// Without it the worker thread outlives the VMM, and with it this process.
    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &mut self,
        device_event: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        match device_event {
            SOCKETS_EVENT => self.on_sockets()?,
            event if usize::from(event) == TX_QUEUE => self.take_from_guest(&vrings[TX_QUEUE])?,
            _ => {}
        }
        self.give_to_guest(&vrings[RX_QUEUE])?;
        self.rearm()
    }
}

/// Serves one VMM, which connects to `vhost`, until it disconnects.
///
/// # Errors
/// The sockets cannot be used, or the VMM does not speak vhost-user.
pub fn serve(guest_cid: u64, vhost: UnixListener, host: UnixListener) -> Result<(), DeviceError> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let device = Device::new(guest_cid, host, memory.clone()).map_err(DeviceError::Setup)?;
    let sockets = Arc::clone(&device.epoll);
    let device = Arc::new(Mutex::new(device));
    let mut daemon =
        VhostUserDaemon::new("vsock".to_owned(), device, memory).map_err(DeviceError::Serve)?;
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(sockets.as_raw_fd(), EventSet::IN, u64::from(SOCKETS_EVENT))
            .map_err(DeviceError::Setup)?;
    }
    let mut listener = Listener::from(vhost);
    daemon.start(&mut listener).map_err(DeviceError::Serve)?;
    // The VMM's end of the connection is the end of the device, whatever it says with it.
    let _ = daemon.wait();
    Ok(())
}
