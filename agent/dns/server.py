"""The DNS proxy of the pod: mesh names from the host table, everything else from the resolvers of resolv.conf."""

import asyncio
import random
import socket
from collections.abc import Mapping
from typing import Any

from agent import logs
from agent.config import DnsConfig
from agent.dns import listen, message
from agent.dns.answer import Answer, local
from agent.dns.cache import AnswerCache
from agent.dns.message import FORMERR, MAX_TCP, SERVFAIL, Query
from agent.dns.stats import DnsStats
from agent.dns.table import HostTable
from agent.dns.tcp import Reply, TcpService
from agent.dns.udp import AnyAddressSocket
from agent.dns.upstream import Upstream
from agent.events import Recorder
from agent.latest import Latest
from agent.model import NameInfo, Readiness

log = logs.scope("dns")

UdpSocket = socket.socket | AnyAddressSocket

BURST = 256  # datagrams per turn of the loop, so that nobody else starves
MAX_QUERY = 4096  # bytes of a UDP query; longer ones are refused
NOT_YET = "the DNS proxy has not received a name table from the control plane yet"


class DnsServer:
    """Serves UDP and TCP on the configured address; `readiness` turns true with the first table."""

    def __init__(
        self,
        config: DnsConfig,
        table: Latest[Mapping[str, NameInfo] | None],
        recorder: Recorder,
        upstream_port: int = 53,
    ) -> None:
        self._config, self._table, self._recorder = config, table, recorder
        self._upstream_port = upstream_port
        self.stats = DnsStats()
        self.readiness = Latest(Readiness(False, NOT_YET))
        self.udp: list[UdpSocket] = []
        self.tcp: list[socket.socket] = []
        self._seen = -1  # version of the table that `_hosts` was made from
        self._hosts: HostTable | None = None
        self._source: Mapping[str, NameInfo] | None = None
        self._known, self._known_tcp = AnswerCache(), AnswerCache()

    async def start(self) -> None:
        """Bind; FatalError with one sentence if the address or resolv.conf will not do."""
        where = listen.place(self._config)
        self._search = where.resolv.search[0] if where.resolv.search else ""
        self._before_table = where.before_table
        udp, self.tcp = listen.bind(where.host, where.port, where.resolv.servers)
        own = {sock.getsockname()[0] for sock in udp}
        self.udp = list(udp)
        if own & {"0.0.0.0", "::"}:
            self.udp = [AnyAddressSocket(sock) for sock in udp]
            own |= {"127.0.0.1", "::1"}
        # A resolver that is this proxy itself would send every unknown name round in circles.
        servers = [s for s in where.resolv.servers if where.port != self._upstream_port or s not in own]
        self._upstream = Upstream(
            servers, self._config.parallel, self._config.timeout, self.stats, self._recorder, self._upstream_port
        )
        for sock in self.udp:
            host, port, *_ = sock.getsockname()
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            log.info("DNS proxy on %s, resolvers %s", address, ", ".join(servers) or "none")
        self._refresh()

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        service = TcpService(self._answer_tcp)
        try:
            for sock in self.udp:
                loop.add_reader(sock, self._drain, sock)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(), name="dns table")
                for listener in self.tcp:
                    group.create_task(service.serve(listener), name="dns tcp")
        finally:
            for sock in self.udp:
                loop.remove_reader(sock)
            self._upstream.close()
            self.close()

    def close(self) -> None:
        """Give the addresses back."""
        for sock in (*self.udp, *self.tcp):
            sock.close()

    # ---- the table

    async def _follow(self) -> None:
        async for _ in self._table.watch():
            self._refresh()

    def _refresh(self) -> None:
        """Take over the latest table; called before any answer too, so that an acknowledged table is in use."""
        self._seen = self._table.version
        table = self._table.value
        if table is None or (self._hosts is not None and table == self._source):
            return
        first, self._source = self._hosts is None, table
        self._hosts = HostTable(table, self._config.proxy_namespace, self._config.proxy_domain, self._search)
        self._known.clear()
        self._known_tcp.clear()
        log.debug("name table with %d hosts, %d names", len(table), len(self._hosts))
        if first:
            self._recorder.record("dns", "table-loaded", "The first name table is in use", hosts=len(table))
            self.readiness.set(Readiness(True))

    # ---- UDP

    def _drain(self, sock: UdpSocket) -> None:
        """The fast path: most queries repeat, byte by byte but for the id."""
        if self._seen != self._table.version:
            self._refresh()
        receive, send, look_up, fraction = sock.recvfrom, sock.sendto, self._known.get, random.random
        stats = self.stats
        for _ in range(BURST):
            try:
                packet, peer = receive(MAX_QUERY + 1)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("cannot receive: %s", error)
                return
            known = look_up(packet[2:])
            if type(known) is bytes:
                reply = packet[:2] + known
            elif type(known) is Answer:
                reply = known.wire(packet[:2], fraction())
            else:
                self._slow(sock, packet, peer, known if type(known) is Query else None)
                continue
            stats.requests += 1
            stats.cached += 1
            try:
                send(reply, peer)
            except OSError as error:  # a full buffer or a client that is gone: datagrams may get lost
                log.debug("cannot answer: %s", error)

    def _slow(self, sock: UdpSocket, packet: bytes, peer: Any, query: Query | None) -> None:
        if query is None:
            reply = self._decide(packet, self._known) if len(packet) <= MAX_QUERY else message.error(packet, FORMERR)
            if not isinstance(reply, Query):
                if reply is not None:
                    self._send(sock, reply, peer)
                return
            query = reply
        self.stats.requests += 1
        wanted = query

        def done(reply: bytes | None) -> None:
            if reply is None:
                reply = message.error(packet, SERVFAIL, wanted)
            self._send(sock, message.fit(reply, wanted.limit), peer)

        self._upstream.forward(packet, query.question, done)

    def _send(self, sock: UdpSocket, reply: bytes, peer: Any) -> None:
        try:
            sock.sendto(reply, peer)
        except OSError as error:
            log.debug("cannot answer: %s", error)

    # ---- TCP

    def _answer_tcp(self, packet: bytes) -> Reply:
        if self._seen != self._table.version:
            self._refresh()
        known = self._known_tcp.get(packet[2:])
        if known is None:
            decided = self._decide(packet, self._known_tcp, MAX_TCP)
            if not isinstance(decided, Query):
                return decided
            known = decided
        self.stats.requests += 1
        if isinstance(known, Query):
            return self._forward_tcp(packet, known)
        self.stats.cached += 1
        return packet[:2] + known if isinstance(known, bytes) else known.wire(packet[:2], random.random())

    async def _forward_tcp(self, packet: bytes, query: Query) -> bytes:
        reply = await self._upstream.forward_tcp(packet, query.question)
        return message.error(packet, SERVFAIL, query) if reply is None else reply

    # ---- both

    def _decide(self, packet: bytes, cache: AnswerCache, limit: int = 0) -> bytes | Query | None:
        """The reply to a packet that is not known yet (counted), or the query to forward (not counted), or nothing."""
        query = message.read(packet)
        if query is None:
            return None
        if isinstance(query, int):
            self.stats.requests += 1
            return message.error(packet, query)
        if self._hosts is None:
            if self._before_table:
                return query
            self.stats.requests += 1
            return message.error(packet, SERVFAIL, query)
        answer = local(query, self._hosts, limit or query.limit, random.random)
        cache.add(packet[2:], query if answer is None else answer)
        if answer is None:
            return query
        self.stats.requests += 1
        return answer.wire(packet[:2], random.random())
