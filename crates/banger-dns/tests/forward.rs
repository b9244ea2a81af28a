//! Names of the world, for guests with NAT: through real sockets, from resolvers of every kind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use banger_dns::{DnsServer, Forwarder, Guest, Resolvers, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// Guests are told apart by address; loopback has plenty.
const WITH_NAT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const WITHOUT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

fn zone() -> Zone {
    let guest = |name: &str, address, nat| Guest {
        name: name.parse().unwrap(),
        address,
        nat,
    };
    let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), 24);
    zone.publish(vec![
        guest("open", WITH_NAT, true),
        guest("shut", WITHOUT, false),
    ]);
    zone
}

fn start(resolver: SocketAddr) -> DnsServer {
    start_with(Resolvers::fixed(resolver))
}

fn start_with(resolvers: Resolvers) -> DnsServer {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind(udp.local_addr().unwrap()).unwrap();
    let forwarder = Forwarder::new(resolvers);
    DnsServer::start_bound(udp, tcp, zone(), Some(forwarder)).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask(from: Ipv4Addr, server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind((from, 0)).await.unwrap();
    socket
        .send_to(&message.to_vec().unwrap(), server)
        .await
        .unwrap();
    let mut reply = vec![0; 1500];
    let received = timeout(DEADLINE, socket.recv_from(&mut reply)).await;
    let (length, _) = received.expect("an answer in time").unwrap();
    Message::from_vec(&reply[..length]).unwrap()
}

async fn ask_over_tcp(from: Ipv4Addr, server: SocketAddr, message: &Message) -> Message {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(server).await.unwrap();
    send_framed(&mut stream, &message.to_vec().unwrap()).await;
    timeout(DEADLINE, read_framed(&mut stream))
        .await
        .expect("an answer in time")
}

async fn send_framed(stream: &mut TcpStream, packet: &[u8]) {
    stream
        .write_u16(u16::try_from(packet.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(packet).await.unwrap();
}

async fn read_framed(stream: &mut TcpStream) -> Message {
    let length = stream.read_u16().await.unwrap();
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await.unwrap();
    Message::from_vec(&packet).unwrap()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// What a resolver says to a question: the address of everything, and long texts.
fn resolve(question: &Message) -> Message {
    let query = &question.queries[0];
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let record = |data| Record::from_rdata(query.name().clone(), 60, data);
    match query.query_type() {
        RecordType::A => {
            answer.add_answer(record(RData::A(A(WORLD))));
        }
        RecordType::TXT => {
            for number in 0..20 {
                let text = vec![format!("{number}{}", "x".repeat(180))];
                answer.add_answer(record(RData::TXT(TXT::new(text))));
            }
        }
        _ => {}
    }
    answer
}

/// A resolver on UDP and TCP; how many questions came over UDP.
async fn resolver() -> (SocketAddr, Arc<AtomicUsize>) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut packet = vec![0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut packet).await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = resolve(&Message::from_vec(&packet[..length]).unwrap());
            let mut bytes = answer.to_vec().unwrap();
            if bytes.len() > 1232 {
                bytes = answer.truncate().to_vec().unwrap();
            }
            udp.send_to(&bytes, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let answer = resolve(&read_framed(&mut stream).await);
            send_framed(&mut stream, &answer.to_vec().unwrap()).await;
        }
    });
    (address, count)
}

#[tokio::test]
async fn guests_with_nat_get_names_of_the_world_and_others_do_not() {
    let (resolver, count) = resolver().await;
    let server = start(resolver);
    let at = server.local_addr();
    let world = question("example.com.", RecordType::A);
    let reply = ask(WITH_NAT, at, &world).await;
    assert_eq!(reply.answers[0].data, RData::A(A(WORLD)));
    assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
    let reply = ask_over_tcp(WITH_NAT, at, &world).await;
    assert_eq!(reply.answers[0].data, RData::A(A(WORLD)));
    assert_eq!(count.load(Ordering::SeqCst), 2);
    for from in [WITHOUT, Ipv4Addr::new(127, 0, 0, 9)] {
        for reply in [
            ask(from, at, &world).await,
            ask_over_tcp(from, at, &world).await,
        ] {
            assert_eq!(code(&reply), ResponseCode::Refused);
        }
    }
    // Names of our own never leave.
    let own = ask(WITH_NAT, at, &question("none.vm.", RecordType::A)).await;
    assert_eq!(code(&own), ResponseCode::NXDomain);
    let own = ask(WITHOUT, at, &question("open.vm.", RecordType::A)).await;
    assert_eq!(own.answers[0].data, RData::A(A(WITH_NAT)));
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let (resolver, _) = resolver().await;
    let server = start(resolver);
    let long = question("example.com.", RecordType::TXT);
    let reply = ask(WITH_NAT, server.local_addr(), &long).await;
    assert!(reply.metadata.truncation);
    let reply = ask_over_tcp(WITH_NAT, server.local_addr(), &long).await;
    assert_eq!(
        (reply.answers.len(), reply.metadata.truncation),
        (20, false)
    );
}

#[tokio::test]
async fn a_resolver_that_is_away_is_passed_over_and_none_is_a_failure_in_time() {
    let (resolver, _) = resolver().await;
    let dir = tempfile::tempdir().unwrap();
    // The second of three is the one that lives: named like the host's own are.
    let closed = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let server = start(closed);
    let world = question("example.com.", RecordType::A);
    let begin = Instant::now();
    let reply = ask(WITH_NAT, server.local_addr(), &world).await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(6));
    let nobody = start_with(Resolvers::of_files(
        dir.path().join("a"),
        dir.path().join("b"),
        vec![],
    ));
    let reply = ask(WITH_NAT, nobody.local_addr(), &world).await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    // One that is silent.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = start(silent.local_addr().unwrap());
    let begin = Instant::now();
    let reply = ask(WITH_NAT, server.local_addr(), &world).await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(6));
    let server = start(resolver);
    assert_eq!(
        ask(WITH_NAT, server.local_addr(), &world)
            .await
            .answers
            .len(),
        1
    );
}

#[tokio::test]
async fn a_lying_resolver_is_not_believed_and_a_flood_of_questions_is_bounded() {
    let liar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = start(liar.local_addr().unwrap());
    let at = server.local_addr();
    let world = question("example.com.", RecordType::A);
    let asking =
        tokio::spawn(
            async move { ask(WITH_NAT, at, &question("example.com.", RecordType::A)).await },
        );
    let mut packet = vec![0; 4096];
    let (length, from) = liar.recv_from(&mut packet).await.unwrap();
    let asked = Message::from_vec(&packet[..length]).unwrap();
    assert!(asked.edns.is_some() && asked.metadata.recursion_desired);
    let mut forged = resolve(&asked);
    forged.metadata.id = asked.metadata.id.wrapping_add(1);
    liar.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
    let mut forged = resolve(&asked);
    forged.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
    liar.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
    liar.send_to(&[0xff; 40], from).await.unwrap();
    liar.send_to(&resolve(&asked).to_vec().unwrap(), from)
        .await
        .unwrap();
    let reply = asking.await.unwrap();
    assert_eq!(reply.answers[0].data, RData::A(A(WORLD)));

    // Nobody answers any more. A flood of one guest's leaves turns for others, and what is too much
    // fails at once.
    let socket = UdpSocket::bind((WITH_NAT, 0)).await.unwrap();
    for _ in 0..400 {
        socket.send_to(&world.to_vec().unwrap(), at).await.unwrap();
    }
    let mut reply = vec![0; 1500];
    let begin = Instant::now();
    let (length, _) = timeout(DEADLINE, socket.recv_from(&mut reply))
        .await
        .unwrap()
        .unwrap();
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_secs(1));
    let own = ask(WITHOUT, at, &question("open.vm.", RecordType::A)).await;
    assert_eq!(own.answers.len(), 1);
}
