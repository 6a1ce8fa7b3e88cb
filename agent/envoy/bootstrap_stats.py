"""stats_config of the bootstrap: which statistics exist and how tags are cut out of their names (spec 5.4). Pure."""

from collections.abc import Sequence
from typing import Any

from agent.config import AgentConfig
from agent.durations import go_duration
from agent.envoy.metadata import Warn, strict_json

_HOST = r"(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"
TAGS_FIRST = (
    ("cluster_name", r"^cluster(\.(.+);)"),
    ("http_conn_manager_prefix", r"^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)"),
    ("thread_name", r"^server(\.(.+))\.watchdog"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    ("http_conn_manager_listener_prefix", r"^listener(?=\.).*?\.http\." + _HOST),
    ("listener_address", r"^listener\." + _HOST),
    ("mongo_prefix", r"^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$"),
)
TAGS_LAST = (
    ("cache", r"(cache\.(.+?)\.)"),
    ("component", r"(component\.(.+?)\.)"),
    ("tag", r"(tag\.(.+?);\.)"),
    ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
    ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
    ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
)
PREFIXES = ("cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm")
SUFFIXES = ("rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied")
REGEXES = (r"vhost\..*\.route\..*",)


def stats_config(config: AgentConfig, discovery: bool, warn: Warn) -> dict[str, Any]:
    """The whole message. `discovery`: whether Envoy's workload discovery is on."""
    tags = [*TAGS_FIRST, *((t, rf"({t}=\.=(.*?);\.;)") for t in _extra_tags(config)), *TAGS_LAST]
    out: dict[str, Any] = {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in tags],
        "stats_matcher": {"inclusion_list": {"patterns": _patterns(config, discovery)}},
    }
    if buckets := _buckets(config, warn):
        out["histogram_bucket_settings"] = buckets
    return out


def _split(text: str) -> list[str]:
    return [piece for piece in text.split(",") if piece]


def _extra_tags(config: AgentConfig) -> list[str]:
    tags = [*config.proxy_config.get("extraStatTags", ()), *_split(_annotation(config, "extraStatTags"))]
    return list(dict.fromkeys(tag for tag in tags if tag))


def _annotation(config: AgentConfig, name: str) -> str:
    return config.node.annotations.get(f"sidecar.istio.io/{name}", "")


def _patterns(config: AgentConfig, discovery: bool) -> list[dict[str, Any]]:
    matcher = config.proxy_config.get("proxyStatsMatcher", {})

    def user(kind: str) -> list[str]:
        # An annotation replaces the configured list; an empty one does not.
        listed: Sequence[str] = _split(_annotation(config, f"statsInclusion{kind}")) or matcher.get(
            f"inclusion{kind}", ()
        )
        return [p.replace("{pod_ip}", ip) for p in listed for ip in (config.node.ips if "{pod_ip}" in p else ("",))]

    suffixes = [*user("Suffixes"), *SUFFIXES]
    if config.envoy.exit_on_zero_connections:
        suffixes.append("downstream_cx_active")
    out: list[dict[str, Any]] = [{"prefix": "reporter="}]
    if discovery:
        out.append({"prefix": "workload_discovery"})
    out += [{"prefix": p} for p in (*user("Prefixes"), *PREFIXES)]
    out += [{"suffix": s} for s in suffixes]
    out += [{"safe_regex": {"regex": r}} for r in (*user("Regexps"), *REGEXES)]
    return [*out, {"prefix": "component"}, {"prefix": "istio"}]


def _buckets(config: AgentConfig, warn: Warn) -> list[dict[str, Any]]:
    text = _annotation(config, "statsHistogramBuckets")
    if not text:
        return []
    try:
        found = strict_json(text)
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        return [{"match": {"prefix": p}, "buckets": [float(b) for b in found[p]]} for p in sorted(found)]
    except (ValueError, TypeError, OverflowError) as e:
        warn(f"annotation sidecar.istio.io/statsHistogramBuckets is ignored: it must map prefixes to numbers ({e})")
        return []


def intervals(config: AgentConfig, warn: Warn) -> dict[str, str]:
    """stats_flush_interval and stats_eviction_interval from annotations; what Envoy would refuse is a warning."""
    out = {}
    flush = 5.0
    if text := _annotation(config, "statsFlushInterval"):
        seconds = _seconds(text, "statsFlushInterval", warn)
        if seconds:
            flush = seconds
            out["stats_flush_interval"] = f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
    if text := _annotation(config, "statsEvictionInterval"):
        seconds = _seconds(text, "statsEvictionInterval", warn)
        if seconds and (seconds % flush or seconds % 1):
            warn(f"annotation sidecar.istio.io/statsEvictionInterval {text} is ignored: not a multiple of {flush:g}s")
        elif seconds:
            out["stats_eviction_interval"] = f"{int(seconds)}s"
    return out


def _seconds(text: str, name: str, warn: Warn) -> float:
    try:
        seconds = go_duration(text)
        if seconds > 0:
            return seconds
    except ValueError:
        pass
    warn(f"annotation sidecar.istio.io/{name} {text!r} is ignored: it must be a duration such as 10s")
    return 0.0
