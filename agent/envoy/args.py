"""Envoy's command line and environment (spec/agent.md 6.1). Pure."""

from posixpath import normpath

from agent.config import AgentConfig

_FIPS_SUITES = ":".join(
    f"ECDHE-{key}-AES{bits}-GCM-SHA{hash_}" for bits, hash_ in ((128, 256), (256, 384)) for key in ("ECDSA", "RSA")
)


def config_file(config: AgentConfig) -> str:
    """The file given to Envoy: the user's own, or the one that the agent renders."""
    return config.envoy.custom_config_file or normpath(f"{config.envoy.config_dir}/envoy-rev.json")


def envoy_args(config: AgentConfig) -> list[str]:
    """Everything after the program name, in istio's order."""
    boot = config.bootstrap
    out = ["-c", config_file(config)]
    out += ["--drain-time-s", str(int(config.envoy.drain_duration))]
    out += ["--drain-strategy", "immediate"]
    out += ["--local-address-ip-version", "v6" if config.node.all_v6 else "v4"]
    out += ["--file-flush-interval-msec", str(boot.flush_interval_ms)]
    out += ["--disable-hot-restart", "--allow-unknown-static-fields"]
    if boot.flush_min_size_kb is not None:
        out += ["--file-flush-min-size-kb", str(boot.flush_min_size_kb)]
    if boot.log_level:
        out += ["-l", boot.log_level]
    if boot.component_log_level:
        out += ["--component-log-level", boot.component_log_level]
    if boot.skip_deprecated_logs:
        out.append("--skip-deprecated-logs")
    if boot.core_dump:
        out.append("--enable-core-dump")
    if boot.override:
        out += ["--config-yaml", boot.override]
    if boot.concurrency > 0:
        out += ["--concurrency", str(boot.concurrency)]
    return out


def envoy_environ(config: AgentConfig) -> dict[str, str]:
    """The agent's whole environment, plus what a compliance policy asks of Envoy's Google gRPC client."""
    out = dict(config.environ)
    if config.bootstrap.compliance in ("fips-140-2", "fips-140-3"):
        out["GRPC_SSL_CIPHER_SUITES"] = _FIPS_SUITES
    return out
