"""What Envoy's plain-text statistics say: readiness and open connections. Pure."""

import re
from collections.abc import Iterable

from agent.record import record

CONFIG_QUERY = (
    r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$"
)
SERVER_QUERY = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)"
CONNECTIONS_QUERY = "/stats?usedonly&filter=downstream_cx_active$"
SERVER_STATES = ("LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING")

_LINE = re.compile(r"^(?P<name>\S+): (?P<value>\d{1,19})\s*$")


def parse(text: str) -> dict[str, int]:
    """Counters and gauges of `name: value` lines; the first of equal names wins, anything else is skipped."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            found.setdefault(match["name"], int(match["value"]))
    return found


@record
class ConfigUpdates:
    """How often Envoy accepted and refused clusters and listeners."""

    cds: int = 0
    cds_rejected: int = 0
    lds: int = 0
    lds_rejected: int = 0

    @property
    def complete(self) -> bool:
        return self.cds > 0 and self.lds > 0

    @property
    def reason(self) -> str:
        """Why the configuration is not complete; "" when it is."""
        if self.complete:
            return ""
        if not (self.cds or self.lds or self.cds_rejected or self.lds_rejected):
            what = "config not received from XDS server (is Istiod running?)"
        elif self.cds_rejected or self.lds_rejected:
            what = "config received from XDS server, but was rejected"
        else:
            what = "config not fully received from XDS server"
        return (
            f"{what}: cds updates: {self.cds} successful, {self.cds_rejected} rejected; "
            f"lds updates: {self.lds} successful, {self.lds_rejected} rejected"
        )


def config_updates(text: str) -> ConfigUpdates:
    found = parse(text)
    return ConfigUpdates(
        cds=found.get("cluster_manager.cds.update_success", 0),
        cds_rejected=found.get("cluster_manager.cds.update_rejected", 0),
        lds=found.get("listener_manager.lds.update_success", 0),
        lds_rejected=found.get("listener_manager.lds.update_rejected", 0),
    )


def server_reason(text: str) -> str:
    """Why Envoy does not serve yet; "" once it is LIVE and its workers run."""
    found = parse(text)
    state, workers = found.get("server.state"), found.get("listener_manager.workers_started")
    if state is None:
        return "server state is not yet updated"
    if state != 0:
        name = SERVER_STATES[state] if state < len(SERVER_STATES) else str(state)
        return f"server is not live, current state is: {name}"
    if workers is None:
        return "workers_started is not yet updated"
    return "" if workers == 1 else "workers have not yet started"


def open_connections(text: str, ignored_ports: Iterable[int]) -> int:
    """Downstream connections of the data listeners; −1 if there is no statistic at all.

    Not counted: per-worker repetitions, Envoy's internal listeners, its admin port and the listeners of `ignored_ports`
    (health, metrics) on either wildcard address, whose pollers never go away.
    """
    found = parse(text)
    if not found:
        return -1
    ignored = {f"listener.{wildcard}_{port}." for port in ignored_ports for wildcard in ("0.0.0.0", "[__]")}
    ignored |= {"listener.admin.", "listener.envoy_internal_"}
    return sum(
        value
        for name, value in found.items()
        if name.startswith("listener.")
        and name.endswith(".downstream_cx_active")
        and "worker_" not in name
        and not name.startswith(tuple(ignored))
    )
