import random

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns import message
from agent.dns.answer import local
from agent.dns.table import HostTable
from agent.model import NameInfo

SEARCH = "demo.svc.cluster.local"
LONG = ".".join(["y" * 60] * 3)
TABLE = {
    "web.demo.svc.cluster.local": NameInfo(("10.1.0.1",), "Kubernetes", "web", "demo"),
    "many.example.com": NameInfo((*(f"10.9.0.{i}" for i in range(60)), "2001:db8::1")),
    f"{LONG}.test": NameInfo(("10.3.0.1",)),
}
HOSTS = HostTable(TABLE, "demo", SEARCH, SEARCH)


def ask(asked: dns.message.Message, limit: int | None = None, spin: float = 0.0) -> dns.message.Message | None:
    packet = asked.to_wire()
    query = message.parse(packet)
    answer = local(query, HOSTS, query.limit if limit is None else limit, random.Random(1).random)
    if answer is None:
        return None
    wire = answer.wire(packet[:2], spin)
    assert len(wire) <= (query.limit if limit is None else limit)
    assert answer.fixed is None or answer.fixed == wire[2:]
    return dns.message.from_wire(wire)


def must(asked: dns.message.Message, limit: int | None = None, spin: float = 0.0) -> dns.message.Message:
    out = ask(asked, limit, spin)
    assert out is not None
    assert asked.is_response(out)
    return out


def rows(out: dns.message.Message) -> list[str]:
    return [f"{s.name} {s.ttl} {dns.rdatatype.to_text(s.rdtype)} {r.to_text()}" for s in out.answer for r in s]


@pytest.mark.parametrize("name", ["web", "WEB"])
def test_a_known_name(name: str) -> None:
    out = must(dns.message.make_query(name, "A"))
    assert rows(out) == ["web. 30 A 10.1.0.1"]
    assert out.question[0].name.to_text() == f"{name}."
    assert out.flags & dns.flags.AA
    assert out.flags & dns.flags.RD
    assert not out.flags & dns.flags.TC
    assert out.edns == -1


def test_the_clients_edns_is_answered() -> None:
    out = must(dns.message.make_query("web", "A", use_edns=0, payload=4096, want_dnssec=True))
    assert (out.edns, out.payload, out.ednsflags & dns.flags.DO != 0) == (0, message.OUR_PAYLOAD, True)


@pytest.mark.parametrize("name", ["web.demo", "Web.Demo"])
def test_a_name_of_the_search_domain_is_a_cname_and_an_address(name: str) -> None:
    out = must(dns.message.make_query(f"{name}.{SEARCH}", "A"))
    assert rows(out) == [f"web.demo.{SEARCH}. 30 CNAME web.demo.", "web.demo. 30 A 10.1.0.1"]


def test_the_other_family_is_empty_not_nxdomain() -> None:
    out = must(dns.message.make_query("web", "AAAA"))
    assert (out.rcode(), rows(out)) == (0, [])
    assert rows(must(dns.message.make_query(f"web.demo.{SEARCH}", "AAAA"))) == [
        f"web.demo.{SEARCH}. 30 CNAME web.demo."
    ]


@pytest.mark.parametrize(
    ("name", "kind", "klass"), [("web", "TXT", "IN"), ("web", "ANY", "IN"), ("web", "A", "CH"), ("x", "A", "IN")]
)
def test_the_rest_is_for_somebody_else(name: str, kind: str, klass: str) -> None:
    assert ask(dns.message.make_query(name, kind, klass)) is None


def test_each_address_comes_first_for_some_clients_and_none_is_lost() -> None:
    asked = dns.message.make_query("many.example.com", "A", use_edns=0, payload=4096)
    firsts = {rows(must(asked, spin=i / 60 + 0.001))[0] for i in range(60)}
    assert len(firsts) == 60
    assert len(set(rows(must(asked, spin=0.999)))) == 60


@given(
    st.integers(512, 1200),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.sampled_from(["many", "mAny"]),
    st.booleans(),
)
def test_a_cut_answer_is_as_full_as_it_can_be(limit: int, spin: float, edns: bool, name: str, search: bool) -> None:
    asked = dns.message.make_query(
        f"{name}.example.com" + (f".{SEARCH}" if search else ""), "A", **({"use_edns": 0} if edns else {})
    )
    out = must(asked, limit, spin)
    addresses = [r for r in rows(out) if " A " in r]
    assert bool(out.flags & dns.flags.TC) == (len(addresses) < 60)
    if len(addresses) < 60:
        assert len(out.to_wire(max_size=65535)) + 16 > limit - 40


def test_a_chain_too_long_for_the_client_is_left_out_and_marked() -> None:
    asked = dns.message.make_query(f"{LONG}.test.{SEARCH}".replace("y", "Y"), "A")
    out = must(asked)
    assert out.flags & dns.flags.TC
    assert rows(must(asked, limit=65535))[-1] == f"{LONG}.test. 30 A 10.3.0.1"
