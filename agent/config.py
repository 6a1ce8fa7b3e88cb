"""What the agent was told to do: one frozen tree, built once from (argv, environ, files); each component has a section.

Durations are seconds; paths are as configured (mostly relative to the working directory, which Envoy shares).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Role(Enum):
    SIDECAR = "sidecar"
    ROUTER = "router"
    WAYPOINT = "waypoint"
    ZTUNNEL = "ztunnel"
    AGENTGATEWAY = "agentgateway"


class GuardMode(Enum):
    """REDIRECT_GUARD: what the agent does about redirect rules that drift from the plan."""

    OFF = "off"
    DETECT = "detect"
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who this proxy is. Node id: `role~ips[0]~pod_name.namespace~domain`."""

    role: Role
    ips: tuple[str, ...]
    pod_name: str
    namespace: str
    service_account: str
    domain: str
    cluster_id: str
    trust_domain: str
    labels: Mapping[str, str] = field(default_factory=dict)  # downward API
    annotations: Mapping[str, str] = field(default_factory=dict)
    has_podinfo: bool = False

    @property
    def id(self) -> str:
        return f"{self.role.value}~{self.ips[0]}~{self.pod_name}.{self.namespace}~{self.domain}"

    @property
    def spiffe_id(self) -> str:
        """The identity asked for in the CSR; values verbatim, an empty trust domain gives `spiffe:///ns/...`."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def all_v6(self) -> bool:
        return all(":" in ip for ip in self.ips)


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """How to reach one gRPC peer (control plane or CA). TLS files are re-read for every connection."""

    addresses: tuple[str, ...]  # host:port, tried in order
    plaintext: bool
    root_file: str  # "" = the operating system's roots
    server_name: str  # verified name and SNI
    key_file: str = ""  # client certificate, used only if both are set, readable and not expired
    cert_file: str = ""
    token_file: str = "./var/run/secrets/tokens/istio-token"
    cluster_id: str = ""  # header `clusterid`
    headers: Mapping[str, str] = field(default_factory=dict)
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    spiffe_id: str
    ca: PeerConfig
    ttl: float = 86400.0
    grace_ratio: float = 0.5
    grace_jitter: float = 0.01
    rsa_key_size: int = 2048
    ecdsa: bool = False
    curve: str = "P256"
    pkcs8: bool = False
    cert_signer: str = ""
    output_dir: str = ""  # OUTPUT_CERTS
    output_mode: int = 0o600  # 0644 in Kubernetes


@dataclass(frozen=True, slots=True)
class SdsConfig:
    socket_path: str = "./var/run/secrets/workload-spiffe-uds/socket"
    crl_file: str = "/var/run/secrets/istio/crl/ca-crl.pem"
    crl_enabled: bool = True


@dataclass(frozen=True, slots=True)
class XdsConfig:
    socket_path: str
    plane: PeerConfig
    delta: bool = True
    dial_timeout: float = 5.0
    subscribe_names: bool = False  # NDS, when the DNS server is on
    subscribe_trust: bool = False  # PCDS


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    enabled: bool  # not DISABLE_ENVOY
    binary: str
    config_dir: str
    custom_config_file: str
    admin_port: int
    admin_host: str  # 127.0.0.1 or ::1
    status_port: int  # Envoy's own health listener, 15021
    stats_port: int  # 15090
    drain_duration: float = 45.0
    termination_drain_duration: float = 5.0
    minimum_drain_duration: float = 5.0
    exit_on_zero_connections: bool = False
    grace_period: float = 0.0  # terminationGracePeriodSeconds if known, else 0
    inbound_only_drain: bool = True  # sidecars
    restarts: int = 5  # ENVOY_RESTARTS; 0 = end with Envoy
    restart_window: float = 60.0
    run_as: tuple[int, int] | None = None  # uid, gid of the child, when the agent is root on :53


@dataclass(frozen=True, slots=True)
class StatusConfig:
    port: int  # 0 = no status server
    grpc_bootstrap: str = ""


@dataclass(frozen=True, slots=True)
class DnsConfig:
    enabled: bool = False
    address: str = "localhost:15053"
    resolv_conf: str = "/etc/resolv.conf"
    proxy_namespace: str = ""
    proxy_domain: str = ""  # --domain
    parallel: bool = False
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class GuardConfig:
    mode: GuardMode = GuardMode.OFF
    init_args: tuple[str, ...] = ()  # REDIRECT_ARGS: what the init container was given
    period: float = 5.0  # REDIRECT_GUARD_PERIOD


@dataclass(frozen=True, slots=True)
class LogConfig:
    levels: Mapping[str, str] = field(default_factory=lambda: {"default": "info", "grpc": "none"})
    json: bool = False
    targets: tuple[str, ...] = ("stdout",)
    stacktrace_levels: Mapping[str, str] = field(default_factory=lambda: {"default": "none"})


@dataclass(frozen=True, slots=True)
class AgentConfig:
    node: NodeConfig
    identity: IdentityConfig | None  # None: certificates come from files or an external SDS server
    sds: SdsConfig
    xds: XdsConfig
    envoy: EnvoyConfig
    status: StatusConfig
    dns: DnsConfig
    guard: GuardConfig
    log: LogConfig
    proxy_config: Mapping[str, Any]  # the effective ProxyConfig, protobuf JSON names, durations as "45s"
    environ: Mapping[str, str] = field(repr=False, default_factory=dict)  # the process environment at start
    envoy_args: tuple[str, ...] = ()  # everything after `-c <config>`
