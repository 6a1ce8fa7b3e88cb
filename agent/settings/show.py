"""The configuration as a list for people: every setting, its value and where it came from; secrets are left out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agent.config import AgentConfig
from agent.record import record
from agent.settings.environment import ENVIRONMENT
from agent.settings.proxy import MERGED, NAME, source_of
from agent.settings.proxyschema import FIELDS

REDACTED = "(redacted)"
# Part of the name of what nobody may read; header values are secret whatever their name.
SECRET_WORDS = ("accesstoken", "access_token", "password", "passwd", "passphrase", "apikey", "api_key", "client_secret",
                "bearer", "authorization", "private key")  # fmt: skip
SECRET_ENDS = ("_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
HTTP_HEADERS = "httpheaders"  # of a probe: a list of name and value
HEADERS = ("XDS_HEADER_", "CA_HEADER_")
FREE = ("ISTIO_META_", "ISTIO_METAJSON_", *HEADERS)  # variables with names of the user's own
# Accepted, as istio's agent does, and of no use to either.
WITHOUT_EFFECT = ("JWT_POLICY", "XDS_AUTH_PROVIDER", "CREDENTIAL_IDENTITY_PROVIDER", "ISTIO_GPRC_MAXRECVMSGSIZE")
FIELD_BY_FIELD = "(shown field by field)"


@record
class Setting:
    """One row. `group`: flag, environment, proxy config or node; `source`: default, flag, environment, file, ..."""

    group: str
    name: str
    value: Any  # as JSON has it; None = unset
    source: str


def settings(config: AgentConfig) -> list[Setting]:
    """Every setting of the agent, in groups, sorted by name within them."""
    return [*_flags(config), *_environment(config), *_proxy(config), *_node(config)]


def as_json(config: AgentConfig) -> str:
    """The rows as a JSON list of objects: what `/debug/config` answers and `config show --json` prints."""
    rows = [{n: getattr(row, n) for n in ("group", "name", "value", "source")} for row in settings(config)]
    return json.dumps(rows, indent=2)


def _flags(config: AgentConfig) -> Iterator[Setting]:
    for name, (value, source) in sorted(config.sources.flags.items()):
        yield Setting("flag", f"--{name}", _shown(name, value), source)


def _environment(config: AgentConfig) -> Iterator[Setting]:
    rows: dict[str, tuple[Any, str]] = dict(config.sources.environment)
    free = {n: v for n, v in config.environ.items() if n.startswith(FREE) and n not in rows}
    rows.update({name: (value, ENVIRONMENT) for name, value in free.items()})
    idle = {n: config.environ[n] for n in WITHOUT_EFFECT if n in config.environ}
    rows.update({name: (value, f"{ENVIRONMENT} (without effect)") for name, value in idle.items()})
    for name, (value, source) in sorted(rows.items()):
        if name == "PROXY_CONFIG" and value:
            value = FIELD_BY_FIELD
        elif name in ("HTTPS_PROXY", "https_proxy") and value:
            from agent import httpproxy

            value = httpproxy.shown(value)
        yield Setting("environment", name, _shown(name, value), source)


def _proxy(config: AgentConfig) -> Iterator[Setting]:
    for name in sorted(FIELDS):
        value = config.proxy_config.get(name)
        if name in MERGED and isinstance(value, Mapping):
            for key, inner in sorted(value.items()):
                path = f"{name}.{key}"
                yield Setting("proxy config", path, _shown(key, inner), source_of(config.sources.proxy, path))
        else:
            yield Setting("proxy config", name, _shown(name, value), source_of(config.sources.proxy, name))


def _node(config: AgentConfig) -> Iterator[Setting]:
    node, platform = config.node, config.platform
    annotations = {**node.annotations, **({NAME: FIELD_BY_FIELD} if node.annotations.get(NAME) else {})}
    yield Setting("node", "annotations", _shown("", annotations), "file ./etc/istio/pod/annotations")
    yield Setting("node", "id", node.id, "computed")
    yield Setting("node", "identity", node.spiffe_id if config.identity else None, "computed")
    yield Setting("node", "ips", list(node.ips), "INSTANCE_IP and the machine's interfaces")
    yield Setting("node", "labels", dict(node.labels), "file ./etc/istio/pod/labels")
    yield Setting("node", "instanceLabels", dict(platform.labels), "the cloud, outside Kubernetes")
    yield Setting("node", "platform", platform.name or None, "CLOUD_PLATFORM or the machine's firmware")
    yield Setting("node", "platformMetadata", dict(platform.metadata), "metadata server or GCP_METADATA")


def _secret(name: str, value: str) -> bool:
    low = name.lower().replace("-", "_")
    if name.startswith(HEADERS) or any(word in low for word in SECRET_WORDS) or name.upper().endswith(SECRET_ENDS):
        return True
    # Keys themselves, not the files that hold them nor the `key` of a key and its value.
    return low.endswith("key") and low != "key" and not (value.startswith(("/", "./")) and "." in value)


def _shown(name: str, value: Any) -> Any:
    """`value` without what is secret in it; a JSON text is looked into, a bare one judged by its name and its words."""
    if isinstance(value, Mapping):
        return {key: _shown(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        if name.lower().replace("_", "") == HTTP_HEADERS:
            return [_header(inner) for inner in value]
        return [_shown(name, inner) for inner in value]
    if isinstance(value, str) and value:
        if _secret(name, value):
            return REDACTED
        if value.lstrip()[:1] in ("{", "["):
            return _shown_json(value)
        if any(word in value.lower() for word in SECRET_WORDS):
            return REDACTED
    return value


def _header(entry: Any) -> Any:
    """One header of a probe, by name."""
    if not isinstance(entry, Mapping):
        return REDACTED
    return {key: inner if str(key).lower() == "name" else REDACTED for key, inner in entry.items()}


def _shown_json(text: str) -> str:
    try:
        data = json.loads(text)
        shown = _shown("", data)
    except (ValueError, RecursionError):
        return REDACTED if any(word in text.lower() for word in SECRET_WORDS) else text
    return text if shown == data else json.dumps(shown, ensure_ascii=False)
