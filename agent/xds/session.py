"""One Envoy stream as arithmetic: which frame goes where, what the agent asks for itself, and what it acknowledges.

Frames come in, actions come out; nothing here waits. Everything that Envoy sends goes up as it came, whatever its
type; what comes down is sorted by type. Only the types that this session subscribed to are acknowledged here.
"""

from collections.abc import Sequence

from agent.record import message, record
from agent.xds import wire
from agent.xds.wire import Flavour, Frame, Head


@message
class ToPlane:
    """Send this frame up. `head`: of Envoy's own, None for ours."""

    frame: bytes
    head: Head | None = None
    aside = ("head",)


@message
class ToEnvoy:
    """Send this frame down."""

    frame: Frame
    head: Head


@message
class Apply:
    """Hand `value` to the owner of `head.type_url`, then call `Session.applied`. `mismatch`: refuse it unseen."""

    head: Head
    value: bytes
    mismatch: str = ""


@record
class Refused:
    """Envoy refused a response; its request is passed on all the same."""

    type_url: str
    error: str


@record
class Dropped:
    """A response that concerns nobody. `expected`: an empty one of a type of ours, no reason to worry."""

    type_url: str
    expected: bool


@record
class Announcement:
    """What the agent tells the control plane without having been asked, such as the workload's health.

    `error` None says that all is well. The last one of each type is repeated on every new stream.
    """

    type_url: str
    error: str | None = None


class Session:
    """The state of one stream. `subscribe` are the types we own, in the order in which they are asked for."""

    def __init__(self, flavour: Flavour, subscribe: Sequence[str] = ()) -> None:
        self.flavour = flavour
        self._owned = tuple(subscribe)
        self._subscribed = False
        self._announcements: dict[str, Announcement] = {}

    def request(self, frame: bytes) -> list[ToPlane | Refused]:
        """A frame of Envoy's. The first listener request is followed by our own. Raises wire.EnvelopeError."""
        head = wire.request_head(self.flavour, frame)
        actions: list[ToPlane | Refused] = [ToPlane(frame, head)]
        if head.error is not None:
            actions.append(Refused(head.type_url, head.error))
        if head.type_url == wire.LISTENER and not self._subscribed:
            self._subscribed = True
            actions.extend(ToPlane(wire.subscription(self.flavour, owned)) for owned in self._owned)
            actions.extend(self._announced(announcement) for announcement in self._announcements.values())
        return actions

    def response(self, frame: Frame) -> ToEnvoy | Apply | Dropped:
        """A frame of the control plane's. Raises wire.EnvelopeError."""
        head = wire.response_head(self.flavour, frame)
        if head.type_url in self._owned:
            return self._own(head, frame)
        if head.type_url.startswith(wire.TYPE + "envoy.") or head.type_url == wire.WORKLOAD:
            return ToEnvoy(frame, head)
        return Dropped(head.type_url, expected=False)

    def _own(self, head: Head, frame: Frame) -> Apply | Dropped:
        resource = wire.first_resource(self.flavour, frame)
        if resource is None:
            return Dropped(head.type_url, expected=True)
        type_url, value = resource
        if type_url.rpartition("/")[2] != head.type_url.rpartition("/")[2]:
            return Apply(head, b"", f"a response for {head.type_url} holds a resource of type {type_url or '(none)'}")
        return Apply(head, value)

    def applied(self, apply: Apply, error: str | None = None) -> ToPlane:
        """The owner took the resource (ACK), or `error` says why not (NACK)."""
        return ToPlane(wire.acknowledgement(self.flavour, apply.head, error))

    def announce(self, announcement: Announcement) -> list[ToPlane]:
        """Say it now or, before the first listener request, right after our subscriptions."""
        self._announcements[announcement.type_url] = announcement
        return [self._announced(announcement)] if self._subscribed else []

    def _announced(self, announcement: Announcement) -> ToPlane:
        return ToPlane(wire.refusal(self.flavour, announcement.type_url, announcement.error))
