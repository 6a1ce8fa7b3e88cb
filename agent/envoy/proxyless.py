"""The bootstrap of applications that speak xDS themselves, without Envoy (spec/agent.md 4.7, 7.2). Pure."""

import json
from posixpath import join, normpath
from typing import Any

from agent.config import AgentConfig
from agent.envoy import metadata
from agent.envoy.metadata import Warn

WATCHER = "file_watcher"
CERTIFICATE_KEYS = ("certificate_file", "private_key_file", "ca_certificate_file")
REFRESH = "900s"


def render(config: AgentConfig, warn: Warn) -> dict[str, Any]:
    """The file for the gRPC libraries; raises ConfigError for metadata that the control plane would refuse."""
    meta = {**metadata.build_typed(config, warn), "GENERATOR": "grpc"}
    out: dict[str, Any] = {
        "xds_servers": [
            {
                "server_uri": "unix:///" + normpath(config.xds.socket_path).lstrip("/"),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": config.node.id,
            "metadata": dict(sorted(meta.items())),
            "locality": metadata.locality(meta.get("LABELS", {}), config.platform.locality),
            "UserAgentVersionType": None,
        },
    }
    if config.proxyless.certificates:
        names = (join(config.proxyless.certificates, name) for name in ("cert-chain.pem", "key.pem", "root-cert.pem"))
        files = {key: normpath(name) for key, name in zip(CERTIFICATE_KEYS, names, strict=True)}
        watcher = {"plugin_name": WATCHER, "config": {**files, "refresh_interval": REFRESH}}
        out["certificate_providers"] = {"default": watcher}
    out["server_listener_resource_name_template"] = "xds.istio.io/grpc/lds/inbound/%s"
    return out


def certificate_files(text: str) -> list[str]:
    """The files that must exist before an application can use this bootstrap; raises ValueError if it is broken."""
    data = json.loads(text)
    out: list[str] = []
    try:
        for provider in data.get("certificate_providers", {}).values():
            if provider["plugin_name"] == WATCHER:
                out += [str(provider["config"][key]) for key in CERTIFICATE_KEYS]
    except (AttributeError, KeyError, TypeError) as e:
        raise ValueError("it is not a gRPC bootstrap") from e
    return out
