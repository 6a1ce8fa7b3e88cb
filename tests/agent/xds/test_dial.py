import asyncio
import socket

import pytest

from agent import lookup
from agent.config import HttpProxy, PeerConfig
from agent.errors import AttemptError
from agent.xds.dial import Dialler
from agent.xds.srv import Record


@pytest.fixture
def names(monkeypatch):
    """A world in which these names have these addresses."""
    known = {}

    async def addresses(host, port):
        ips = known.get(host, [host] if host[0].isdigit() else None)
        if ips is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, port)) for ip in ips]

    monkeypatch.setattr(lookup, "addresses", addresses)
    return known


def dialler(*addresses, server_name="", **more):
    return Dialler(PeerConfig(addresses=addresses, plaintext=False, root_file="", server_name=server_name), **more)


def ordered(one):
    return [(c.address, c.name) for c in asyncio.run(one.order())]


def test_one_address_stays_what_it_is(names):
    names["istiod.example"] = ["10.0.0.1"]
    assert ordered(dialler("istiod.example:15012")) == [("istiod.example:15012", "istiod.example")]
    assert ordered(dialler("localhost:15012")) == [("localhost:15012", "istiod.istio-system.svc")]
    assert ordered(dialler("unix:/x", server_name="n")) == [("unix:/x", "n")]


def test_a_list_in_its_order_each_verified_by_its_own_name(names):
    assert ordered(dialler("a:1", "b:2")) == [("a:1", "a"), ("b:2", "b")]
    assert ordered(dialler("a:1", "b:2", server_name="x")) == [("a:1", "x"), ("b:2", "x")]


def test_every_address_of_a_name_verified_by_the_name(names):
    names["a"] = ["10.0.0.1", "10.0.0.2", "fd00::3"]
    found = ordered(dialler("a:1", "b:2"))
    assert sorted(found[:3]) == [("10.0.0.1:1", "a"), ("10.0.0.2:1", "a"), ("[fd00::3]:1", "a")]
    assert found[3] == ("b:2", "b")


def test_the_proxy_resolves_what_goes_through_it(names):
    """An exception is a name: nobody asks the proxy for the addresses of one, which are no exceptions themselves."""
    names["in.example"] = names["out.example"] = ["192.0.2.1", "192.0.2.2"]
    plane = PeerConfig(
        addresses=("in.example:1", "out.example:2", "unknown.example:3", "127.0.0.1:4"),
        plaintext=False,
        root_file="",
        server_name="",
        proxy=HttpProxy("proxy", 3128, exceptions="in.example"),
    )
    order = asyncio.run(Dialler(plane).order())
    assert sorted((c.address, c.name, c.proxied) for c in order) == [
        ("127.0.0.1:4", "127.0.0.1", False),
        ("192.0.2.1:1", "in.example", False),
        ("192.0.2.2:1", "in.example", False),
        ("out.example:2", "out.example", True),
        ("unknown.example:3", "unknown.example", True),
    ]


def test_srv_records(names):
    async def look_up(name):
        assert name == "_xds._tcp.example"
        return [Record(10, 0, 2, "c"), Record(0, 1, 1, "a"), Record(0, 1, 1, "b")]

    names["b"] = ["10.0.0.1", "10.0.0.2"]
    found = ordered(dialler("srv+_xds._tcp.example", "z:9", look_up_srv=look_up))
    assert sorted(found[:3]) == [("10.0.0.1:1", "b"), ("10.0.0.2:1", "b"), ("a:1", "a")]
    assert found[3:] == [("c:2", "c"), ("z:9", "z")]


def test_what_was_known_serves_when_nobody_can_say(names):
    answers = [[Record(0, 1, 1, "a")], AttemptError("lookup", "nobody says")]

    async def look_up(name):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    one = dialler("srv+x", look_up_srv=look_up)
    assert ordered(one) == [("a:1", "a")]
    assert ordered(one) == [("a:1", "a")]
    assert one.error == "nobody says"


def test_what_failed_is_tried_last(names):
    one = dialler("a:1", "b:2")

    async def go():
        first, _ = await one.order()
        one.failed(first, "refused")
        return await one.order()

    assert [c.address for c in asyncio.run(go())] == ["b:2", "a:1"]
    assert [(s.address, s.error) for s in one.standings()] == [("a:1", "refused"), ("b:2", "")]


def test_pauses_begin_anew_after_an_answer(names):
    now = [0.0]
    one = dialler("a:1", clock=lambda: now[0])

    async def go():
        [candidate] = await one.order()
        first = [one.pause() for _ in range(4)]
        now[0] = 1000.0
        for _ in range(10):
            one.pause()
        long = one.pause()
        one.answered(candidate)
        return first, long, one.pause()

    first, long, again = asyncio.run(go())
    assert first[0] == 0
    assert 0.05 <= first[1] <= 0.1
    assert all(pause <= 0.4 for pause in first)
    assert 2.5 <= long <= 5
    assert again == 0
