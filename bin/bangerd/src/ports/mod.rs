//! `vm ports`: what a guest says of its sockets, and what the host finds when it knocks.

mod probe;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use banger_api::{Port, PortList, PortProtocol};
use banger_core::VmName;
use banger_guest_proto::{Listener, Listeners, Transport};
use futures_util::future::join_all;

use probe::{Scheme, Web};

/// At most so many servers are knocked at for one question.
const MAX_PROBES: usize = 64;

/// What listens in a guest, and which of it are web servers.
pub(crate) async fn describe(vm: &VmName, address: Ipv4Addr, found: Listeners) -> PortList {
    let mut ports: Vec<Port> = found.listeners.iter().map(|it| port(it, address)).collect();
    let knocks = places(&ports, address);
    let host = format!("{vm}.vm");
    let answers = join_all(knocks.iter().map(|at| probe::knock(*at, &host))).await;
    for (at, web) in knocks.iter().zip(answers) {
        let Some(web) = web else { continue };
        for port in &mut ports {
            if port.protocol == PortProtocol::Tcp
                && port.port == at.port()
                && port.address.is_some()
            {
                port.url = Some(url(&host, at.port(), web));
                port.http_status = Some(web.status);
            }
        }
    }
    PortList {
        vm: vm.to_string(),
        ports,
        cut: found.cut,
    }
}

fn port(listener: &Listener, guest: Ipv4Addr) -> Port {
    Port {
        protocol: match listener.transport {
            Transport::Tcp => PortProtocol::Tcp,
            Transport::Udp => PortProtocol::Udp,
        },
        port: listener.port,
        bind: listener.address.to_string(),
        address: is_reachable(listener.address, guest)
            .then(|| SocketAddr::from((guest, listener.port)).to_string()),
        pid: listener.pid,
        process: listener.process.clone(),
        uid: listener.uid,
        user: listener.user.clone(),
        url: None,
        http_status: None,
    }
}

/// Whether a packet to the guest's own address gets to a socket that is bound there.
fn is_reachable(bound: IpAddr, guest: Ipv4Addr) -> bool {
    let bound = match bound {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(bound, IpAddr::V4),
        IpAddr::V4(_) => bound,
    };
    bound.is_unspecified() || bound == IpAddr::V4(guest)
}

/// Where to knock: each port once, however many sockets have it.
fn places(ports: &[Port], guest: Ipv4Addr) -> Vec<SocketAddr> {
    let open = |port: &&Port| port.protocol == PortProtocol::Tcp && port.address.is_some();
    let mut numbers: Vec<u16> = ports.iter().filter(open).map(|port| port.port).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(MAX_PROBES);
    let place = |number: u16| SocketAddr::from((guest, number));
    numbers.into_iter().map(place).collect()
}

fn url(host: &str, port: u16, web: Web) -> String {
    match (web.scheme, port) {
        (Scheme::Http, 80) => format!("http://{host}/"),
        (Scheme::Https, 443) => format!("https://{host}/"),
        (Scheme::Http, port) => format!("http://{host}:{port}/"),
        (Scheme::Https, port) => format!("https://{host}:{port}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 5);

    fn listener(transport: Transport, address: &str, port: u16) -> Listener {
        Listener {
            transport,
            address: address.parse().unwrap(),
            port,
            uid: 0,
            user: None,
            pid: None,
            process: None,
        }
    }

    #[test]
    fn what_serves_only_the_guest_has_no_address() {
        for (bound, reached) in [
            ("0.0.0.0", true),
            ("::", true),
            ("172.16.0.5", true),
            ("::ffff:172.16.0.5", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("172.17.0.1", false),
            ("fe80::1", false),
        ] {
            let port = port(&listener(Transport::Tcp, bound, 8080), GUEST);
            let expected = reached.then(|| "172.16.0.5:8080".to_owned());
            assert_eq!(port.address, expected, "{bound}");
        }
    }

    #[test]
    fn each_open_tcp_port_is_knocked_at_once_and_not_too_many() {
        let mut all: Vec<Listener> = (1..=200)
            .flat_map(|n| ["0.0.0.0", "::"].map(|at| listener(Transport::Tcp, at, n)))
            .collect();
        all.push(listener(Transport::Udp, "0.0.0.0", 500));
        all.push(listener(Transport::Tcp, "127.0.0.1", 501));
        let ports: Vec<Port> = all.iter().map(|it| port(it, GUEST)).collect();
        let places = places(&ports, GUEST);
        assert_eq!(places.len(), MAX_PROBES);
        assert_eq!(places[0], "172.16.0.5:1".parse().unwrap());
        assert_eq!(places[1].port(), 2);
    }

    #[tokio::test]
    async fn a_web_server_gets_its_url_on_every_socket_it_has_and_others_none() {
        use tokio::io::AsyncWriteExt;
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = server.accept().await {
                let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await;
            }
        });
        let listeners = vec![
            listener(Transport::Tcp, "0.0.0.0", number),
            listener(Transport::Tcp, "::", number),
            listener(Transport::Udp, "0.0.0.0", number),
        ];
        let found = Listeners {
            listeners,
            cut: false,
        };
        let list = describe(&"demo".parse().unwrap(), Ipv4Addr::LOCALHOST, found).await;
        let url = format!("http://demo.vm:{number}/");
        assert_eq!(list.ports[0].url.as_ref(), Some(&url));
        assert_eq!(list.ports[1].url.as_ref(), Some(&url));
        assert_eq!(list.ports[0].http_status, Some(404));
        assert_eq!(list.ports[2].url, None);
    }
}
