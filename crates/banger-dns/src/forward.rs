//! Asking the host's resolvers for guests: over UDP, over TCP when the answer does not fit, and
//! never more at once than is bounded here. A guest's bytes do not leave: each question is made
//! anew, with an id and a port of ours, and only an answer to exactly that is taken.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::Resolvers;
use crate::answer::Asked;

/// Questions at once: of all guests, and of one.
const MOST: usize = 128;
const MOST_OF_ONE: usize = 16;
/// How long one resolver is waited for, and all of them. A C library gives up after five seconds.
const ONE: Duration = Duration::from_millis(1500);
const ALL: Duration = Duration::from_millis(4500);
/// How often each resolver is asked.
const ROUNDS: usize = 2;
/// What we say that we take over UDP (the value that DNS flag day 2020 agreed on).
const EDNS_UDP: u16 = 1232;

/// Asks on behalf of guests. Clones share one count of what is outstanding.
#[derive(Debug, Clone)]
pub struct Forwarder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    resolvers: Resolvers,
    outstanding: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to ask one question.
#[derive(Debug)]
pub(crate) struct Turn {
    forwarder: Forwarder,
    asker: IpAddr,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut outstanding = self.forwarder.outstanding();
        if let Some(count) = outstanding.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                outstanding.remove(&self.asker);
            }
        }
    }
}

/// Why a resolver gave no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the resolver cannot be reached")]
    Socket(#[from] io::Error),
    #[error("the resolver did not answer in time")]
    Time(#[from] tokio::time::error::Elapsed),
    #[error("the question cannot be encoded")]
    Encode(#[from] hickory_proto::ProtoError),
    #[error("the resolver answered something else")]
    Other,
}

impl Forwarder {
    /// Forwards to these resolvers.
    #[must_use]
    pub fn new(resolvers: Resolvers) -> Self {
        Self(Arc::new(Inner {
            resolvers,
            outstanding: Mutex::default(),
        }))
    }

    fn outstanding(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        let outstanding = self.0.outstanding.lock();
        outstanding.unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn; none while too much is outstanding.
    pub(crate) fn turn(&self, asker: IpAddr) -> Option<Turn> {
        let mut outstanding = self.outstanding();
        let all: usize = outstanding.values().sum();
        let own = outstanding.get(&asker).copied().unwrap_or(0);
        if all >= MOST || own >= MOST_OF_ONE {
            return None;
        }
        outstanding.insert(asker, own + 1);
        Some(Turn {
            forwarder: self.clone(),
            asker,
        })
    }
}

impl Turn {
    /// What a resolver says, or `SERVFAIL`.
    pub(crate) async fn ask(self, asked: &Asked) -> Result<Message, ResponseCode> {
        let resolvers = self.forwarder.0.resolvers.current();
        let answer = timeout(ALL, ask_each(&resolvers, asked)).await;
        answer.ok().flatten().ok_or(ResponseCode::ServFail)
    }
}

/// The first real answer; else what a resolver that could not help said.
async fn ask_each(resolvers: &[SocketAddr], asked: &Asked) -> Option<Message> {
    let mut unhelpful = None;
    for resolver in resolvers.iter().cycle().take(resolvers.len() * ROUNDS) {
        match timeout(ONE, ask(*resolver, asked))
            .await
            .map_err(AskError::Time)
        {
            Ok(Ok(answer)) => match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some(answer),
                _ => unhelpful = Some(answer),
            },
            Ok(Err(error)) | Err(error) => {
                tracing::debug!(%resolver, %error, "a resolver did not help");
            }
        }
    }
    unhelpful
}

async fn ask(resolver: SocketAddr, asked: &Asked) -> Result<Message, AskError> {
    let question = question(asked, rand_id());
    let packet = question.to_vec()?;
    let answer = over_udp(resolver, &packet, &question).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    over_tcp(resolver, &packet, &question).await
}

/// An id that cannot be guessed: with the port of a fresh socket it is what an answer must know
/// (RFC 5452 section 4).
fn rand_id() -> u16 {
    let mut bytes = [0; 2];
    // It blocks only while the machine has just started, and fails never.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

fn question(asked: &Asked, id: u16) -> Message {
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.metadata.checking_disabled = asked.checks_itself();
    question.add_query(asked.query().clone());
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_UDP);
    edns.set_dnssec_ok(asked.wants_dnssec());
    question.set_edns(edns);
    question
}

async fn over_udp(
    resolver: SocketAddr,
    packet: &[u8],
    question: &Message,
) -> Result<Message, AskError> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(packet).await?;
    let mut answer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Anything else may be somebody's guess: the real one may still come.
        if let Some(answer) = answer_to(question, &answer[..length]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(
    resolver: SocketAddr,
    packet: &[u8],
    question: &Message,
) -> Result<Message, AskError> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(packet.len()).map_err(|_| AskError::Other)?;
    let framed = [&length.to_be_bytes()[..], packet].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    answer_to(question, &answer).ok_or(AskError::Other)
}

/// The packet, when it is an answer to that question.
fn answer_to(question: &Message, packet: &[u8]) -> Option<Message> {
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    // A record has at least eleven bytes: a header that announces more is not believed, before
    // anything is allocated for them.
    let counts = &header.counts;
    let records = [counts.answers, counts.authorities, counts.additionals];
    let records: usize = records.into_iter().map(usize::from).sum();
    let fits = counts.queries == 1 && records <= packet.len() / 11;
    let is_answer = header.metadata.message_type == MessageType::Response
        && header.metadata.op_code == OpCode::Query
        && header.metadata.id == question.metadata.id;
    if !fits || !is_answer {
        return None;
    }
    let answer = Message::from_vec(packet).ok()?;
    let same = |a: &Query, b: &Query| {
        let of = |query: &Query| (query.query_type(), query.query_class());
        of(a) == of(b) && a.name() == b.name()
    };
    let [asked] = answer.queries.as_slice() else {
        return None;
    };
    same(asked, question.queries.first()?).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Zone;
    use crate::answer::{Transport, Verdict, judge};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn asked() -> Box<Asked> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii("Example.com.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), 24);
        match judge(&zone, &message.to_vec().unwrap(), Transport::Udp, true) {
            Verdict::Forward(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    fn answer(question: &Message) -> Message {
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(question.queries[0].clone());
        answer
    }

    #[test]
    fn only_the_answer_to_what_was_asked_is_taken() {
        let question = question(&asked(), 4711);
        let take = |answer: &Message| answer_to(&question, &answer.to_vec().unwrap()).is_some();
        assert!(take(&answer(&question)));
        let mut other_case = answer(&question);
        other_case.queries[0].set_name(Name::from_ascii("eXAMPLE.com.").unwrap());
        assert!(take(&other_case));
        let wrong: [fn(&mut Message); 6] = [
            |m| m.metadata.id = 4712,
            |m| m.metadata.message_type = MessageType::Query,
            |m| m.metadata.op_code = OpCode::Update,
            |m| m.queries.clear(),
            |m| {
                m.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
            },
            |m| {
                m.queries[0].set_query_type(RecordType::AAAA);
            },
        ];
        for change in wrong {
            let mut forged = answer(&question);
            change(&mut forged);
            assert!(!take(&forged), "{forged:?}");
        }
        let mut bytes = answer(&question).to_vec().unwrap();
        bytes[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
        assert!(answer_to(&question, &bytes).is_none());
    }

    #[test]
    fn nobody_gets_more_turns_than_there_are() {
        let forwarder = Forwarder::new(Resolvers::fixed(([127, 0, 0, 1], 1).into()));
        let asker = |last: usize| IpAddr::from([172, 16, 0, u8::try_from(last).unwrap()]);
        let of_one: Vec<_> = (0..MOST_OF_ONE)
            .map(|_| forwarder.turn(asker(2)).unwrap())
            .collect();
        assert!(forwarder.turn(asker(2)).is_none());
        let rest = MOST - MOST_OF_ONE;
        let others: Vec<_> = (0..rest)
            .map(|n| forwarder.turn(asker(3 + n)).unwrap())
            .collect();
        assert!(forwarder.turn(asker(200)).is_none());
        drop(of_one);
        assert!(forwarder.turn(asker(2)).is_some());
        drop(others);
        assert!(forwarder.outstanding().is_empty());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            packet in proptest::collection::vec(any::<u8>(), 0..600),
            at in 0_usize..40,
            byte in any::<u8>(),
        ) {
            let asked = asked();
            let question = question(&asked, 4711);
            let mut packet = packet;
            let _ = answer_to(&question, &packet);
            // One that is nearly right.
            let mut near = answer(&question).to_vec().unwrap();
            near.append(&mut packet);
            near[7] = 1;
            if let Some(place) = near.get_mut(at) {
                *place = byte;
            }
            if let Some(answer) = answer_to(&question, &near) {
                let reply = asked.reply(Ok(answer));
                prop_assert!(reply.is_none_or(|reply| reply.len() <= 512));
            }
        }
    }
}
