import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.xds.srv import Record, SrvError, is_answer, question, records, truncated

NAME = "_xds._tcp.istiod.istio-system.svc.cluster.local"


def answer(asked, *lines, rcode=0):
    """What a real server would send: `lines` are rdata of SRV records."""
    reply = dns.message.make_response(dns.message.from_wire(asked))
    reply.set_rcode(rcode)
    if lines:
        reply.answer.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "SRV", *lines))
    return reply.to_wire()


def test_the_question_is_one_that_others_understand():
    parsed = dns.message.from_wire(question(NAME, 4711))
    assert parsed.id == 4711
    assert parsed.flags & dns.flags.RD
    [asked] = parsed.question
    assert asked.to_text() == f"{NAME}. IN SRV"


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, "ä.b", ".".join(["abcdefgh"] * 40)])
def test_no_name(name):
    with pytest.raises(SrvError):
        question(name, 1)


def test_records():
    asked = question(NAME, 1)
    reply = answer(asked, "0 5 15012 istiod-a.example.", f"10 0 15013 {NAME}.", "0 0 0 .")
    assert sorted(records(reply, asked), key=lambda r: r.port) == [
        Record(0, 5, 15012, "istiod-a.example"),
        Record(10, 0, 15013, NAME),
    ]
    assert not truncated(reply)


def test_an_alias_in_front_of_them():
    asked = question(NAME, 1)
    reply = dns.message.make_response(dns.message.from_wire(asked))
    reply.answer.append(dns.rrset.from_text(f"{NAME}.", 30, "IN", "CNAME", "other.example."))
    reply.answer.append(dns.rrset.from_text("other.example.", 30, "IN", "SRV", "1 2 3 t.example."))
    assert records(reply.to_wire(), asked) == [Record(1, 2, 3, "t.example")]


def test_none():
    asked = question(NAME, 1)
    assert records(answer(asked), asked) == []


def test_an_error_has_its_words():
    asked = question(NAME, 1)
    with pytest.raises(SrvError, match="there is no such name"):
        records(answer(asked, rcode=dns.rcode.NXDOMAIN), asked)


def test_answers_to_other_questions_are_none():
    asked = question(NAME, 1)
    assert is_answer(answer(asked), asked)
    assert not is_answer(asked, asked)  # a query
    assert not is_answer(answer(question(NAME, 2)), asked)
    assert not is_answer(answer(question("other.example", 1)), asked)
    assert not is_answer(b"", asked)


def test_pointers_that_do_not_end():
    asked = question(NAME, 1)
    reply = bytearray(answer(asked, "0 5 15012 a.example."))
    place = len(asked)
    reply[place : place + 2] = (0xC000 | place).to_bytes(2, "big")  # the owner's name points at itself
    with pytest.raises(SrvError):
        records(bytes(reply), asked)


@given(st.data())
def test_any_change_gives_records_or_the_one_error(data):
    asked = question(NAME, 1)
    reply = bytearray(answer(asked, "0 5 15012 a.example.", "1 1 1 b.example."))
    for _ in range(data.draw(st.integers(1, 4))):
        reply[data.draw(st.integers(0, len(reply) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(reply[: data.draw(st.integers(0, len(reply)))])
    try:
        assert all(0 < record.port < 65536 and record.target for record in records(cut, asked))
    except SrvError:
        pass
