"""The settings of a run as data."""

from __future__ import annotations

from init.record import record

ALL = ("*",)
NATIVE = "istio-proxy-"  # how the names of our nftables tables begin
LIBRARY_VARIABLES = ("XTABLES_LIBDIR", "IPTABLES_LIBDIR", "PYTHON_IPTABLES_XTABLES_VERSION")  # of python-iptables


@record
class Ranges:
    """Address ranges by family, network addresses only; `all` stands for every address."""

    all: bool = False
    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    loopback: bool = False

    def of(self, family: int) -> tuple[str, ...]:
        return self.v4 if family == 4 else self.v6


@record
class InitConfig:
    """Everything a run needs to know. Ports and ids are canonical text, ready for a rule."""

    proxy_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    dns_port: int = 15053
    uids: tuple[str, ...] = ("1337",)
    gids: tuple[str, ...] = ("1337",)
    tproxy: bool = False
    inbound_ports: tuple[str, ...] = ()
    inbound_exclude: tuple[str, ...] = ()
    outbound_ports: tuple[str, ...] = ()
    outbound_exclude: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    include: Ranges = Ranges()
    exclude: Ranges = Ranges()
    groups: tuple[str, ...] = ALL
    groups_exclude: tuple[str, ...] = ()
    loopback4: str = "127.0.0.1/32"
    mark: int = 1337
    route_table: int = 133
    dns: bool = False
    dns_all: bool = False
    dns_servers: Ranges = Ranges()
    drop_invalid: bool = False
    v6: bool = False
    host_ip: str = ""
    backend: str = ""
    native: bool = False
    reconcile: bool = False
    force_apply: bool = False
    cleanup_only: bool = False
    skip_apply: bool = False
    dry_run: bool = False
    dry_run_file: str = ""
    validate: bool = False
    probe_port: int = 15002
    probe_timeout: float = 5.0
    cni_mode: bool = False
    namespace: str = ""
    log_level: str = "info"
    log_json: bool = False
    help: bool = False
    path: str = ""
    libraries: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
