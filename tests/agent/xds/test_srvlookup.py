import asyncio
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from agent.errors import AttemptError
from agent.xds import srvlookup
from agent.xds.srv import Record
from agent.xds.srvlookup import look_up, read_resolv_conf


class Server(asyncio.DatagramProtocol):
    """A name server: `answers` maps names to SRV lines; others do not exist; None is silence."""

    def __init__(self, answers, cut=False):
        self.answers, self.cut, self.seen = answers, cut, []

    def connection_made(self, transport):
        self.transport = transport

    def reply(self, query):
        message = dns.message.from_wire(query)
        name = message.question[0].name.to_text(omit_final_dot=True)
        self.seen.append(name)
        lines = self.answers.get(name, ())
        reply = dns.message.make_response(message)
        if lines is None:
            return None
        if lines:
            reply.answer.append(dns.rrset.from_text(f"{name}.", 30, "IN", "SRV", *lines))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply

    def datagram_received(self, data, address):
        if reply := self.reply(data):
            if self.cut:
                reply.answer.clear()
                reply.flags |= dns.flags.TC
            self.transport.sendto(b"\0\1noise", address)  # not an answer to anything
            self.transport.sendto(reply.to_wire(), address)

    async def stream(self, reader, writer):
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = self.reply(await reader.readexactly(size)).to_wire()
        writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()


@asynccontextmanager
async def serving(answers, cut=False):
    loop = asyncio.get_running_loop()
    for last in (*[False] * 20, True):
        transport, server = await loop.create_datagram_endpoint(lambda: Server(answers, cut), ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        try:
            tcp = await asyncio.start_server(server.stream, "127.0.0.1", port)
            break
        except OSError:  # somebody has that port for TCP
            transport.close()
            if last:
                raise
    try:
        yield ("127.0.0.1", port), server
    finally:
        transport.close()
        tcp.close()


def asked(answers, name="xds.example", search=(), cut=False, before=()):
    async def go():
        async with serving(answers, cut) as (address, server):
            return await look_up(name, lambda: ([*before, address], search)), server.seen

    return asyncio.run(go())


ONE = Record(0, 1, 15012, "a.example")


def test_found():
    assert asked({"xds.example": ["0 1 15012 a.example."]}) == ([ONE], ["xds.example"])


def test_found_in_a_search_domain():
    found, seen = asked({"xds.ns.svc": ["0 1 15012 a.example."]}, "xds", ["other", "ns.svc"])
    assert found == [ONE]
    assert seen == ["xds", "xds.other", "xds.ns.svc"]


def test_an_answer_that_was_cut_is_fetched_over_tcp():
    lines = [f"0 {i} 15012 host-{i}.example." for i in range(1, 60)]
    assert len(asked({"xds.example": lines}, cut=True)[0]) == 59


def test_the_next_server_when_one_is_silent(monkeypatch):
    monkeypatch.setattr(srvlookup, "PATIENCE", 0.1)

    async def go():
        async with (
            serving({"xds.example": None}) as (silent, _),
            serving({"xds.example": ["0 1 15012 a.example."]}) as (
                other,
                _,
            ),
        ):
            return await look_up("xds.example", lambda: ([("127.0.0.1", 1), silent, other], ()))

    assert asyncio.run(go()) == [ONE]


def test_one_sentence_when_there_is_none(monkeypatch):
    monkeypatch.setattr(srvlookup, "PATIENCE", 0.1)
    with pytest.raises(AttemptError, match="there is no such name"):
        asked({})
    with pytest.raises(AttemptError, match="does not answer"):
        asked({"xds.example": None})
    with pytest.raises(AttemptError, match="no name server is configured"):
        asyncio.run(look_up("xds.example", lambda: ([], ())))


def test_resolv_conf(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nnameserver 10.0.0.10\nnameserver fd00::a\nsearch a.b.\noptions ndots:5\nsearch ns.svc svc.\n")
    assert read_resolv_conf(str(path)) == ([("10.0.0.10", 53), ("fd00::a", 53)], ["ns.svc", "svc"])
    assert read_resolv_conf(str(tmp_path / "missing")) == ([], [])
