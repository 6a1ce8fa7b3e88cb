"""A configuration made the way the agent makes its own, from flags, environment and files that live in a dict."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.config import AgentConfig
from agent.settings.load import load

ROOT = "./var/run/secrets/istio/root-cert.pem"
ENV = {
    "POD_NAME": "app-1",
    "POD_NAMESPACE": "demo",
    "SERVICE_ACCOUNT": "app",
    "INSTANCE_IP": "10.77.0.2",
    "ISTIO_META_CLUSTER_ID": "Kubernetes",
    "ISTIO_META_ISTIO_VERSION": "1.30.1",
}


def make(
    *args: str,
    env: Mapping[str, str | None] | None = None,
    files: Mapping[str, bytes | None] | None = None,
    proxy: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    interfaces: Mapping[str, str] | None = None,
    sockets: Collection[str] = (),
    uid: int = 1337,
) -> AgentConfig:
    """`env` and `files` override a plain pod's (None removes); `interfaces` maps names to addresses."""
    environ = {k: v for k, v in {**ENV, **(env or {})}.items() if v is not None}
    if proxy is not None:
        environ["PROXY_CONFIG"] = json.dumps(proxy)
    disk: dict[str, bytes | None] = {ROOT: b"root"}
    for path, pairs in (("./etc/istio/pod/annotations", annotations), ("./etc/istio/pod/labels", labels)):
        if pairs is not None:
            disk[path] = "".join(f"{k}={json.dumps(v)}\n" for k, v in pairs.items()).encode()
    disk.update(files or {})

    def addresses(excluded: Collection[str]) -> tuple[str, ...]:
        return tuple(ip for name, ip in (interfaces or {"eth0": "10.77.0.2"}).items() if name not in excluded)

    def resolve(host: str, port: int) -> str:
        if host == "nowhere":
            raise OSError("no such host")
        return f"{'127.0.0.1' if host == 'localhost' else host}:{port}"

    words: Sequence[str] = args or ("sidecar",)
    return load(
        words, environ, disk.get, addresses, probe_socket=lambda path: path in sockets, resolve_udp=resolve, uid=uid
    )
