"""The pods' name server, judged by dnspython."""

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st

from agent.lab.nameserver import answer

HOSTS = {"istiod.istio-system.svc.cluster.local": "10.77.0.2"}


def ask(name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    reply = answer(query.to_wire(), HOSTS)
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert query.is_response(message)
    return message


def test_known_names_have_an_address() -> None:
    message = ask("Istiod.istio-system.svc.cluster.local")
    assert message.rcode() == dns.rcode.NOERROR
    assert message.flags & dns.flags.AA
    assert [str(r) for r in message.answer[0]] == ["10.77.0.2"]


def test_known_names_have_nothing_else() -> None:
    message = ask("istiod.istio-system.svc.cluster.local", "AAAA")
    assert message.rcode() == dns.rcode.NOERROR
    assert not message.answer


def test_mesh_names_are_unknown_here() -> None:
    assert ask("b.demo.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN


@given(st.binary(max_size=80))
def test_garbage_gets_an_error_or_silence(packet: bytes) -> None:
    reply = answer(packet, HOSTS)
    assert reply is None or reply[:2] == packet[:2]
