"""Forwarding to the resolvers of resolv.conf: unchanged but for the id, over the transport that the client used."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.dns.message import MAX_TCP, answers_to
from agent.dns.pool import Pool, Server
from agent.dns.stats import DnsStats
from agent.events import Recorder

MAX_PENDING = 4096  # UDP queries waiting for a resolver; one more is answered SERVFAIL at once
MAX_LANES = 64  # UDP sockets towards resolvers, all together
LANE_QUERIES = 512  # then a new socket, that is a new source port, takes over
BURST = 128  # datagrams per turn of the loop

Done = Callable[[bytes | None], None]


class Exchange:
    """One query on its way through the resolvers, until `done` was called once."""

    __slots__ = ("began", "done", "open", "packet", "question", "servers")

    def __init__(self, packet: bytes, question: bytes, servers: list[Server], began: float, done: Done) -> None:
        self.packet, self.question, self.servers, self.began = packet, question, servers, began
        self.done: Done | None = done
        self.open = 0  # resolvers that may still answer


class Waiting(NamedTuple):
    exchange: Exchange
    deadline: float  # loop time


class Lane:
    """A UDP socket connected to one resolver: the kernel drops what comes from anywhere else."""

    __slots__ = ("pending", "server", "sock", "used")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pending: dict[bytes, Waiting] = {}  # by id; insertion order is deadline order
        self.used = 0
        self.sock = socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self.sock.connect(server.address)
        except OSError:
            self.sock.close()
            raise


class Upstream:
    """The resolvers. `timeout` in seconds bounds each dial, write and read; all calls on the loop's thread."""

    def __init__(
        self,
        servers: Sequence[str],
        parallel: bool,
        timeout: float,
        stats: DnsStats,
        recorder: Recorder,
        port: int = 53,
    ) -> None:
        self._pool = Pool(servers, port, recorder)
        self._parallel, self._timeout = parallel, timeout
        self._stats = stats
        self._lanes: set[Lane] = set()
        self._pending = 0
        self._timer: asyncio.TimerHandle | None = None

    def forward(self, packet: bytes, question: bytes, done: Done) -> None:
        """Send a UDP query on; `done` gets the reply with the query's own id, or None, perhaps before this returns."""
        self._stats.upstream_requests += 1
        loop = asyncio.get_running_loop()
        exchange = Exchange(packet, question, self._pool.order(loop.time()), loop.time(), done)
        if self._pending >= MAX_PENDING:
            self._finish(exchange, None)
            return
        rounds = max(1, len(exchange.servers)) if self._parallel else 1
        for _ in range(rounds):
            self._try_next(exchange)

    async def forward_tcp(self, packet: bytes, question: bytes) -> bytes | None:
        """The reply of a resolver over TCP; None if none of them gave one."""
        self._stats.upstream_requests += 1
        began = asyncio.get_running_loop().time()
        servers = self._pool.order(began)
        reply = await (self._all_tcp if self._parallel else self._each_tcp)(servers, packet, question)
        if reply is None:
            self._stats.upstream_failures += 1
        else:
            self._stats.observe(asyncio.get_running_loop().time() - began)
        return reply

    def close(self) -> None:
        """Give every socket back; whoever still waits gets no answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for lane in list(self._lanes):
            lane.pending.clear()
            self._retire(lane)

    # ---- UDP

    def _try_next(self, exchange: Exchange) -> None:
        """Ask the next resolver; when none is left and none can answer any more, the exchange has failed."""
        while exchange.done is not None and exchange.servers:
            server = exchange.servers.pop(0)
            try:
                self._send(exchange, server)
                return
            except OSError as error:
                why = error.strerror or str(error)
                if server.lane is not None and not isinstance(error, BlockingIOError):
                    # A refusal of an earlier query, told now: it is true for all of them.
                    self._break(server.lane, why)
                else:
                    self._failed(server, why)
        if not exchange.open:
            self._finish(exchange, None)

    def _send(self, exchange: Exchange, server: Server) -> None:
        lane = self._lane(server)
        ident = os.urandom(2)
        while ident in lane.pending:
            ident = os.urandom(2)
        lane.sock.send(ident + exchange.packet[2:])
        lane.used += 1
        deadline = asyncio.get_running_loop().time() + self._timeout
        lane.pending[ident] = Waiting(exchange, deadline)
        self._pending += 1
        exchange.open += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._sweep)

    def _lane(self, server: Server) -> Lane:
        lane = server.lane
        if lane is not None and (lane.used < LANE_QUERIES or len(self._lanes) >= MAX_LANES):
            return lane
        server.lane = None
        if lane is not None and not lane.pending:
            self._retire(lane)
        lane = server.lane = Lane(server)
        self._lanes.add(lane)
        asyncio.get_running_loop().add_reader(lane.sock, self._drain, lane)
        return lane

    def _retire(self, lane: Lane) -> None:
        if lane in self._lanes:
            self._lanes.discard(lane)
            asyncio.get_running_loop().remove_reader(lane.sock)
            lane.sock.close()
        if lane.server.lane is lane:
            lane.server.lane = None

    def _drain(self, lane: Lane) -> None:
        for _ in range(BURST):
            try:
                reply = lane.sock.recv(MAX_TCP)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP refusal: it is true for every query on this socket
                self._break(lane, error.strerror or str(error))
                return
            waiting = lane.pending.get(reply[:2])
            if waiting is None or not answers_to(reply, reply[:2], waiting.exchange.question):
                continue
            del lane.pending[reply[:2]]
            self._pending -= 1
            exchange = waiting.exchange
            exchange.open -= 1
            self._pool.worked(lane.server)
            self._finish(exchange, exchange.packet[:2] + reply[2:])
        if lane.server.lane is not lane and not lane.pending:
            self._retire(lane)

    def _break(self, lane: Lane, why: str) -> None:
        lost, lane.pending = list(lane.pending.values()), {}
        self._retire(lane)
        self._pending -= len(lost)
        self._failed(lane.server, why)
        for waiting in lost:
            waiting.exchange.open -= 1
            self._try_next(waiting.exchange)

    def _sweep(self) -> None:
        """Move on what has waited too long, and come back when the next is due."""
        now = asyncio.get_running_loop().time()
        late: list[Exchange] = []
        for lane in list(self._lanes):
            expired = []
            for ident, waiting in lane.pending.items():
                if waiting.deadline > now:
                    break
                expired.append(ident)
            for ident in expired:
                late.append(lane.pending.pop(ident).exchange)
            if expired:
                self._failed(lane.server, f"no answer in {self._timeout:g} s")
            if lane.server.lane is not lane and not lane.pending:
                self._retire(lane)
        self._pending -= len(late)
        self._timer = None
        for exchange in late:
            exchange.open -= 1
            self._try_next(exchange)
        # An exchange that moved on has set the timer for its own deadline; the others may be due before that.
        deadlines = [next(iter(lane.pending.values())).deadline for lane in self._lanes if lane.pending]
        if deadlines:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(min(deadlines), self._sweep)

    def _finish(self, exchange: Exchange, reply: bytes | None) -> None:
        done, exchange.done = exchange.done, None
        if done is None:
            return  # another resolver was faster
        if reply is None:
            self._stats.upstream_failures += 1
        else:
            self._stats.observe(asyncio.get_running_loop().time() - exchange.began)
        done(reply)

    def _failed(self, server: Server, why: str) -> None:
        self._pool.failed(server, why, asyncio.get_running_loop().time())

    # ---- TCP

    async def _each_tcp(self, servers: list[Server], packet: bytes, question: bytes) -> bytes | None:
        for server in servers:
            if (reply := await self._ask_tcp(server, packet, question)) is not None:
                return reply
        return None

    async def _all_tcp(self, servers: list[Server], packet: bytes, question: bytes) -> bytes | None:
        first: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        async def ask(server: Server) -> None:
            reply = await self._ask_tcp(server, packet, question)
            if reply is not None and not first.done():
                first.set_result(reply)

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as each:
                for server in servers:
                    each.create_task(ask(server), name=f"dns tcp {server.text}")
            if not first.done():
                first.set_result(None)

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask_all(), name="dns tcp parallel")
            reply = await first
            asking.cancel()
        return reply

    async def _ask_tcp(self, server: Server, packet: bytes, question: bytes) -> bytes | None:
        writer = None
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(
                    server.text, server.port, family=server.family, limit=MAX_TCP + 2
                )
            async with asyncio.timeout(self._timeout):
                ident = os.urandom(2)
                writer.write(len(packet).to_bytes(2, "big") + ident + packet[2:])
                await writer.drain()
            async with asyncio.timeout(self._timeout):
                while True:
                    reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    if answers_to(reply, ident, question):
                        self._pool.worked(server)
                        return packet[:2] + reply[2:]
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._failed(server, f"TCP: {str(error) or f'no answer in {self._timeout:g} s'}")
            return None
        finally:
            if writer is not None:
                writer.transport.abort()
