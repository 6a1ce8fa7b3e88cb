"""The section for Envoy's bootstrap and command line, from flags, environment and files (spec 1.1, 1.4, 5.1)."""

import json
from collections.abc import Mapping
from typing import Any

from agent.cli.flags import GO_TRUE, Parsed
from agent.config import BootstrapConfig
from agent.durations import proto_nanos
from agent.errors import ConfigError
from agent.settings import proxyconfig
from agent.settings.environment import Environment
from agent.settings.peers import Read, Trust


def bootstrap(args: Parsed, env: Environment, proxy: Mapping[str, Any], read: Read, trust: Trust) -> BootstrapConfig:
    """The section; raises ConfigError for a bootstrap file that cannot be used."""
    level, components = _envoy_levels(args, env)
    flush = proxy.get("fileFlushInterval")
    hbone = env.values.get("ISTIO_META_ENABLE_HBONE", proxy.get("proxyMetadata", {}).get("ISTIO_META_ENABLE_HBONE", ""))
    return BootstrapConfig(
        log_level=level,
        component_log_level=components,
        concurrency=max(0, proxy.get("concurrency", 0)),
        flush_interval_ms=(proto_nanos(flush) // 1_000_000 if flush else 0) or 1000,
        flush_min_size_kb=proxy.get("fileFlushMinSizeKb"),
        skip_deprecated_logs=env.flag("ENVOY_SKIP_DEPRECATED_LOGS", True),
        core_dump=env.flag("ISTIO_ENVOY_ENABLE_CORE_DUMP", False),
        override=_override(env, read),
        custom=_custom(env, proxy, read),
        service_name=args["serviceCluster"],
        outlier_log_path=args["outlierLogPath"],
        sts_port=args["stsPort"],
        host_ip=env.text("HOST_IP"),
        dual_stack=env.flag("ISTIO_DUAL_STACK", False),
        metadata_discovery=env.flag("PEER_METADATA_DISCOVERY", hbone in GO_TRUE),
        secure_metrics_port=env.number("ENVOY_SECURE_METRICS_PORT", 0),
        secure_merged_metrics_port=env.number("ENVOY_SECURE_MERGED_METRICS_PORT", 0),
        proxy_protocol=env.flag("ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL", False),
        strip_fragment=env.flag("HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED", True),
        compliance=env.text("COMPLIANCE_POLICY"),
        sds_socket_file=trust.socket_file,
        external_sds=trust.external_sds,
        credential_socket=trust.credential_socket,
    )


def _envoy_levels(args: Parsed, env: Environment) -> tuple[str, str]:
    """(level, components) from --proxyLogLevel, which may carry both; the last bare level wins."""
    level, components = "", []
    for entry in args["proxyLogLevel"].split(","):
        if entry.count(":") == 1:
            components.append(entry)
        elif ":" in entry:
            env.warn(f"--proxyLogLevel: {entry!r} is ignored, write component:level")
        elif entry:
            level = entry
    return level, ",".join(components) or args["proxyComponentLogLevel"]


def _override(env: Environment, read: Read) -> str:
    """ISTIO_BOOTSTRAP_OVERRIDE as one line of JSON; a file that cannot be used is a warning."""
    path = env.text("ISTIO_BOOTSTRAP_OVERRIDE")
    if not path:
        return ""
    try:
        data = read(path)
        if data is None:
            raise ConfigError("it does not exist")
        text = data.decode()
        host = env.text("HOST_IP")
        if ":" in host:
            text = text.replace("[$(HOST_IP)]", f"[{host}]").replace("$(HOST_IP)", f"[{host}]")
        parsed = proxyconfig.load_text(text.replace("$(HOST_IP)", host), path)
    except (OSError, UnicodeDecodeError, ConfigError) as e:
        env.warn(f"ISTIO_BOOTSTRAP_OVERRIDE {path} is ignored: {e}")
        return ""
    return json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)


def _custom(env: Environment, proxy: Mapping[str, Any], read: Read) -> Mapping[str, Any] | None:
    """A bootstrap of the user's own. Go templates cannot be honoured; a plain file is taken as it is."""
    path = env.text("ISTIO_BOOTSTRAP") or proxy.get("proxyBootstrapTemplatePath", "")
    if not path or proxy.get("customConfigFile"):
        return None
    try:
        data = read(path)
    except OSError as e:
        raise ConfigError(f"cannot read the bootstrap {path}: {e.strerror or e}") from None
    if data is None:
        raise ConfigError(f"the bootstrap {path} does not exist: create it or unset ISTIO_BOOTSTRAP and --templateFile")
    text = data.decode("utf-8", "replace")
    if "{{" in text:
        raise ConfigError(
            f"the bootstrap {path} is a Go template, which this agent cannot fill in: "
            "use ISTIO_BOOTSTRAP_OVERRIDE or a plain file"
        )
    return proxyconfig.load_text(text, path)
