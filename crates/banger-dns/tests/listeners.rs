//! The server over real sockets: UDP and TCP, passed sockets, hostile clients.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use banger_dns::{DnsServer, Guest, StartDnsError, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType, rdata::A};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);
const DEMO: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

fn guest(name: &str, address: Ipv4Addr, nat: bool) -> Guest {
    let name = name.parse().unwrap();
    Guest { name, address, nat }
}

fn zone() -> Zone {
    let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), 24);
    zone.publish(vec![guest("demo", DEMO, false)]);
    zone
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

async fn ask_udp(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    socket.send_to(&question(name), server).await.unwrap();
    let mut reply = vec![0; 1500];
    let (length, _) = timeout(DEADLINE, socket.recv_from(&mut reply))
        .await
        .expect("an answer in time")
        .unwrap();
    Message::from_vec(&reply[..length]).unwrap()
}

async fn send_framed(stream: &mut TcpStream, packet: &[u8]) {
    let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
    stream.write_all(&length).await.unwrap();
    stream.write_all(packet).await.unwrap();
}

async fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    timeout(DEADLINE, stream.read_exact(&mut length))
        .await
        .expect("an answer in time")
        .unwrap();
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn address_in(message: &Message) -> Option<Ipv4Addr> {
    match message.answers.first().map(|record| &record.data) {
        Some(RData::A(A(address))) => Some(*address),
        _ => None,
    }
}

#[tokio::test]
async fn udp_and_tcp_answer_and_follow_what_is_published() {
    let zone = zone();
    let server = DnsServer::start(any_port(), zone.clone()).await.unwrap();
    assert_eq!(
        address_in(&ask_udp(server.local_addr(), "demo.vm.").await),
        Some(DEMO)
    );

    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    for _ in 0..3 {
        send_framed(&mut stream, &question("demo.vm.")).await;
        assert_eq!(address_in(&read_framed(&mut stream).await), Some(DEMO));
    }

    zone.publish(vec![guest("late", DEMO, false)]);
    let gone = ask_udp(server.local_addr(), "demo.vm.").await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        address_in(&ask_udp(server.local_addr(), "late.vm.").await),
        Some(DEMO)
    );
}

#[tokio::test]
async fn passed_sockets_are_served() {
    let tcp = std::net::TcpListener::bind(any_port()).unwrap();
    let udp = std::net::UdpSocket::bind(any_port()).unwrap();
    let tcp_address = tcp.local_addr().unwrap();
    let server = DnsServer::start_bound(udp, tcp, zone(), None).unwrap();
    let foreign = ask_udp(server.local_addr(), "example.com.").await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
    let mut stream = TcpStream::connect(tcp_address).await.unwrap();
    send_framed(&mut stream, &question("demo.vm.")).await;
    assert_eq!(address_in(&read_framed(&mut stream).await), Some(DEMO));
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let taken = UdpSocket::bind(any_port()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = DnsServer::start(address, zone()).await.unwrap_err();
    assert!(matches!(
        error,
        StartDnsError::Bind {
            protocol: "UDP",
            ..
        }
    ));
    assert!(error.to_string().contains(&address.to_string()));
}

#[tokio::test]
async fn hostile_clients_do_not_take_the_service_down() {
    let server = DnsServer::start(any_port(), zone()).await.unwrap();
    let at = server.local_addr();
    let socket = UdpSocket::bind(any_port()).await.unwrap();
    for length in [0, 1, 11, 12, 13, 512, 9000] {
        for byte in [0x00, 0x01, 0xc0, 0xff] {
            socket.send_to(&vec![byte; length], at).await.unwrap();
        }
    }
    // Half a length, a length without a message, more than is allowed, and many idle clients.
    let mut idle = Vec::new();
    for opening in [&[0_u8][..], &[0, 40], &[0xff, 0xff, 1], &[]] {
        for _ in 0..15 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(opening).await.unwrap();
            idle.push(stream);
        }
    }
    assert_eq!(address_in(&ask_udp(at, "demo.vm.").await), Some(DEMO));
    let mut stream = TcpStream::connect(at).await.unwrap();
    send_framed(&mut stream, &question("demo.vm.")).await;
    assert_eq!(address_in(&read_framed(&mut stream).await), Some(DEMO));
}

#[tokio::test]
async fn a_dropped_server_frees_its_address() {
    let server = DnsServer::start(any_port(), zone()).await.unwrap();
    let address = server.local_addr();
    drop(server);
    // The tasks are aborted at the next turn of the runtime.
    let again = timeout(DEADLINE, async {
        loop {
            if let Ok(server) = DnsServer::start(address, zone()).await {
                return server;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(again.await.expect("freed in time").local_addr(), address);
}
