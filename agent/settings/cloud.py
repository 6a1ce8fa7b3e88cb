"""Which cloud this machine runs in, and what its metadata server says about it (spec/agent.md 1.7).

Nobody waits for a server that is not there: without CLOUD_PLATFORM the vendor strings of the firmware decide whom to
ask, and a first question that gets no quick answer is the last one. A machine outside the clouds asks nothing.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from agent.config import Platform
from agent.settings.environment import Environment

Read = Callable[[str], bytes | None]
# (method, URL, headers, seconds) → (status, body); status 0 if there was no answer in time
Ask = Callable[[str, str, Mapping[str, str], float], tuple[int, str]]

DMI = "/sys/class/dmi/id/"
AZURE_CHASSIS = "7783-7084-3265-9085-8269-3286-77"  # the same on every machine of that cloud, and on no other
LINK_LOCAL, LINK_LOCAL_V6 = "http://169.254.169.254", "http://[fd00:ec2::254]"
COMPUTE = "https://compute.googleapis.com/compute/v1"  # knows an instance's labels, which its metadata server does not
COMPUTE_SCOPE = "https://www.googleapis.com/auth/compute.readonly"
TOTAL, FIRST, AWS_CALL, COMPUTE_CALL = 5.0, 0.5, 0.1, 2.0  # seconds
AZURE_VERSION = "2019-08-15"

NOWHERE = Platform()


def ask_http(method: str, url: str, headers: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """The production `Ask`."""
    from agent.cli.http import HttpError, Url, fetch

    try:
        status, body = fetch(method, Url(url), b"", seconds, headers)
    except HttpError:
        return 0, ""
    return status, body.decode("utf-8", "replace")


def detect(env: Environment, read: Read, ips: tuple[str, ...], ask: Ask = ask_http) -> Platform:
    """The platform, NOWHERE if there is none or it says nothing. `ips`: this node's, for IPv6-only networks."""
    chosen = env.text("CLOUD_PLATFORM").strip().lower()
    static = _static_gcp(env)
    if chosen not in ("", "aws", "azure", "gcp", "none"):
        env.warn(f"CLOUD_PLATFORM {chosen!r} is not known and ignored: use aws, azure, gcp or none")
        chosen = ""
    vendor = chosen or ("gcp" if static else _vendor(read))
    hosts = [LINK_LOCAL_V6] if all(":" in ip for ip in ips) else [LINK_LOCAL]
    if not vendor or vendor == "none":
        return NOWHERE
    if vendor == "gcp":
        metadata_host = env.text("GCE_METADATA_HOST")
        return static or _gcp(_Server(f"http://{metadata_host}" if metadata_host else LINK_LOCAL, ask), env)
    if vendor == "aws":
        return _aws(_Server(hosts[0], ask), sure=bool(chosen))
    return _azure(_Server(LINK_LOCAL, ask))


def _text(read: Read, path: str) -> str:
    try:
        return (read(path) or b"").decode("utf-8", "replace")
    except OSError:
        return ""


def _vendor(read: Read) -> str:
    """Who made this machine, by what its firmware says: gcp, aws, azure or nobody of them."""
    maker = _text(read, DMI + "sys_vendor")
    if "Google" in maker:
        return "gcp"
    if "Amazon" in maker or "amazon" in _text(read, DMI + "product_version"):
        return "aws"
    if "Microsoft Corporation" in maker:
        # Hyper-V on somebody's own hardware has the same maker and no metadata server.
        return "azure" if _text(read, DMI + "chassis_asset_tag").strip() in (AZURE_CHASSIS, "") else ""
    return "aws" if _text(read, "/sys/hypervisor/uuid").lower().startswith("ec2") else ""


class _Server:
    """One metadata server: the first question must be answered soon, all of them within `TOTAL` seconds."""

    def __init__(self, base: str, ask: Ask) -> None:
        self.base, self.ask = base, ask
        self._deadline = time.monotonic() + TOTAL
        self._answered = False

    def get(
        self, path: str, headers: Mapping[str, str], limit: float = TOTAL, method: str = "GET", good: int = 200
    ) -> str:
        """The body of an answer with the status `good`, "" if there is none."""
        left = min(self.left(), limit if self._answered else min(limit, FIRST))
        if left <= 0:
            return ""
        status, body = self.ask(method, self.base + path, headers, left)
        self._answered = self._answered or status > 0
        return body if status == good else ""

    def left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


# -------------------------------------------------------------------------------------------------- Google Cloud

_GCP_PATHS = {
    "gcp_project": "project/project-id",
    "gcp_project_number": "project/numeric-project-id",
    "gcp_location": "instance/attributes/cluster-location",
    "gcp_gke_cluster_name": "instance/attributes/cluster-name",
    "gcp_gce_instance": "instance/name",
    "gcp_gce_instance_id": "instance/id",
    "gcp_gce_instance_template": "instance/attributes/instance-template",
    "gcp_gce_instance_created_by": "instance/attributes/created-by",
}


def _static_gcp(env: Environment) -> Platform | None:
    """What GCP_METADATA says: `project|number|cluster|zone`; then nobody is asked."""
    text = env.text("GCP_METADATA")
    if not text:
        return None
    pieces = text.split("|")
    if len(pieces) != 4:
        env.warn(f"GCP_METADATA {text!r} is ignored: write project|number|cluster|zone")
        pieces = ["", "", "", ""]
    names = ("gcp_project", "gcp_project_number", "gcp_gke_cluster_name", "gcp_location")
    return _gcp_platform({n: p for n, p in zip(names, pieces, strict=True) if p}, env)


def _gcp(server: _Server, env: Environment) -> Platform:
    found: dict[str, str] = {}
    for name, path in _GCP_PATHS.items():
        if answer := _gcp_answer(server, path):
            found[name] = answer
        elif name == "gcp_project":
            return NOWHERE
    if "gcp_location" not in found and (zone := _gcp_answer(server, "instance/zone").rpartition("/")[2]):
        found["gcp_location"] = zone
    in_kubernetes = env.optional("KUBERNETES_SERVICE_HOST") is not None or "gcp_gke_cluster_name" in found
    return _gcp_platform(found, env, {} if in_kubernetes else _gce_labels(server, found))


def _gcp_answer(server: _Server, path: str) -> str:
    return server.get(f"/computeMetadata/v1/{path}", {"Metadata-Flavor": "Google"}).strip()


def _gce_labels(server: _Server, found: Mapping[str, str]) -> dict[str, str]:
    """The instance's labels; {} if its service account may not read them (compute.instances.get)."""
    project, zone, instance = (found.get(f"gcp_{n}", "") for n in ("project", "location", "gce_instance"))
    account = "instance/service-accounts/default/token?scopes="
    token = _json(_gcp_answer(server, account + COMPUTE_SCOPE)).get("access_token")
    if not (instance and zone and isinstance(token, str) and token.isascii() and token.isprintable()):
        return {}
    url = f"{COMPUTE}/projects/{project}/zones/{zone}/instances/{instance}"
    status, body = server.ask("GET", url, {"Authorization": f"Bearer {token}"}, min(COMPUTE_CALL, server.left()))
    labels = _json(body).get("labels") if status == 200 else None
    return {k: v for k, v in labels.items() if isinstance(v, str)} if isinstance(labels, dict) else {}


def _gcp_platform(found: dict[str, str], env: Environment, labels: Mapping[str, str] | None = None) -> Platform:
    for name in ("GCP_QUOTA_PROJECT", "GCP_ZONE"):
        if value := env.text(name):
            found[name.lower()] = value
    project, location, cluster = (found.get(f"gcp_{n}", "") for n in ("project", "location", "gke_cluster_name"))
    if project and location and cluster:
        where = f"projects/{project}/locations/{location}/clusters/{cluster}"
        found["gcp_gke_cluster_url"] = f"https://container.googleapis.com/v1/{where}"
    zone = found.get("gcp_zone") or location
    region, dash, letter = zone.rpartition("-")
    if not (dash and len(letter) == 1):  # a regional cluster's location is a region
        region, zone = zone, ""
    return Platform("gcp", found, (region, zone), labels or {})


# ------------------------------------------------------------------------------------------------------- AWS, Azure


def _aws(server: _Server, *, sure: bool) -> Platform:
    """`sure`: somebody has said that this is AWS; else the machine's role has to say so."""
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = server.get("/latest/api/token", ttl, AWS_CALL, "PUT").strip()
    if not token:
        return NOWHERE
    headers = {"X-aws-ec2-metadata-token": token}

    def get(path: str) -> str:
        return server.get(f"/latest/meta-data/{path}", headers, AWS_CALL).strip()

    if not sure and "arn:aws:iam" not in get("iam/info"):
        return NOWHERE
    region, zone, instance = get("placement/region"), get("placement/availability-zone"), get("instance-id")
    found = {"aws_region": region, "aws_availability_zone": zone, "aws_instance_id": instance}
    return Platform("aws", {k: v for k, v in found.items() if v}, (region, zone))


def _azure(server: _Server) -> Platform:
    headers = {"Metadata": "True"}
    # Asked without a version it answers 400 and names those that there are.
    versions = _json(server.get("/metadata/instance?", headers, good=400)).get("newest-versions")
    known = [v for v in versions if isinstance(v, str)] if isinstance(versions, list) else []
    version = max([AZURE_VERSION, *known])
    compute = _json(server.get(f"/metadata/instance?api-version={version}", headers)).get("compute")
    if not isinstance(compute, dict):
        return NOWHERE
    said = {name: compute[name] for name in ("name", "location", "vmId", "zone") if isinstance(compute.get(name), str)}
    found = {name: said.get(name, "") for name in ("name", "location", "vmId")}
    found = {name: value for name, value in found.items() if value} | _azure_tags(compute)
    locality = (said.get("location", ""), said.get("zone", ""))
    return Platform("azure", {f"azure_{name}": value for name, value in found.items()}, locality)


def _azure_tags(compute: Mapping[str, Any]) -> dict[str, str]:
    listed = compute.get("tagsList")
    if isinstance(listed, list):
        tags = [t for t in listed if isinstance(t, dict)]
        return {t["name"]: str(t.get("value", "")) for t in tags if isinstance(t.get("name"), str)}
    pairs = (entry.partition(":") for entry in str(compute.get("tags") or "").split(";") if entry)
    return {name: value for name, _, value in pairs}


def _json(text: str) -> dict[str, Any]:
    import json

    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
