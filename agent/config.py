"""What the agent was told to do: one frozen tree, built once from (argv, environ, files); each component has a section.

Durations are seconds; paths are as configured (mostly relative to the working directory, which Envoy shares).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from agent.record import record


class Role(Enum):
    """The first word of `proxy`; only sidecars capture DNS, merge application metrics and drain inbound only."""

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


@record
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
    labels: Mapping[str, str] = {}  # downward API
    annotations: Mapping[str, str] = {}
    has_podinfo: bool = False
    unshown = ("annotations",)

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


@record
class HttpProxy:
    """The HTTP proxy of the environment (HTTPS_PROXY), for every peer that its exceptions do not name."""

    host: str
    port: int
    authorization: str = ""  # value of the Proxy-Authorization header; "" = none
    exceptions: str = ""  # NO_PROXY
    unshown = ("authorization",)


@record
class PeerConfig:
    """How to reach one gRPC peer (control plane or CA). TLS files are re-read for every connection."""

    addresses: tuple[str, ...]  # host:port, tried in order
    plaintext: bool
    root_file: str  # "" = the operating system's roots
    server_name: str  # verified name and SNI
    key_file: str = ""  # client certificate, used only if both are set, readable and not expired
    cert_file: str = ""
    token_file: str = "./var/run/secrets/tokens/istio-token"
    token: str = ""  # a constant one instead of the file's (CREDENTIAL_FETCHER_TYPE=Mock)
    cluster_id: str = ""  # header `clusterid`
    headers: Mapping[str, str] = {}  # may hold credentials
    keepalive_interval: float = 30.0
    keepalive_timeout: float = 10.0
    proxy: HttpProxy | None = None  # see `agent.httpproxy.applies`
    policy: str = ""  # COMPLIANCE_POLICY
    unshown = ("token", "headers")


@record
class IdentityConfig:
    """The workload certificate: which key, from which CA, how long, renewed when."""

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
    root_overlap: bool = True  # ROOT_OVERLAP: the CA's former roots stay trusted while certificates under them live


@record
class MachineTokenConfig:
    """The identity token of a Google Compute Engine machine (CREDENTIAL_FETCHER_TYPE=GoogleComputeEngine)."""

    host: str  # of the metadata server, host or host:port
    audience: str  # the trust domain
    path: str = "./var/run/secrets/tokens/istio-token"


@record
class KeyProvider:
    """Who holds Envoy's private keys instead of Envoy (ProxyConfig.privateKeyProvider)."""

    name: str  # cryptomb or qat
    poll_delay_nanos: int
    fallback: bool = False


@record
class SdsConfig:
    """The socket on which Envoy fetches secrets, and the files that may stand in for a CA."""

    socket_path: str = "./var/run/secrets/workload-spiffe-uds/socket"
    crl_file: str = "/var/run/secrets/istio/crl/ca-crl.pem"
    crl_enabled: bool = True
    external: bool = False  # somebody else serves the workload certificate; this server has file resources only
    external_socket: str = ""  # where that somebody does
    cert_file: str = ""  # mounted files that are served as `default` and `ROOTCA` if they exist; "" = never
    key_file: str = ""
    root_file: str = ""
    debounce: float = 0.1  # FILE_DEBOUNCE_DURATION: the first pause before unusable files are read again
    ca: bool = True  # there is one, which has what no files are mounted for
    output_dir: str = ""  # OUTPUT_CERTS: what is served is written there as well; "" = nowhere
    output_mode: int = 0o600  # of those files; 0644 in Kubernetes
    key_provider: KeyProvider | None = None


@record
class XdsCacheConfig:
    """The last configuration that Envoy accepted, kept for when the control plane is away."""

    enabled: bool = True  # XDS_CACHE
    max_bytes: int = 64 << 20  # XDS_CACHE_MAX_BYTES; with more than that the cache switches itself off
    max_age: float = 86400.0  # XDS_CACHE_MAX_AGE, since the control plane was last heard
    after: float = 2.0  # XDS_CACHE_AFTER: how long the control plane may take for its first response
    state_dir: str = ""  # STATE_DIR: where it survives the agent; "" = nowhere
    allow_disk: bool = False  # XDS_STATE_ALLOW_DISK: STATE_DIR need not be a tmpfs
    owner: str = ""  # whose configuration it is; what another left behind is not used


@record
class XdsConfig:
    """The ADS relay: Envoy's socket on one side, the control plane on the other."""

    socket_path: str
    plane: PeerConfig
    delta: bool = True
    dial_timeout: float = 5.0
    subscribe_names: bool = False  # NDS, when the DNS server is on
    subscribe_trust: bool = False  # PCDS
    cache: XdsCacheConfig = XdsCacheConfig()
    hold: float = 5.0  # XDS_HOLD: how long Envoy's stream waits while no endpoint can be reached
    first_response: float = 5.0  # what an endpoint may take for it while there is another one
    send_timeout: float = 300.0  # XDS_SEND_TIMEOUT: one that takes no request for so long is left; 0 = never
    idle_timeout: float = 0.0  # XDS_IDLE_TIMEOUT: one that is silent for so long is left; 0 = never


@record
class HealthConfig:
    """How the workload itself is probed (ProxyConfig.readinessProbe)."""

    kind: str  # http, tcp, exec or grpc
    host: str
    port: int
    path: str = "/"  # with its query
    scheme: str = "http"
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    service: str = ""
    initial_delay: float = 0.0
    timeout: float = 1.0
    period: float = 10.0
    success_threshold: int = 1
    failure_threshold: int = 1
    unshown = ("headers", "command")


@record
class EnvoyConfig:
    """How Envoy is run, watched, drained and restarted."""

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


@record
class BootstrapConfig:
    """What Envoy's bootstrap and command line need beyond the other sections."""

    log_level: str = "warning"  # "" = do not pass one
    component_log_level: str = ""
    concurrency: int = 0  # 0 = as many threads as the machine has
    flush_interval_ms: int = 1000
    flush_min_size_kb: int | None = None
    skip_deprecated_logs: bool = True
    core_dump: bool = False
    override: str = ""  # one line of JSON for --config-yaml
    custom: Mapping[str, Any] | None = None  # a bootstrap to use instead of ours
    service_name: str = "istio-proxy"
    outlier_log_path: str = ""
    sts_port: int = 0
    host_ip: str = ""
    dual_stack: bool = False
    metadata_discovery: bool = False
    secure_metrics_port: int = 0
    secure_merged_metrics_port: int = 0
    proxy_protocol: bool = False  # on the health listener
    strip_fragment: bool = True
    compliance: str = ""  # COMPLIANCE_POLICY
    sds_socket_file: str = "socket"  # WORKLOAD_IDENTITY_SOCKET_FILE
    external_sds: bool = False  # somebody else serves the workload certificate on that socket
    credential_socket: bool = False  # somebody serves credentials on ./var/run/secrets/credential-uds/socket
    unshown = ("override", "custom")


@record
class AppProbe:
    """One probe of an application, as the injector rewrote it; source: ISTIO_KUBE_APP_PROBERS."""

    kind: str  # httpGet, tcpSocket or grpc
    port: int
    timeout: float = 0.0  # seconds; 0 = none given
    path: str = "/"
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""  # of a gRPC health check
    unshown = ("headers",)


@record
class ScrapeTarget:
    """One metrics page of the application; source: ISTIO_PROMETHEUS_ANNOTATIONS."""

    port: int
    path: str = "/metrics"


@record
class StatusConfig:
    """The agent's own HTTP port."""

    port: int  # 0 = no status server
    app_probes: Mapping[str, AppProbe] = {}  # by path, such as /app-health/web/livez
    scrape: tuple[ScrapeTarget, ...] = ()  # in the order of the page; sidecars only
    http2_probes: bool = True  # ISTIO_ENABLE_HTTP2_PROBING
    probe_localhost: bool = False  # REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION
    probe_keepalive: bool = False  # ENABLE_PROBE_KEEPALIVE_CONNECTIONS
    local_metrics_only: bool = False  # METRICS_LOCALHOST_ACCESS_ONLY
    merge_envoy_stats: bool = True


@record
class ProxylessConfig:
    """Applications that speak xDS themselves."""

    bootstrap: str = ""  # GRPC_XDS_BOOTSTRAP: the file that is written for them; "" = none
    certificates: str = ""  # OUTPUT_CERTS: where they find theirs


@record
class DnsConfig:
    """The DNS proxy."""

    enabled: bool = False
    address: str = "localhost:15053"
    resolv_conf: str = "/etc/resolv.conf"
    proxy_namespace: str = ""
    proxy_domain: str = ""  # --domain
    parallel: bool = False
    timeout: float = 5.0
    forward_early: bool = False  # answer from upstream before the first name table (root on port 53)


@record
class GuardConfig:
    """The redirect guard."""

    mode: GuardMode = GuardMode.OFF
    init_args: tuple[str, ...] = ()  # REDIRECT_ARGS: what the init container was given
    period: float = 5.0  # REDIRECT_GUARD_PERIOD


@record
class Platform:
    """The cloud that the node runs in, as its metadata server describes it."""

    name: str = ""  # aws, azure, gcp; "" = none, or none that says so
    metadata: Mapping[str, str] = {}
    locality: tuple[str, ...] = ()  # region, zone
    labels: Mapping[str, str] = {}  # of the instance, outside Kubernetes


@record
class Sources:
    """Where the values come from; `agent.settings.show` makes a list for people of it."""

    flags: Mapping[str, tuple[Any, str]] = {}  # by name: value and source
    environment: Mapping[str, tuple[Any, str]] = {}
    proxy: Mapping[str, str] = {}  # source by field of the ProxyConfig


@record
class LogConfig:
    """What is logged how and where; keys are scopes, values levels."""

    levels: Mapping[str, str] = {"default": "info", "grpc": "none"}
    json: bool = False
    targets: tuple[str, ...] = ("stdout",)
    stacktrace_levels: Mapping[str, str] = {"default": "none"}
    repeats: int = 20  # LOG_REPEATS: equal lines a minute; 0 = as many as there are
    callers: tuple[str, ...] = ()  # scopes whose lines say where in the program they come from


@record
class AgentConfig:
    """Everything. Build it with `agent.settings.load.load`."""

    unshown = ("environ", "sources", "proxy_config")

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
    environ: Mapping[str, str] = {}  # the process environment at start
    bootstrap: BootstrapConfig = BootstrapConfig()
    platform: Platform = Platform()
    proxyless: ProxylessConfig = ProxylessConfig()
    sources: Sources = Sources()
    health: HealthConfig | None = None  # None: the workload is not probed
    machine_token: MachineTokenConfig | None = None  # None: somebody mounts the token, or there is none
    warnings: tuple[str, ...] = ()  # what was ignored or replaced while reading; log once logging is set up
    notes: tuple[str, ...] = ()  # what is tolerated without a word, for the debug log: unknown flags and fields
