"""How a stream to the control plane ended, and whether anybody should worry."""

from enum import Enum

from agent.record import record


class Kind(Enum):
    GRACEFUL = "graceful"
    EXPECTED = "expected"  # a restart, a rebalancing, a replaced stream
    ERROR = "error"


PLANE, ENVOY, AGENT = "the control plane", "Envoy", "the agent"


@record
class Ending:
    """The status that Envoy gets: the name of a gRPC code and its message, as the control plane gave them."""

    code: str = "OK"
    message: str = ""
    by: str = PLANE  # who ended the stream

    @property
    def kind(self) -> Kind:
        if self.code == "OK":
            return Kind.GRACEFUL
        if self.by == AGENT:
            return Kind.ERROR
        if self.code in ("CANCELLED", "DEADLINE_EXCEEDED"):
            return Kind.EXPECTED
        if any(sign in self.message for sign in _NO_ERROR):
            return Kind.EXPECTED
        if self.code == "UNAVAILABLE" and any(sign in self.message for sign in _DISCONNECTED):
            return Kind.EXPECTED
        return Kind.ERROR

    @property
    def unreached(self) -> bool:
        """True when there was no control plane to end anything: dialling again is all that can be done."""
        return self.code == "UNAVAILABLE" and self.by == AGENT

    def __str__(self) -> str:
        """One sentence; our own messages are sentences already."""
        if self.by == AGENT and self.message:
            return self.message
        status = f" with {self.code}" if self.kind is Kind.ERROR or self.message else ""
        return f"{self.by} ended the discovery stream{status}" + (f": {self.message}" if self.message else "")


# Words of grpc-go and of the C core (a control plane may pass on what it got) and ours for an ordinary disconnect.
_DISCONNECTED = (
    "client disconnected",
    "error reading from server: EOF",
    "transport is closing",
    "Socket closed",
    "the connection was closed",
    "Connection reset by peer",
    "Broken pipe",
    "Cancelling all calls",
    "GOAWAY received",
)
_NO_ERROR = ("RST_STREAM with error code 0", "RST_STREAM with error code: NO_ERROR", "GOAWAY received; Error code: 0",
             "code = NO_ERROR")  # fmt: skip
