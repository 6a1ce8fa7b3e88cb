"""Envoy and a control plane without a wire: what Envoy would hold after any conversation, in both flavours.

The control plane is the lab's, an implementation of the protocol that shares no line with the cache.
"""

import itertools

from agent.lab import envelope
from agent.lab.session import CDS, EDS, LDS, RDS, DeltaRequest, Push, StateRequest, resource  # noqa: F401
from agent.lab.session_delta import DeltaSession
from agent.lab.session_state import StateSession
from agent.protos import xds_pb2
from agent.xds.wire import Flavour

TYPES = (CDS, EDS, LDS, RDS)
DEPENDS = {EDS: CDS, RDS: LDS}  # whose names are asked for


def body(name, content):
    """A resource as Envoy's are: its name in the first field."""
    return xds_pb2.Node(id=name).SerializeToString() + bytes((0x12, len(content))) + content.encode()


def snapshot(world):
    """Type to name to content, as the lab's control plane has it."""
    return {t: {n: resource(n, body(n, c)) for n, c in world.get(t, {}).items()} for t in TYPES}


class Plane:
    """The lab's sessions behind frames."""

    def __init__(self, flavour, world):
        counter = itertools.count()
        delta = flavour is Flavour.DELTA
        self._session = (DeltaSession if delta else StateSession)(lambda: f"n{next(counter)}")
        self._decode = envelope.decode_delta if delta else envelope.decode_state
        self._encode = envelope.encode_delta if delta else envelope.encode_state
        self._snapshot = snapshot(world)

    def request(self, frame):
        return self._frames(self._session.request(self._decode(frame)[1], self._snapshot))

    def update(self, world):
        self._snapshot = snapshot(world)
        return self._frames(self._session.update(self._snapshot))

    def _frames(self, actions):
        return [self._encode(action) for action in actions if isinstance(action, Push)]


class Envoy:
    """Asks for everything it depends on, takes what it is sent, keeps it when its stream breaks."""

    def __init__(self, flavour):
        self.flavour = flavour
        self.held = {t: {} for t in TYPES}  # type to name to (version, value)
        self.version = dict.fromkeys(TYPES, "")
        self.asked = {t: set() for t in TYPES}
        self._nonce = dict.fromkeys(TYPES, "")
        self._opened = set()

    def world(self):
        return {t: {n: value for n, (_, value) in held.items()} for t, held in self.held.items()}

    def open(self):
        """The first requests of a new stream."""
        self._opened, self._nonce = set(), dict.fromkeys(TYPES, "")
        return [self._first(t) for t in TYPES if t not in DEPENDS or self.asked[t]]

    def _first(self, t):
        self._opened.add(t)
        if self.flavour is Flavour.SOTW:
            return self._state(t)
        versions = {n: version for n, (version, _) in self.held[t].items()}
        return xds_pb2.DeltaRequest(
            type_url=t, resource_names_subscribe=sorted(self.asked[t]), initial_resource_versions=versions
        ).SerializeToString()

    def _state(self, t, error=None):
        detail = None if error is None else xds_pb2.Status(code=13, message=error)
        return xds_pb2.Request(
            type_url=t,
            version_info=self.version[t],
            resource_names=sorted(self.asked[t]),
            response_nonce=self._nonce[t],
            error_detail=detail,
        ).SerializeToString()

    def response(self, frame, refuse=False):
        """Take a response; the requests that follow, in Envoy's order: subscriptions first, then the ACK."""
        if self.flavour is Flavour.DELTA:
            message = xds_pb2.DeltaResponse.FromString(frame)
            t = message.type_url
            if not refuse:
                for r in message.resources:
                    if t not in DEPENDS or r.name in self.asked[t]:
                        self.held[t][r.name] = (r.version, r.resource.value)
                for name in message.removed_resources:
                    self.held[t].pop(name, None)
            detail = xds_pb2.Status(code=13, message="no") if refuse else None
            ack = xds_pb2.DeltaRequest(type_url=t, response_nonce=message.nonce, error_detail=detail)
            return [*self._depend(t), ack.SerializeToString()]
        message = xds_pb2.Response.FromString(frame)
        t = message.type_url
        self._nonce[t] = message.nonce
        if not refuse:
            self.version[t] = message.version_info
            got = {xds_pb2.Node.FromString(r.value).id: ("", r.value) for r in message.resources}
            if t in DEPENDS:
                self.held[t].update((n, v) for n, v in got.items() if n in self.asked[t])
            else:
                self.held[t] = got
        follow = self._depend(t)
        return [*follow, self._state(t, "no" if refuse else None)]

    def _depend(self, parent):
        t = next((child for child, of in DEPENDS.items() if of == parent), None)
        if t is None or (names := set(self.held[parent])) == self.asked[t]:
            return []
        more, less = names - self.asked[t], self.asked[t] - names
        self.asked[t] = names
        for name in less:
            self.held[t].pop(name, None)
        if t not in self._opened:
            return [self._first(t)]
        if self.flavour is Flavour.SOTW:
            return [self._state(t)]
        return [
            xds_pb2.DeltaRequest(
                type_url=t, resource_names_subscribe=sorted(more), resource_names_unsubscribe=sorted(less)
            ).SerializeToString()
        ]


def talk(envoy, requests, answer, refuse=lambda: False):
    """Until nobody has anything to say. `answer(frame)` gives the responses to a request."""
    requests = list(requests)
    said = 0
    while requests:
        for frame in answer(requests.pop(0)):
            said += 1
            requests += envoy.response(frame, refuse())
    return said
