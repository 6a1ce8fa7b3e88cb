import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent.dns import message
from agent.dns.message import FORMERR, NOTIMP, SERVFAIL, FormatError, Query

labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=6).filter(lambda ls: sum(len(x) + 1 for x in ls) < 255)


def query(name: str = "web.demo", kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()


def big_reply(count: int, authority: int = 0, edns: bool = False) -> bytes:
    asked = dns.message.make_query("big.test", "A", **({"use_edns": 0, "payload": 4096} if edns else {}))
    out = dns.message.make_response(asked, our_payload=1400)
    if count:
        out.answer.append(
            dns.rrset.from_text("big.test.", 5, "IN", "A", *[f"10.0.{i // 250}.{i % 250}" for i in range(count)])
        )
    for i in range(authority):
        out.authority.append(dns.rrset.from_text("test.", 5, "IN", "NS", f"ns{i}.example.test."))
    return out.to_wire(max_size=65535)


def test_a_query_is_read_as_the_oracle_reads_it() -> None:
    read = message.read(query("WeB.Demo", "AAAA", use_edns=0, payload=1400, want_dnssec=True))
    assert isinstance(read, Query)
    assert (read.name, read.qtype, read.qclass, read.payload, read.dnssec_ok, read.limit) == (
        "web.demo",
        28,
        1,
        1400,
        True,
        1400,
    )
    assert read.question == b"\3WeB\4Demo\0\0\x1c\0\1"


@given(names, st.integers(0, 65535), st.integers(0, 65535))
def test_every_well_formed_name_is_read_and_never_confused_with_another(
    name: list[bytes], kind: int, klass: int
) -> None:
    wire = b"".join(bytes((len(x),)) + x for x in name) + b"\0"
    read = message.parse(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + wire + struct.pack("!2H", kind, klass))
    assert (read.qtype, read.qclass) == (kind, klass)
    assert len(read.name.split(".")) == max(1, len(name))
    if b"".join(name).isalnum():
        assert read.name == b".".join(name).lower().decode()
        assert message.encode_name(read.name) == wire.lower()


@pytest.mark.parametrize(
    ("label", "text"), [(b"a.b", "a\\046b"), (b"a\\b", "a\\092b"), (b"\xff\0", "\\255\\000"), (b"_Sip", "_sip")]
)
def test_odd_labels_cannot_look_like_other_names(label: bytes, text: str) -> None:
    wire = struct.pack("!6H", 7, 0, 1, 0, 0, 0) + bytes((len(label),)) + label + b"\0\0\1\0\1"
    assert message.parse(wire).name == text


@given(st.binary(max_size=400))
@example(query()[:12] + b"\xc0\x0c" + query()[-4:])
@example(query()[:4] + b"\xff" * 8 + query()[12:])
def test_hostile_bytes_give_a_query_an_rcode_or_silence(packet: bytes) -> None:
    read = message.read(packet)
    if isinstance(read, int):
        reply = message.error(packet, read)
        assert reply[:2] == packet[:2]
        assert dns.message.from_wire(reply).rcode() == read
    elif read is not None:
        assert packet[12:].startswith(read.question)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.integers(0, 200))
def test_damaged_queries_are_read_only_if_the_oracle_reads_them(changes: list[tuple[int, int]], cut: int) -> None:
    packet = bytearray(query("web.demo.svc.cluster.local", use_edns=0, payload=1232))
    for at, value in changes:
        packet[at % len(packet)] = value
    wire = bytes(packet[: max(0, len(packet) - cut)] if cut < 20 else packet)
    read = message.read(wire)
    if not isinstance(read, Query):
        return
    try:
        oracle = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
    except dns.exception.DNSException:
        return  # it also judges what is inside the records, which is the resolver's business
    assume(oracle.question)
    assert read.qtype == oracle.question[0].rdtype
    labels = oracle.question[0].name.labels[:-1]
    if all(label.replace(b"-", b"").isalnum() for label in labels):  # other bytes are spelled differently as text
        assert read.name == b".".join(labels).lower().decode()


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (b"", None),
        (query()[:11], None),
        (query()[:2] + b"\x81\x80" + query()[4:], None),  # a response
        (query()[:2] + b"\x28\0" + query()[4:], NOTIMP),  # an update
        (query()[:4] + b"\0\0" + query()[6:], SERVFAIL),  # no question
        (query()[:4] + b"\0\2" + query()[6:], FORMERR),
        (query()[:-1], FORMERR),
        (query()[:10] + b"\0\1" + query()[12:], FORMERR),  # promises a record that is not there
    ],
)
def test_what_is_no_query_is_refused_or_ignored(packet: bytes, verdict: int | None) -> None:
    assert message.read(packet) == verdict


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["abcdefgh"] * 30), "bücher"])
def test_text_that_is_no_name_is_not_encoded(name: str) -> None:
    with pytest.raises(FormatError):
        message.encode_name(name)


def test_a_failure_repeats_question_flags_and_edns() -> None:
    packet = query("Web.Demo", use_edns=0, want_dnssec=True)
    read = message.read(packet)
    assert isinstance(read, Query)
    out = dns.message.from_wire(message.error(packet, SERVFAIL, read))
    assert (out.rcode(), out.edns, out.question[0].name.to_text()) == (SERVFAIL, 0, "Web.Demo.")
    assert out.flags & dns.flags.RD
    assert out.ednsflags & dns.flags.DO


class TestAnswersTo:
    asked = dns.message.from_wire(query("a.test"))
    question = query("a.test")[12:]

    def test_the_reply_of_the_oracle_in_any_case(self) -> None:
        reply = dns.message.make_response(self.asked).to_wire()
        assert message.answers_to(reply, reply[:2], self.question)
        assert message.answers_to(reply, reply[:2], self.question.replace(b"test", b"TesT"))

    def test_another_id_type_name_or_direction_is_not_believed(self) -> None:
        reply = dns.message.make_response(self.asked).to_wire()
        assert not message.answers_to(reply, bytes((reply[0] ^ 1, reply[1])), self.question)
        assert not message.answers_to(reply, reply[:2], query("a.test", "AAAA")[12:])
        assert not message.answers_to(reply, reply[:2], query("b.test")[12:])
        assert not message.answers_to(query("a.test"), query("a.test")[:2], self.question)
        # HTTPS (65) and 97 differ by what is upper and lower case in letters.
        https = reply[:-4] + b"\0\x41\0\1"
        assert not message.answers_to(https, https[:2], self.question[:-4] + b"\0\x61\0\1")

    def test_a_refusal_without_a_question_counts_but_an_empty_success_does_not(self) -> None:
        refusal = b"\1\2\x80\1" + bytes(8)
        assert message.answers_to(refusal, b"\1\2", self.question)
        assert not message.answers_to(b"\1\2\x80\0" + bytes(8), b"\1\2", self.question)


class TestFit:
    def test_what_fits_is_left_alone(self) -> None:
        reply = big_reply(10)
        assert message.fit(reply, 512) is reply

    @given(st.integers(0, 100), st.integers(0, 40), st.booleans(), st.integers(512, 1600))
    def test_a_cut_reply_is_a_message_that_says_so(self, count: int, authority: int, edns: bool, limit: int) -> None:
        whole = big_reply(count, authority, edns)
        cut = message.fit(whole, limit)
        assert len(cut) <= limit
        out, full = dns.message.from_wire(cut), dns.message.from_wire(whole)
        assert bool(out.flags & dns.flags.TC) == (len(whole) > limit)
        assert out.question == full.question
        assert out.edns == full.edns
        assert {r.to_text() for s in out.answer for r in s} <= {r.to_text() for s in full.answer for r in s}
        if out.flags & dns.flags.TC:
            assert len(cut) + 40 > limit or not (count or authority)  # no more was lost than had to be

    def test_additional_data_goes_first_and_its_loss_is_no_truncation(self) -> None:
        out = dns.message.from_wire(big_reply(10))
        for i in range(60):
            out.additional.append(dns.rrset.from_text(f"h{i}.test.", 5, "IN", "A", "10.0.0.1"))
        cut = dns.message.from_wire(message.fit(out.to_wire(), 512))
        assert len(cut.answer[0]) == 10
        assert not cut.flags & dns.flags.TC

    @given(st.binary(min_size=12, max_size=2000), st.integers(512, 1000))
    def test_hostile_replies_are_cut_without_an_error(self, reply: bytes, limit: int) -> None:
        assert len(message.fit(reply, limit)) <= limit
