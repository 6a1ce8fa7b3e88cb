"""The sans-I/O core as a whole: arbitrary bytes, two of our own ends talking, and hyper-h2 as the other end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.rpc import frames
from agent.rpc.connection import Connection
from agent.rpc.frames import MAX_FRAME, MAX_WINDOW, encode_headers
from agent.rpc.inbox import PREFIX
from agent.rpc.sending import QUEUE, Limits
from agent.rpc.status import Code
from agent.rpc.stream import Stream
from tests.fakes.http2 import HELLO, OK, ONLY, REQUEST, RESPONSE, SETTINGS, data, headers, message, sent

LIMITS = Limits(window=65_535, streams=20, message=1 << 20)


# -- Arbitrary bytes


def chopped(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(c % (len(raw) + 1) for c in cuts), len(raw)]
    yield from (raw[a:b] for a, b in itertools.pairwise(edges))


def survives(is_client: bool, pieces: Iterator[bytes]) -> None:
    """Nothing is raised, nothing grows: what is kept fits the limits, what is answered is less than what came."""
    connection, opened = Connection(is_client, LIMITS), list[Stream]()
    connection.opened = opened.append
    if is_client:
        opened += filter(None, (connection.open(REQUEST) for _ in range(3)))
    sent(connection)
    came = 0
    for piece in pieces:
        connection.receive(piece)
        came += len(piece)
        assert len(connection.streams) <= LIMITS.streams
        assert len(connection._rest) < MAX_FRAME + frames.HEAD_SIZE
        assert connection.queued <= 2 * came + 2000
        for stream in opened:
            assert stream.inbox.held <= max(LIMITS.window, LIMITS.message)
        if connection.broken:
            assert not connection.streams
            assert all(s.end is not None for s in opened if s.id in connection.streams or is_client)


numbers = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 7, 99, MAX_WINDOW, 1 << 31 | 1])
blocks = st.sampled_from([REQUEST, RESPONSE, OK, ONLY, b"", b"\x88", b"\x20", b"\xff\xff", b"\x40\x01a\x01b\xbe"])
some_frames = st.one_of(
    st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), numbers, st.binary(max_size=60)),
    st.builds(headers, numbers, blocks, st.booleans()),
    st.builds(data, numbers, st.binary(max_size=400).map(message), st.booleans()),
    st.builds(data, numbers, st.binary(max_size=30), st.booleans()),
    st.builds(frames.window_update, numbers, st.integers(0, (1 << 32) - 1)),
    st.builds(frames.rst_stream, numbers, st.integers(0, 20)),
    st.builds(frames.goaway, numbers, st.integers(0, 20), st.text(max_size=20)),
    st.builds(
        frames.settings,
        st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 100, 16_384, 65_536, MAX_WINDOW, 1 << 31]))),
    ),
    st.builds(frames.frame, st.just(frames.HEADERS), st.just(0), numbers, blocks),
    st.builds(frames.frame, st.just(frames.CONTINUATION), st.sampled_from([0, 4]), numbers, blocks),
)
cuts = st.lists(st.integers(0, 1 << 16), max_size=12)


@given(st.booleans(), st.booleans(), st.lists(st.binary(max_size=200), max_size=20))
def test_arbitrary_bytes(is_client: bool, polite: bool, pieces: list[bytes]) -> None:
    first = SETTINGS if is_client else HELLO
    survives(is_client, iter([first, *pieces] if polite else pieces))


@settings(max_examples=400)
@given(st.booleans(), st.lists(some_frames, max_size=40), cuts)
def test_arbitrary_frames(is_client: bool, found: list[bytes], cuts: list[int]) -> None:
    survives(is_client, chopped((SETTINGS if is_client else HELLO) + b"".join(found), cuts))


FROM_SERVER = (
    SETTINGS
    + headers(1, RESPONSE)
    + data(1, message(b"hello") + message(bytes(300)))
    + frames.window_update(3, 1000)
    + headers(3, RESPONSE)
    + frames.frame(frames.PING, 0, 0, bytes(8))
    + headers(1, OK, True)
    + data(3, message(b"x" * 50), False)
    + frames.goaway(3, 0, "bye")
    + headers(3, OK, True)
    + headers(5, ONLY, True)
)
FROM_CLIENT = (
    HELLO
    + headers(1)
    + data(1, message(b"hello"))
    + headers(3)
    + data(3, message(bytes(300)), True)
    + frames.settings([(4, 100)])
    + data(1, b"", True)
    + headers(5)
    + frames.rst_stream(5, 8)
    + frames.goaway(0, 0)
)
mutations = st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from("xid"), st.integers(0, 255)), max_size=6)


@settings(max_examples=400)
@given(st.booleans(), mutations, cuts)
def test_mutated_conversations(is_client: bool, changes: list[tuple[int, str, int]], cuts: list[int]) -> None:
    raw = bytearray(FROM_SERVER if is_client else FROM_CLIENT)
    for position, kind, value in changes:
        position %= len(raw)
        if kind == "x":
            raw[position] ^= value
        elif kind == "i":
            raw.insert(position, value)
        else:
            del raw[position]
    survives(is_client, chopped(bytes(raw), cuts))


# -- Two of our own


class Pipe:
    """One direction: what one end has sent and the other has not heard."""

    def __init__(self, source: Connection, target: Connection) -> None:
        self.source, self.target = source, target
        self.bytes = bytearray()

    def fill(self) -> None:
        self.bytes += sent(self.source)

    def deliver(self, size: int) -> None:
        self.fill()
        piece, self.bytes = bytes(self.bytes[:size]), self.bytes[size:]
        if piece:
            self.target.receive(piece)


class Side:
    """One end of a call: what it has given to the connection, and what it has taken from it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.given: list[bytes] = []
        self.took: list[bytes] = []
        self.closed = False
        self.responded = False


class Conversation(RuleBasedStateMachine):
    """A client and a server, bytes chopped at will between them: messages whole, in order; ends with their status."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0

    @initialize(small=st.booleans(), window=st.sampled_from([65_535, 100_000, 1 << 20]))
    def begin(self, small: bool, window: int) -> None:
        limits = Limits(window=1000 if small else window)
        self.client, self.server = Connection(True, Limits(window=window)), Connection(False, limits)
        self.up, self.down = Pipe(self.client, self.server), Pipe(self.server, self.client)
        self.calls: dict[int, tuple[Side, Side | None]] = {}
        self.resets: set[int] = set()
        self.server.opened = self.opened

    def opened(self, stream: Stream) -> None:
        self.calls[stream.id] = self.calls[stream.id][0], Side(stream)

    def side(self, number: int, is_client: bool) -> tuple[Connection, Side] | None:
        ids = sorted(self.calls)
        if not ids:
            return None
        here, there = self.calls[ids[number % len(ids)]]
        side = here if is_client else there
        return None if side is None else (self.client if is_client else self.server, side)

    @precondition(lambda self: len(self.calls) < 12)
    @rule()
    def open(self) -> None:
        stream = self.client.open(REQUEST)
        assert stream is not None
        self.calls[stream.id] = Side(stream), None

    @rule(
        number=st.integers(0, 20),
        is_client=st.booleans(),
        size=st.one_of(st.integers(0, 50), st.integers(0, 300_000)),
    )
    def send(self, number: int, is_client: bool, size: int) -> None:
        found = self.side(number, is_client)
        if found is None or found[1].closed or found[1].stream.local_closed:
            return
        connection, side = found
        self.respond(side, is_client)
        self.serial += 1
        body = (b"%d." % self.serial + bytes(size))[: max(size, 0)]
        side.given.append(body)
        connection.send(side.stream, body)

    def respond(self, side: Side, is_client: bool) -> None:
        if not is_client and not side.responded:
            side.responded = True
            self.server.respond(side.stream, RESPONSE)

    @rule(number=st.integers(0, 20), is_client=st.booleans(), count=st.integers(1, 5))
    def take(self, number: int, is_client: bool, count: int) -> None:
        if found := self.side(number, is_client):
            connection, side = found
            for _ in range(min(count, len(side.stream.inbox.messages))):
                side.took.append(side.stream.inbox.take())
            if side.stream.end is None:
                connection.took(side.stream)

    @rule(number=st.integers(0, 20), is_client=st.booleans())
    def close(self, number: int, is_client: bool) -> None:
        found = self.side(number, is_client)
        if found is None or found[1].closed:
            return
        connection, side = found
        side.closed = True
        self.respond(side, is_client)
        stream = side.stream
        connection.close(stream, data(stream.id, b"", True) if is_client else connection.trailers(stream, OK))

    @rule(number=st.integers(0, 20), is_client=st.booleans())
    def reset(self, number: int, is_client: bool) -> None:
        if (found := self.side(number, is_client)) and found[1].stream.id in found[0].streams:
            self.resets.add(found[1].stream.id)
            found[0].reset(found[1].stream, frames.CANCEL, Code.CANCELLED, "enough")

    @rule(is_client=st.booleans())
    def ping(self, is_client: bool) -> None:
        (self.client if is_client else self.server).ping()

    @rule(upward=st.booleans(), size=st.one_of(st.integers(1, 40), st.integers(1, 200_000)))
    def deliver(self, upward: bool, size: int) -> None:
        (self.up if upward else self.down).deliver(size)

    @invariant()
    def nobody_broke_the_rules(self) -> None:
        if not hasattr(self, "client"):
            return
        for connection in (self.client, self.server):
            assert connection.broken is None, connection.broken
            for stream in connection.streams.values():
                assert stream.recv_window + stream.debt <= max(stream.window, 65_535) + stream.window
                assert stream.out_size == sum(map(len, stream.out))
        for here, there in self.calls.values():
            for giver, taker in ((here, there), (there, here)):
                if giver is not None and taker is not None:
                    assert taker.took == giver.given[: len(taker.took)]

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        quiet = False
        while not quiet:
            quiet = True
            for pipe in (self.up, self.down):
                pipe.fill()
                quiet = quiet and not pipe.bytes
                pipe.deliver(1 << 30)
            for number in range(len(self.calls)):
                for is_client in (True, False):
                    self.take(number, is_client, 1000)
            quiet = quiet and not (self.client.queued or self.server.queued)  # what was taken lets more come
        self.nobody_broke_the_rules()
        for number, (here, there) in self.calls.items():
            if number in self.resets:
                assert number not in self.client.streams
                assert number not in self.server.streams
                assert here.stream.end is not None
                continue
            assert there is not None
            assert here.took == there.given
            if not there.closed:
                assert there.took == here.given
                assert here.stream.end is None
                assert there.stream.remote_closed is here.closed
            else:
                assert there.took == here.given[: len(there.took)]
                assert here.stream.end == (Code.OK, "")
                assert number not in self.client.streams
                assert number not in self.server.streams


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


# -- hyper-h2 as the other end


class Peer:
    """hyper-h2 with a window's worth of patience: it raises at every rule that we would break."""

    def __init__(self, is_client: bool) -> None:
        config = h2.config.H2Configuration(client_side=is_client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.ours = Connection(not is_client, Limits(window=100_000))
        self.streams: dict[int, Stream] = {}
        self.ours.opened = lambda stream: self.streams.__setitem__(stream.id, stream)
        self.heard: dict[int, bytes] = {}
        self.waits: dict[int, bytes] = {}
        self.ended: dict[int, h2.events.Event] = {}
        self.debts: list[tuple[int, int]] = []
        self.pending = 1  # SETTINGS that we have not acknowledged

    def exchange(self, size: int = 1 << 30, greedy: bool = True) -> bool:
        """Bytes both ways; whether there were any."""
        up, down = sent(self.ours), self.h2.data_to_send()
        step = max(size, len(up) // 50)  # hyper-h2 takes long over single bytes
        for start in range(0, len(up), step):
            for event in self.h2.receive_data(up[start : start + step]):
                self.event(event)
        step = max(size, len(down) // 500)
        for start in range(0, len(down), step):
            self.ours.receive(down[start : start + step])
        assert self.ours.broken is None, self.ours.broken
        if greedy:
            while self.debts:
                self.acknowledge()
        for stream in self.streams.values():
            if stream.end is None:
                self.ours.took(stream)
        for number in list(self.waits):
            self.push(number)
        return bool(up or down)

    def event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.heard[event.stream_id] = self.heard.get(event.stream_id, b"") + event.data
            if event.flow_controlled_length:
                self.debts.append((event.stream_id, event.flow_controlled_length))
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.pending -= 1
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
            self.ended.setdefault(event.stream_id, event)

    def set(self, name: h2.settings.SettingCodes, value: int) -> None:
        """hyper-h2 takes the first acknowledgement for all that it has sent: one at a time."""
        if not self.pending:
            self.pending += 1
            self.h2.update_settings({name: value})
            while (
                self.pending and name is h2.settings.SettingCodes.MAX_FRAME_SIZE
            ):  # what it reads at once has one limit
                self.exchange(1000)

    def acknowledge(self) -> None:
        number, size = self.debts.pop(0)
        self.h2.acknowledge_received_data(size, number)

    def send(self, number: int, body: bytes) -> None:
        self.waits[number] = self.waits.get(number, b"") + message(body)
        self.push(number)

    def push(self, number: int) -> None:
        try:
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            while self.waits[number] and room > 0:
                piece, self.waits[number] = self.waits[number][:room], self.waits[number][room:]
                self.h2.send_data(number, piece)
                room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
        except h2.exceptions.StreamClosedError:
            self.waits[number] = b""
        if not self.waits[number]:
            del self.waits[number]

    def settle(self, size: int) -> None:
        while self.exchange(size):
            continue


def split(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        flag, size = PREFIX.unpack_from(raw)
        assert not flag
        found.append(raw[5 : 5 + size])
        raw = raw[5 + size :]
    return found


actions = st.lists(
    st.one_of(
        st.tuples(st.just("ours"), st.integers(0, 2), st.one_of(st.integers(0, 100), st.integers(0, 120_000))),
        st.tuples(st.just("theirs"), st.integers(0, 2), st.one_of(st.integers(0, 100), st.integers(0, 120_000))),
        st.tuples(st.just("window"), st.just(0), st.sampled_from([0, 1, 1000, 65_535, 200_000])),
        st.tuples(st.just("frame"), st.just(0), st.sampled_from([16_384, 20_000, 100_000])),
        st.tuples(st.just("ping"), st.just(0), st.just(0)),
        st.tuples(st.just("exchange"), st.just(0), st.integers(1, 50_000)),
        st.tuples(st.just("acknowledge"), st.just(0), st.just(0)),
    ),
    max_size=25,
)


def act(peer: Peer, ids: list[int], steps: list[tuple[str, int, int]]) -> tuple[dict[int, list[bytes]], ...]:
    """The steps; returns what we and what the peer sent, by stream."""
    ours: dict[int, list[bytes]] = {n: [] for n in ids}
    theirs: dict[int, list[bytes]] = {n: [] for n in ids}
    for kind, index, value in steps:
        number = ids[index]
        if kind == "ours":
            ours[number].append(bytes([index]) * value)
            peer.ours.send(peer.streams[number], ours[number][-1])
        elif kind == "theirs":
            theirs[number].append(bytes([index]) * value)
            peer.send(number, theirs[number][-1])
        elif kind == "window":
            peer.set(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE, value)
        elif kind == "frame":
            peer.set(h2.settings.SettingCodes.MAX_FRAME_SIZE, value)
        elif kind == "ping":
            peer.h2.ping(b"12345678")
            peer.ours.ping()
        elif kind == "exchange":
            peer.exchange(value, greedy=False)
        elif peer.debts:
            peer.acknowledge()
        assert peer.ours.queued <= QUEUE + 200_000
    # Whatever was allowed before, now everything may go.
    while peer.pending:
        peer.exchange()
    peer.set(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE, 1_000_000)
    return ours, theirs


@settings(max_examples=40, deadline=None)
@given(actions, st.integers(1, 100_000))
def test_our_client_and_hyper_h2(steps: list[tuple[str, int, int]], size: int) -> None:
    peer = Peer(is_client=False)
    peer.settle(size)
    for _ in range(3):
        stream = peer.ours.open(REQUEST)
        assert stream is not None
        peer.streams[stream.id] = stream
    peer.settle(size)
    ids = sorted(peer.streams)
    for number in ids:
        peer.h2.send_headers(number, [(b":status", b"200"), (b"content-type", b"application/grpc")])
    ours, theirs = act(peer, ids, steps)
    taken: dict[int, list[bytes]] = {n: [] for n in ids}
    drain(peer, taken, size)
    for number in ids:
        peer.ours.close(peer.streams[number], data(number, b"", True))
    drain(peer, taken, size)
    for number in ids:
        assert isinstance(peer.ended[number], h2.events.StreamEnded)
        peer.h2.send_headers(number, [(b"grpc-status", b"0"), (b"x-long", b"y" * 20_000)], end_stream=True)
    drain(peer, taken, size)
    assert {n: split(peer.heard.get(n, b"")) for n in ids} == ours
    assert taken == theirs
    assert {s.end for s in peer.streams.values()} == {(Code.OK, "")}
    assert peer.ours.streams == {}


@settings(max_examples=40, deadline=None)
@given(actions, st.integers(1, 100_000))
def test_our_server_and_hyper_h2(steps: list[tuple[str, int, int]], size: int) -> None:
    peer = Peer(is_client=True)
    ids = [1, 3, 5]
    for number in ids:
        pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b"), (b":authority", b"x")]
        peer.h2.send_headers(number, [*pairs, (b"content-type", b"application/grpc"), (b"x-long", b"y" * 20_000)])
    peer.settle(size)
    assert sorted(peer.streams) == ids
    for stream in peer.streams.values():
        assert stream.headers is not None
        assert stream.headers[b"x-long"] == b"y" * 20_000
        peer.ours.respond(stream, RESPONSE)
    ours, theirs = act(peer, ids, steps)
    taken: dict[int, list[bytes]] = {n: [] for n in ids}
    drain(peer, taken, size)
    assert taken == theirs
    peer.h2.end_stream(1)  # one client half-closes, the others are ended by the server
    peer.settle(size)
    block = encode_headers([(b"grpc-status", b"0"), (b"grpc-message", b"z" * 40_000)])
    for number in ids:
        peer.ours.close(peer.streams[number], peer.ours.trailers(peer.streams[number], block))
    peer.settle(size)
    assert {n: split(peer.heard.get(n, b"")) for n in ids} == ours
    assert sorted(peer.ended) == ids
    assert peer.ours.streams == {}


def drain(peer: Peer, taken: dict[int, list[bytes]], size: int) -> None:
    moving = True
    while moving:
        moving = peer.exchange(size)
        for number, stream in peer.streams.items():
            while stream.inbox.messages:
                taken[number].append(stream.inbox.take())
                moving = True


@given(st.integers(0, 1 << 31), st.sampled_from([0, 7, 8, 11]))
def test_hyper_h2_hears_resets_and_goodbyes(last: int, error: int) -> None:
    peer = Peer(is_client=False)
    peer.settle(1 << 30)
    stream = peer.ours.open(REQUEST)
    assert stream is not None
    peer.settle(1 << 30)
    peer.ours.reset(stream, error, Code.CANCELLED, "")
    peer.ours.leave("bye")
    raw = sent(peer.ours)
    reset, goodbye = peer.h2.receive_data(raw)
    assert isinstance(reset, h2.events.StreamReset)
    assert reset.error_code == error
    assert isinstance(goodbye, h2.events.ConnectionTerminated)
    assert goodbye.additional_data == b"bye"
