//! One packet in, one packet out: RFC 1035 for the wire, RFC 2308 for negative answers, RFC 6891
//! for EDNS. Pure, so that hostile packets can be thrown at it by the thousand.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::zone::{Knowledge, Zone};

/// Seconds that an address may be cached: a deleted VM's address is given out again.
const TTL: u32 = 5;
/// Seconds that a missing name may be cached: it may exist a moment later.
const NEGATIVE_TTL: u32 = 1;
/// What a UDP answer may have without EDNS (RFC 1035 section 2.3.4).
const PLAIN_UDP: usize = 512;
/// What is said and accepted as UDP payload size (the value that DNS flag day 2020 agreed on).
const EDNS_UDP: u16 = 1232;

/// How the packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// One datagram: the answer has a size limit.
    Udp,
    /// A stream.
    Tcp,
}

/// What is to be done with a packet.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Nothing: it must not be answered (another answer, a fragment).
    Silence,
    /// This is the answer.
    Answer(Vec<u8>),
    /// It asks for a name of the world, and may.
    Forward(Box<Asked>),
}

/// A question whose answer is still to come.
#[derive(Debug)]
pub(crate) struct Asked {
    request: Message,
    transport: Transport,
}

impl Asked {
    /// The one question.
    pub(crate) fn query(&self) -> &Query {
        // `judge` lets no other message through.
        &self.request.queries[0]
    }

    /// Whether the asker can do with signatures.
    pub(crate) fn wants_dnssec(&self) -> bool {
        let edns = self.request.edns.as_ref();
        edns.is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// Whether the asker checks signatures itself.
    pub(crate) fn checks_itself(&self) -> bool {
        self.request.metadata.checking_disabled
    }

    /// What the asker is sent: what a resolver said, or why there is nothing.
    pub(crate) fn reply(&self, answer: Result<Message, ResponseCode>) -> Option<Vec<u8>> {
        let mut reply = begin(&self.request);
        reply.metadata.recursion_available = true;
        match answer {
            Ok(answer) => {
                let code = answer.metadata.response_code;
                let fits = u16::from(code) < 16 || self.request.edns.is_some();
                let code = if fits { code } else { ResponseCode::ServFail };
                reply.metadata.response_code = code;
                reply.metadata.checking_disabled = self.checks_itself();
                reply.metadata.authentic_data = answer.metadata.authentic_data
                    && (self.wants_dnssec() || self.request.metadata.authentic_data);
                reply.answers = answer.answers;
                reply.authorities = answer.authorities;
                reply.additionals = answer.additionals;
            }
            Err(code) => reply.metadata.response_code = code,
        }
        encode(reply, &self.request, self.transport)
    }
}

/// Decides on a packet. `may_forward`: whether the asker gets names of the world.
pub(crate) fn judge(
    zone: &Zone,
    packet: &[u8],
    transport: Transport,
    may_forward: bool,
) -> Verdict {
    match read(packet) {
        Err(answer) => answer.map_or(Verdict::Silence, Verdict::Answer),
        Ok(request) => decide(zone, request, transport, may_forward),
    }
}

/// The request, or the answer to a packet that is none.
fn read(packet: &[u8]) -> Result<Message, Option<Vec<u8>>> {
    let header = Header::read(&mut BinDecoder::new(packet)).map_err(|_| None)?;
    if header.metadata.message_type == MessageType::Response {
        return Err(None);
    }
    let (id, op_code) = (header.metadata.id, header.metadata.op_code);
    let failed = |code| Err(Message::error_msg(id, op_code, code).to_vec().ok());
    if op_code != OpCode::Query {
        return failed(ResponseCode::NotImp);
    }
    // A query has one question and at most OPT and TSIG. Checked before anything is allocated for
    // the records that the header announces.
    let counts = &header.counts;
    if counts.queries != 1
        || (counts.answers, counts.authorities) != (0, 0)
        || counts.additionals > 2
    {
        return failed(ResponseCode::FormErr);
    }
    match Message::from_vec(packet) {
        Ok(request) if request.queries.len() == 1 => Ok(request),
        _ => failed(ResponseCode::FormErr),
    }
}

fn decide(zone: &Zone, request: Message, transport: Transport, may_forward: bool) -> Verdict {
    let mut reply = begin(&request);
    let mut is_foreign = false;
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        reply.metadata.response_code = ResponseCode::BADVERS;
    } else {
        is_foreign = fill(zone, &request.queries[0], &mut reply);
    }
    if is_foreign && may_forward {
        return Verdict::Forward(Box::new(Asked { request, transport }));
    }
    encode(reply, &request, transport).map_or(Verdict::Silence, Verdict::Answer)
}

/// An empty reply, with EDNS where the request has it (RFC 6891 section 6.1.1).
fn begin(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    if let Some(query) = request.queries.first() {
        reply.add_query(query.clone());
    }
    if let Some(edns) = &request.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(EDNS_UDP);
        ours.set_dnssec_ok(edns.flags().dnssec_ok);
        reply.set_edns(ours);
    }
    reply
}

/// Puts what the zone knows into the reply; true when it is a question of the world's that somebody
/// else may answer.
fn fill(zone: &Zone, query: &Query, reply: &mut Message) -> bool {
    let name = query.name();
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let knowledge = match query.query_class() {
        DNSClass::IN | DNSClass::ANY => zone.look_up(&labels),
        _ => Knowledge::Foreign,
    };
    let wanted = query.query_type();
    // Zone transfers would list every VM to any guest.
    let is_transfer = matches!(wanted, RecordType::AXFR | RecordType::IXFR);
    if knowledge == Knowledge::Foreign || is_transfer {
        reply.metadata.response_code = ResponseCode::Refused;
        return !is_transfer && query.query_class() == DNSClass::IN;
    }
    reply.metadata.authoritative = true;
    let is = |kind| wanted == kind || wanted == RecordType::ANY;
    let own = |data| Record::from_rdata(name.clone(), TTL, data);
    let depth = match knowledge {
        Knowledge::Foreign => return false,
        Knowledge::Apex { depth } => {
            let apex = name.trim_to(depth);
            if is(RecordType::SOA) {
                reply.add_answer(soa(zone, apex));
                return false;
            }
            if is(RecordType::NS) {
                reply.add_answer(own(RData::NS(NS(server_name()))));
                return false;
            }
            depth
        }
        Knowledge::Host { address, depth } => {
            if is(RecordType::A) {
                reply.add_answer(own(address_data(address)));
                return false;
            }
            depth
        }
        Knowledge::Pointer { name: vm, depth } => {
            if is(RecordType::PTR) {
                if let Ok(target) = Name::from_ascii(format!("{vm}.vm.")) {
                    reply.add_answer(own(RData::PTR(PTR(target))));
                }
                return false;
            }
            depth
        }
        Knowledge::Nothing { depth } => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            depth
        }
    };
    reply.add_authority(soa(zone, name.trim_to(depth)));
    false
}

fn address_data(address: Ipv4Addr) -> RData {
    RData::A(A(address))
}

fn server_name() -> Name {
    Name::from_ascii("ns.vm.").expect("a constant and valid name")
}

fn soa(zone: &Zone, apex: Name) -> Record {
    let mailbox = Name::from_ascii("root.vm.").expect("a constant and valid name");
    let data = SOA::new(
        server_name(),
        mailbox,
        zone.serial(),
        3600,
        600,
        86_400,
        NEGATIVE_TTL,
    );
    Record::from_rdata(apex, NEGATIVE_TTL, RData::SOA(data))
}

fn encode(reply: Message, request: &Message, transport: Transport) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_UDP,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.max_payload().min(EDNS_UDP)).max(PLAIN_UDP)
        }
    };
    if bytes.len() <= limit {
        return Some(bytes);
    }
    reply.truncate().to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Guest;
    use hickory_proto::rr::rdata::TXT;
    use proptest::prelude::*;

    fn zone() -> Zone {
        let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), 24);
        zone.publish(vec![Guest {
            name: "demo".parse().unwrap(),
            address: Ipv4Addr::new(172, 16, 0, 2),
            nat: false,
        }]);
        zone
    }

    /// What somebody without NAT is told.
    fn answer(zone: &Zone, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match judge(zone, packet, transport, false) {
            Verdict::Answer(reply) => Some(reply),
            Verdict::Silence => None,
            Verdict::Forward(asked) => panic!("forwarded: {asked:?}"),
        }
    }

    fn asked(message: &Message, transport: Transport) -> Box<Asked> {
        match judge(&zone(), &message.to_vec().unwrap(), transport, true) {
            Verdict::Forward(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn ask(message: &Message) -> Message {
        let bytes = answer(&zone(), &message.to_vec().unwrap(), Transport::Udp).unwrap();
        Message::from_vec(&bytes).unwrap()
    }

    #[test]
    fn an_address_is_authoritative_short_lived_and_keeps_the_case_of_the_question() {
        let reply = ask(&question("DeMo.VM.", RecordType::A));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.metadata.authoritative);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].ttl, TTL);
        assert_eq!(reply.answers[0].name.to_string(), "DeMo.VM.");
        assert_eq!(
            reply.answers[0].data,
            address_data(Ipv4Addr::new(172, 16, 0, 2))
        );
    }

    #[test]
    fn what_is_absent_says_so_with_the_soa() {
        for (name, kind, code) in [
            ("demo.vm.", RecordType::AAAA, ResponseCode::NoError),
            ("demo.vm.", RecordType::TXT, ResponseCode::NoError),
            ("other.vm.", RecordType::A, ResponseCode::NXDomain),
            ("other.vm.", RecordType::AAAA, ResponseCode::NXDomain),
            (
                "9.0.16.172.in-addr.arpa.",
                RecordType::PTR,
                ResponseCode::NXDomain,
            ),
        ] {
            let reply = ask(&question(name, kind));
            assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
            assert!(reply.metadata.authoritative, "{name} {kind}");
            assert!(reply.answers.is_empty(), "{name} {kind}");
            assert_eq!(reply.authorities.len(), 1, "{name} {kind}");
            assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        }
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let reply = ask(&question("2.0.16.172.in-addr.arpa.", RecordType::PTR));
        assert_eq!(
            reply.answers[0].data,
            RData::PTR(PTR(Name::from_ascii("demo.vm.").unwrap()))
        );
        let apex = ask(&question("0.16.172.in-addr.arpa.", RecordType::SOA));
        assert_eq!(apex.answers[0].record_type(), RecordType::SOA);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let foreign = [
            question("example.com.", RecordType::A),
            question(".", RecordType::NS),
            question("8.8.8.8.in-addr.arpa.", RecordType::PTR),
            question("vm.", RecordType::AXFR),
        ];
        for message in foreign {
            let reply = ask(&message);
            assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
            assert!(reply.answers.is_empty() && !reply.metadata.authoritative);
        }
        let mut chaos = question("demo.vm.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(ask(&chaos).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn edns_is_answered_with_edns_and_an_unknown_version_is_said() {
        let mut message = question("demo.vm.", RecordType::A);
        message.set_edns(Edns::new());
        assert!(ask(&message).edns.is_some());
        message.edns.as_mut().unwrap().set_version(1);
        let reply = ask(&message);
        // 16 is BADVERS beside OPT and BADSIG beside TSIG; the decoder knows only the number.
        assert_eq!(u16::from(reply.metadata.response_code), 16);
        assert!(reply.answers.is_empty());
    }

    #[test]
    fn an_answer_is_never_answered_and_an_update_is_not_done() {
        let mut message = question("demo.vm.", RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert_eq!(
            answer(&zone(), &message.to_vec().unwrap(), Transport::Udp),
            None
        );
        let update = Message::new(7, MessageType::Query, OpCode::Update);
        assert_eq!(ask(&update).metadata.response_code, ResponseCode::NotImp);
    }

    #[test]
    fn a_header_that_promises_thousands_of_records_is_a_format_error() {
        let mut bytes = question("demo.vm.", RecordType::A).to_vec().unwrap();
        for (at, count) in [(4, u16::MAX), (6, 1), (8, 1), (10, u16::MAX)] {
            let mut forged = bytes.clone();
            forged[at..at + 2].copy_from_slice(&count.to_be_bytes());
            let reply = answer(&zone(), &forged, Transport::Tcp).unwrap();
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        }
        bytes.truncate(13);
        let reply = answer(&zone(), &bytes, Transport::Udp).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer(&zone(), &bytes[..11], Transport::Udp), None);
    }

    #[test]
    fn only_plain_questions_for_foreign_names_are_forwarded() {
        let world = question("example.com.", RecordType::A);
        assert_eq!(asked(&world, Transport::Udp).query(), &world.queries[0]);
        let mut chaos = question("version.bind.", RecordType::TXT);
        chaos.queries[0].set_query_class(DNSClass::CH);
        let mut future = question("example.com.", RecordType::A);
        future.set_edns(Edns::new());
        future.edns.as_mut().unwrap().set_version(1);
        let here = [
            question("demo.vm.", RecordType::A),
            question("other.vm.", RecordType::A),
            question("vm.", RecordType::NS),
            question("2.0.16.172.in-addr.arpa.", RecordType::PTR),
            question("example.com.", RecordType::AXFR),
            chaos,
            future,
        ];
        for message in here {
            let verdict = judge(&zone(), &message.to_vec().unwrap(), Transport::Udp, true);
            assert!(
                matches!(verdict, Verdict::Answer(_)),
                "{message:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn what_a_resolver_said_is_passed_on_within_the_askers_limits() {
        let mut message = question("ExaMple.com.", RecordType::TXT);
        message.metadata.recursion_desired = true;
        let asked_over = |transport| asked(&message, transport);
        let mut said = Message::response(99, OpCode::Query);
        said.metadata.authentic_data = true;
        let name = Name::from_ascii("example.com.").unwrap();
        for _ in 0..5 {
            let text = TXT::new(vec!["x".repeat(200)]);
            said.add_answer(Record::from_rdata(name.clone(), 60, RData::TXT(text)));
        }
        said.set_edns(Edns::new());
        let short = asked_over(Transport::Udp).reply(Ok(said.clone())).unwrap();
        assert!(short.len() <= PLAIN_UDP);
        let short = Message::from_vec(&short).unwrap();
        assert!(short.metadata.truncation && short.edns.is_none());
        let long = asked_over(Transport::Tcp).reply(Ok(said)).unwrap();
        let long = Message::from_vec(&long).unwrap();
        assert_eq!((long.answers.len(), long.metadata.id), (5, 7));
        assert!(long.metadata.recursion_available && long.metadata.recursion_desired);
        assert!(!long.metadata.authoritative && !long.metadata.authentic_data);
        assert_eq!(long.queries[0].name().to_string(), "ExaMple.com.");
        let failed = asked_over(Transport::Udp).reply(Err(ResponseCode::ServFail));
        let failed = Message::from_vec(&failed.unwrap()).unwrap();
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic_or_answer_at_length(
            packet in proptest::collection::vec(any::<u8>(), 0..600),
            question_like in any::<bool>(),
        ) {
            let mut packet = packet;
            if question_like && packet.len() >= 12 {
                packet[2] = 1;
                packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
            }
            if let Verdict::Forward(asked) = judge(&zone(), &packet, Transport::Udp, true) {
                prop_assert!(asked.reply(Err(ResponseCode::ServFail)).is_some());
            }
            if let Some(reply) = answer(&zone(), &packet, Transport::Udp) {
                prop_assert!(reply.len() <= usize::from(EDNS_UDP));
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
        }

        #[test]
        fn damaged_questions_are_survived(at in 0_usize..40, byte in any::<u8>()) {
            let mut message = question("2.0.16.172.in-addr.arpa.", RecordType::PTR);
            message.set_edns(Edns::new());
            let mut packet = message.to_vec().unwrap();
            if let Some(place) = packet.get_mut(at) {
                *place = byte;
            }
            let _ = answer(&zone(), &packet, Transport::Udp);
        }
    }
}
