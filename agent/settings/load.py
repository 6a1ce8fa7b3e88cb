"""Builds the AgentConfig from command line, environment and files (spec/agent.md 1)."""

import errno
import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from agent.cli.flags import PROXY, Parsed
from agent.config import (
    AgentConfig,
    AppProbe,
    BootstrapConfig,
    DnsConfig,
    EnvoyConfig,
    GuardConfig,
    GuardMode,
    LogConfig,
    NodeConfig,
    PeerConfig,
    ProxylessConfig,
    Role,
    ScrapeTarget,
    Sources,
    StatusConfig,
    XdsCacheConfig,
    XdsConfig,
)
from agent.durations import proto_seconds
from agent.errors import ConfigError, RemoraError
from agent.logs import parse_levels
from agent.settings import cloud, netinfo, podinfo
from agent.settings.bootstrap import bootstrap
from agent.settings.environment import DEFAULT, Environment
from agent.settings.health import health
from agent.settings.peers import Probe, Read, Trust
from agent.settings.proxy import DEFAULTS, proxy_config
from agent.settings.socketprobe import speaks_http2

LABELS, ANNOTATIONS = "./etc/istio/pod/labels", "./etc/istio/pod/annotations"
DNS_DEFAULT = "localhost:15053"
RESOLV_CONF, SECOND_RESOLV_CONF = "/etc/resolv.conf", "/var/lib/istio/resolv.conf"
PROXY_USER = (1337, 1337)
MAX_FILE = 16 << 20  # bytes; what is longer was not meant for us

InterfaceIps = Callable[[Collection[str]], tuple[str, ...]]
T = TypeVar("T")
NOBODY = PeerConfig(addresses=(), plaintext=False, root_file="", server_name="")


def read_file(path: str) -> bytes | None:
    """Content of a regular file, None if there is none; raises OSError if it is unreadable, huge or a directory."""
    try:
        found = os.stat(path)
        mode = found.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for its writer
            return None
        if found.st_size > MAX_FILE:
            raise OSError(errno.EFBIG, f"it has more than {MAX_FILE >> 20} MiB")
        with open(path, "rb") as f:
            return f.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


class Attempts:
    """Builds sections one by one: the first that refuses ends it, unless somebody collects the problems of all."""

    def __init__(self, problems: list[RemoraError] | None) -> None:
        self.problems = problems
        self.clean = True

    def refuse(self, error: RemoraError) -> None:
        if self.problems is None:
            raise error
        self.clean = False
        self.problems.append(error)

    def __call__(self, fallback: T, build: Callable[[], T]) -> T:
        try:
            return build()
        except RemoraError as error:
            self.refuse(error)
            return fallback


def load(
    role_args: Sequence[str] | Parsed,
    environ: Mapping[str, str],
    read: Read = read_file,
    interface_ips: InterfaceIps = netinfo.interface_ips,
    *,
    probe_socket: Probe = speaks_http2,
    resolve_udp: Callable[[str, int], str] = netinfo.resolve_udp,
    ask: cloud.Ask = cloud.ask_http,
    uid: int | None = None,
    problems: list[RemoraError] | None = None,
) -> AgentConfig:
    """The configuration for `proxy ROLE_ARGS`; raises ConfigError with one sentence, or flags.HelpWanted.

    `interface_ips(excluded interface names)` gives the machine's addresses; `probe_socket(path)` tells whether an
    HTTP/2 server answers there; `resolve_udp(host, port)` gives `ip:port` or raises OSError; `ask` reaches a metadata
    server. With a list as `problems` every section is tried: what refuses is appended, and replaced by its default.
    """
    attempt = Attempts(problems)
    args = role_args if isinstance(role_args, Parsed) else PROXY.parse(role_args)
    env = Environment(environ)
    log = attempt(LogConfig(), lambda: _log(args, env))
    role = attempt(Role.SIDECAR, lambda: _role(args))
    labels, annotations, has_podinfo = _podinfo(env, read)
    node = _node(args, env, role, (labels, annotations, has_podinfo), interface_ips)
    effective = attempt(DEFAULTS, lambda: proxy_config(args, env, annotations, read, resolve_udp, attempt.refuse))
    proxy = effective.fields if attempt.clean else DEFAULTS.fields  # the rest builds on usable addresses
    status = attempt(StatusConfig(0), lambda: _status(env, role, proxy))
    guard = attempt(GuardConfig(), lambda: _guard(env))
    cache = attempt(XdsCacheConfig(), lambda: _xds_cache(env, node))
    platform = cloud.detect(env, read, node.ips, ask)
    if "stackdriver" in proxy.get("tracing", {}) and not platform.metadata.get("gcp_project"):
        attempt.refuse(ConfigError("tracing.stackdriver needs a GCP project: set GCP_METADATA or use another tracer"))
    trust = Trust(env, proxy, node, read, probe_socket)
    dns, run_as = _dns(env, role, node, read, os.getuid() if uid is None else uid)
    identity = attempt(None, trust.identity)
    return AgentConfig(
        node=node,
        identity=identity,
        machine_token=attempt(None, trust.machine_token),
        sds=trust.sds(ca=identity is not None),
        xds=XdsConfig(
            socket_path=f"{proxy['configPath']}/XDS",
            plane=attempt(NOBODY, trust.plane),
            delta=env.flag("ISTIO_DELTA_XDS", True) or role is Role.WAYPOINT,
            subscribe_names=dns.enabled,
            subscribe_trust=env.flag("PROXY_CONFIG_XDS_AGENT", False),
            cache=cache,
            hold=max(0.0, env.seconds("XDS_HOLD", 5.0)),
            send_timeout=max(0.0, env.seconds("XDS_SEND_TIMEOUT", 300.0)),
            idle_timeout=max(0.0, env.seconds("XDS_IDLE_TIMEOUT", 0.0)),
        ),
        envoy=_envoy(env, role, node, proxy, run_as),
        status=status,
        dns=dns,
        guard=guard,
        log=log,
        proxy_config=proxy,
        environ=environ,
        bootstrap=attempt(BootstrapConfig(), lambda: bootstrap(args, env, proxy, read, trust)),
        platform=platform,
        proxyless=ProxylessConfig(
            env.text("GRPC_XDS_BOOTSTRAP", "etc/istio/proxy/grpc-bootstrap.json"), env.text("OUTPUT_CERTS")
        ),
        sources=Sources(
            {n: (v, "flag" if n in args.given else DEFAULT) for n, v in args.values.items()},
            env.used,
            effective.sources,
        ),
        health=attempt(None, lambda: health(proxy.get("readinessProbe"), node.ips, status.probe_localhost)),
        warnings=tuple(env.warnings),
        notes=(
            *(f"the unknown flag {shown} is ignored" for shown in args.unknown),
            *(f"the unknown field {name} is ignored" for name in effective.unknown),
        ),
    )


def _xds_cache(env: Environment, node: NodeConfig) -> XdsCacheConfig:
    switch = env.text("XDS_CACHE", "on").lower()
    if switch not in ("", "on", "off", "true", "false", "1", "0"):
        raise ConfigError(f"XDS_CACHE {switch!r} is not usable: write on or off")
    defaults = XdsCacheConfig()
    return XdsCacheConfig(
        enabled=switch not in ("off", "false", "0"),
        max_bytes=max(0, env.number("XDS_CACHE_MAX_BYTES", defaults.max_bytes)),
        max_age=max(0.0, env.seconds("XDS_CACHE_MAX_AGE", defaults.max_age)),
        after=max(0.0, env.seconds("XDS_CACHE_AFTER", defaults.after)),
        state_dir=env.text("STATE_DIR"),
        allow_disk=env.flag("XDS_STATE_ALLOW_DISK", False),
        owner=node.id,
    )


def _role(args: Parsed) -> Role:
    word = args.words[0] if args.words else "sidecar"
    try:
        return Role(word)
    except ValueError:
        known = ", ".join(r.value for r in Role)
        raise ConfigError(f"invalid proxy Type: {word} (the word after `proxy` must be one of {known})") from None


def _log(args: Parsed, env: Environment) -> LogConfig:
    return LogConfig(
        levels={"default": "info", "grpc": "none", **_levels(args["log_output_level"], "--log_output_level")},
        json=args["log_as_json"],
        targets=args["log_target"],
        stacktrace_levels=_levels(args["log_stacktrace_level"], "--log_stacktrace_level"),
        callers=tuple(filter(None, args["log_caller"].split(","))),
        repeats=env.number("LOG_REPEATS", 20),
    )


def _levels(text: str, flag: str) -> dict[str, str]:
    try:
        return parse_levels(text)
    except ValueError as e:
        raise ConfigError(f"{flag} {e}") from None


def _podinfo(env: Environment, read: Read) -> tuple[dict[str, str], dict[str, str], bool]:
    found: list[dict[str, str] | None] = []
    for path in (LABELS, ANNOTATIONS):
        try:
            data = read(path)
            found.append(None if data is None else podinfo.parse(data))
        except (OSError, ValueError) as e:
            env.warn(f"{path} is ignored: {e}")
            found.append(None)
    return found[0] or {}, found[1] or {}, found[0] is not None


def _node(
    args: Parsed,
    env: Environment,
    role: Role,
    pod: tuple[dict[str, str], dict[str, str], bool],
    interface_ips: InterfaceIps,
) -> NodeConfig:
    labels, annotations, has_podinfo = pod
    excluded = annotations.get("traffic.sidecar.istio.io/excludeInterfaces", "")
    instance = netinfo.canonical_ip(env.text("INSTANCE_IP").strip())
    ips = [instance] if instance else []
    ips += [ip for ip in interface_ips({n.strip() for n in excluded.split(",")}) if ip not in ips]
    namespace = env.text("POD_NAMESPACE")
    return NodeConfig(
        role=role,
        ips=tuple(ips) or ("127.0.0.1", "::1"),
        pod_name=env.text("POD_NAME"),
        namespace=namespace,
        service_account=env.text("SERVICE_ACCOUNT"),
        domain=args["domain"] or f"{namespace}.svc.cluster.local",
        cluster_id=env.text("ISTIO_META_CLUSTER_ID"),
        trust_domain=env.text("TRUST_DOMAIN", "cluster.local"),
        labels=labels,
        annotations=annotations,
        has_podinfo=has_podinfo,
    )


def _envoy(
    env: Environment, role: Role, node: NodeConfig, proxy: Mapping[str, Any], run_as: tuple[int, int] | None
) -> EnvoyConfig:
    return EnvoyConfig(
        enabled=not env.flag("DISABLE_ENVOY", False),
        binary=proxy["binaryPath"],
        config_dir=proxy["configPath"],
        custom_config_file=proxy.get("customConfigFile", ""),
        admin_port=proxy["proxyAdminPort"],
        admin_host="::1" if node.all_v6 else "127.0.0.1",
        status_port=env.number("ENVOY_STATUS_PORT", 15021),
        stats_port=env.number("ENVOY_PROMETHEUS_PORT", 15090),
        drain_duration=proto_seconds(proxy["drainDuration"]),
        termination_drain_duration=proto_seconds(proxy.get("terminationDrainDuration", "5s")),
        minimum_drain_duration=env.seconds("MINIMUM_DRAIN_DURATION", 5.0),
        exit_on_zero_connections=env.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", False),
        grace_period=max(0.0, env.real("TERMINATION_GRACE_PERIOD_SECONDS", 0.0)),
        inbound_only_drain=role is Role.SIDECAR,
        restarts=max(0, env.number("ENVOY_RESTARTS", 5)),
        restart_window=env.seconds("ENVOY_RESTART_WINDOW", 60.0),
        run_as=run_as,
    )


def _status(env: Environment, role: Role, proxy: Mapping[str, Any]) -> StatusConfig:
    port = proxy.get("statusPort", 0)
    probers, scraping = env.optional("ISTIO_KUBE_APP_PROBERS"), env.optional("ISTIO_PROMETHEUS_ANNOTATIONS")
    probes: Mapping[str, AppProbe] = {}
    targets: tuple[ScrapeTarget, ...] = ()
    if port and (probers or scraping):
        from agent.settings import status as config_status

        probes = config_status.app_probes(probers)
        targets = config_status.scrape(scraping, port) if role is Role.SIDECAR else ()
    return StatusConfig(
        port=port,
        app_probes=probes,
        scrape=targets,
        http2_probes=env.flag("ISTIO_ENABLE_HTTP2_PROBING", True),
        probe_localhost=env.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", False),
        probe_keepalive=env.flag("ENABLE_PROBE_KEEPALIVE_CONNECTIONS", False),
        local_metrics_only=env.flag("METRICS_LOCALHOST_ACCESS_ONLY", False),
        merge_envoy_stats=env.flag("PILOT_AGENT_MERGE_ENVOY_STATS", True),
    )


def _dns(
    env: Environment, role: Role, node: NodeConfig, read: Read, uid: int
) -> tuple[DnsConfig, tuple[int, int] | None]:
    """The DNS section, and the user of Envoy if it must not be root (the agent is, to bind port 53)."""
    enabled = (env.flag("ISTIO_META_DNS_CAPTURE", False) and role is Role.SIDECAR) or env.flag(
        "ISTIO_META_ENABLE_DNS_SERVER", False
    )
    address = env.text("DNS_PROXY_ADDR") or DNS_DEFAULT
    privileged = address.endswith(":53") and uid == 0
    if enabled and address.endswith(":53") and uid != 0:
        env.warn(f"DNS_PROXY_ADDR {address} needs root: {DNS_DEFAULT} is used instead")
        address = DNS_DEFAULT
    config = DnsConfig(
        enabled=enabled,
        address=address,
        resolv_conf=SECOND_RESOLV_CONF if privileged and _is_there(read, SECOND_RESOLV_CONF) else RESOLV_CONF,
        proxy_namespace=node.namespace,
        proxy_domain=node.domain,
        parallel=env.flag("DNS_FORWARD_PARALLEL", False),
        timeout=env.seconds("DNS_FORWARD_TIMEOUT", 5.0),
        forward_early=privileged,
    )
    return config, PROXY_USER if privileged else None


def _is_there(read: Read, path: str) -> bool:
    try:
        return read(path) is not None
    except OSError:
        return False


def _guard(env: Environment) -> GuardConfig:
    words = _shell_words(env.text("REDIRECT_ARGS"), "REDIRECT_ARGS")
    mode = env.text("REDIRECT_GUARD") or ("apply" if words else "off")
    if mode not in (m.value for m in GuardMode):
        raise ConfigError(f"REDIRECT_GUARD {mode!r} is not usable: write off, detect or apply")
    return GuardConfig(
        mode=GuardMode(mode),
        init_args=words[1:] if words[:1] == ("istio-iptables",) else words,
        period=max(0.1, env.seconds("REDIRECT_GUARD_PERIOD", 5.0)),
    )


def _shell_words(text: str, name: str) -> tuple[str, ...]:
    if not text.strip():
        return ()
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as e:
        raise ConfigError(f"{name} cannot be split into words ({e}): quote it as in a shell") from None
