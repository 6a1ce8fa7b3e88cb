"""Nouns that more than one feature speaks about. Frozen; no protobuf, no I/O."""

from enum import Enum

from agent.record import message, record


@record
class Secret:
    """A workload certificate with its key and the roots it was verified against. All PEM; times are epoch seconds."""

    chain: bytes  # leaf first, then intermediates and root, as the CA answered
    key: bytes
    roots: bytes  # PEM blocks, sorted and de-duplicated
    identity: str  # the SPIFFE URI of the leaf
    not_before: float
    not_after: float
    created: float  # local time of receipt: rotation is computed from it, CAs backdate not_before
    serial: str = ""
    unshown = ("key",)


class EnvoyPhase(Enum):
    """Where the one Envoy is in its life."""

    STOPPED = "stopped"  # not started yet, or ended on request
    RUNNING = "running"
    RESTARTING = "restarting"  # crashed; a restart is due within the budget
    DRAINING = "draining"
    GIVEN_UP = "given up"  # the restart budget is spent


@record
class EnvoyState:
    phase: EnvoyPhase
    pid: int | None = None
    restarts: int = 0  # since the agent started
    crashes: int = 0  # exits that nobody asked for; watch it to act on a crash
    last_exit: str = ""  # one phrase: "killed by SIGKILL (possibly out of memory)"


@record
class Readiness:
    """The answer to one gate of /healthz/ready; `reason` says why not or, when ready, what is not as it should be."""

    ready: bool
    reason: str = ""


@record
class XdsStatus:
    """What the control-plane link looks like now."""

    connected: bool = False
    endpoint: str = ""
    streams: int = 0  # opened by Envoy since start
    error: str = ""  # why the last stream ended, one phrase
    stale: bool = False  # the control plane is away and Envoy is served what it accepted last
    cached_at: float = 0.0  # epoch seconds when the control plane was last heard; of use while stale


@message
class NameInfo:
    """One host of the name table. Source: istio.networking.nds.v1.NameTable.NameInfo."""

    ips: tuple[str, ...]
    registry: str = ""
    shortname: str = ""
    namespace: str = ""
    alt_hosts: tuple[str, ...] = ()
