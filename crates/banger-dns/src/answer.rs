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

/// The answer to a packet; none for what must not be answered (another answer, a fragment).
pub(crate) fn answer(zone: &Zone, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(packet)).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let (id, op_code) = (header.metadata.id, header.metadata.op_code);
    let failed = |code| Message::error_msg(id, op_code, code).to_vec().ok();
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
    let Ok(request) = Message::from_vec(packet) else {
        return failed(ResponseCode::FormErr);
    };
    let [query] = request.queries.as_slice() else {
        return failed(ResponseCode::FormErr);
    };
    let mut reply = Message::response(id, op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.add_query(query.clone());
    if let Some(edns) = &request.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(EDNS_UDP);
        reply.set_edns(ours);
        if edns.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            return encode(reply, &request, transport);
        }
    }
    fill(zone, query, &mut reply);
    encode(reply, &request, transport)
}

/// Puts what the zone knows into the reply.
fn fill(zone: &Zone, query: &Query, reply: &mut Message) {
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
    if knowledge == Knowledge::Foreign || matches!(wanted, RecordType::AXFR | RecordType::IXFR) {
        reply.metadata.response_code = ResponseCode::Refused;
        return;
    }
    reply.metadata.authoritative = true;
    let is = |kind| wanted == kind || wanted == RecordType::ANY;
    let own = |data| Record::from_rdata(name.clone(), TTL, data);
    let depth = match knowledge {
        Knowledge::Foreign => return,
        Knowledge::Apex { depth } => {
            let apex = name.trim_to(depth);
            if is(RecordType::SOA) {
                reply.add_answer(soa(zone, apex));
                return;
            }
            if is(RecordType::NS) {
                reply.add_answer(own(RData::NS(NS(server_name()))));
                return;
            }
            depth
        }
        Knowledge::Host { address, depth } => {
            if is(RecordType::A) {
                reply.add_answer(own(address_data(address)));
                return;
            }
            depth
        }
        Knowledge::Pointer { name: vm, depth } => {
            if is(RecordType::PTR) {
                if let Ok(target) = Name::from_ascii(format!("{vm}.vm.")) {
                    reply.add_answer(own(RData::PTR(PTR(target))));
                }
                return;
            }
            depth
        }
        Knowledge::Nothing { depth } => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            depth
        }
    };
    reply.add_authority(soa(zone, name.trim_to(depth)));
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
    use proptest::prelude::*;

    fn zone() -> Zone {
        let zone = Zone::new(Ipv4Addr::new(172, 16, 0, 0), 24);
        zone.publish(vec![(
            "demo".parse().unwrap(),
            Ipv4Addr::new(172, 16, 0, 2),
        )]);
        zone
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
