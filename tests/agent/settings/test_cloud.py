"""Metadata servers: three clouds over real HTTP, and the machines that have none."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.config import Platform
from agent.settings import cloud
from agent.settings.environment import Environment

GOOGLE, AMAZON, MICROSOFT = (
    {"sys_vendor": b"Google\n"},
    {"sys_vendor": b"Amazon EC2\n"},
    {"sys_vendor": b"Microsoft Corporation\n"},
)
ZONE, IPS = "europe-west1-b", ("10.0.0.1",)


class Server:
    """Answers (method, path) with (status, body) if the headers are there."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, str]] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.tokens: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                outer.tokens.append(self.headers.get("Authorization", ""))
                status, body = outer.answers.get((self.command, self.path), (404, "<html>"))
                wanted = {} if self.path.startswith("/compute/") else outer.headers
                if any(self.headers.get(k) != v for k, v in wanted.items()) and self.command == "GET":
                    status, body = 403, "missing header"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_PUT = answer

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.base = f"127.0.0.1:{self.http.server_port}"

    def ask(self, method: str, url: str, headers: Mapping[str, str], seconds: float) -> tuple[int, str]:
        """The production client, redirected here; generous, since the machine may be busy."""
        url = url.replace("http://169.254.169.254", f"http://{self.base}")
        return cloud.ask_http(method, url.replace("https://compute.googleapis.com", f"http://{self.base}"), headers, 5)

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    s = Server()
    yield s
    s.close()


def detect(server: Server | None, dmi: Mapping[str, bytes], ips: tuple[str, ...] = IPS, **environ: str) -> Platform:
    def nobody(*_: object) -> tuple[int, str]:
        raise AssertionError("nobody may be asked")

    files = {cloud.DMI + name: text for name, text in dmi.items()}
    return cloud.detect(Environment(environ), files.get, ips, server.ask if server else nobody)


@pytest.mark.parametrize(
    ("dmi", "environ"),
    [
        ({}, {}),
        ({"sys_vendor": b"QEMU\n"}, {}),
        (GOOGLE, {"CLOUD_PLATFORM": "none"}),
        (GOOGLE, {"CLOUD_PLATFORM": "NONE"}),
        ({**MICROSOFT, "chassis_asset_tag": b"somebody's own"}, {}),
    ],
)
def test_outside_the_clouds_nobody_is_asked(dmi: Mapping[str, bytes], environ: Mapping[str, str]) -> None:
    assert detect(None, dmi, **environ) == cloud.NOWHERE


def test_unreadable_firmware_strings_are_none() -> None:
    def read(_: str) -> bytes:
        raise PermissionError

    assert cloud.detect(Environment({}), read, IPS) == cloud.NOWHERE


def test_an_unknown_platform_is_a_warning() -> None:
    env = Environment({"CLOUD_PLATFORM": "moon"})
    assert cloud.detect(env, {}.get, IPS) == cloud.NOWHERE
    assert len(env.warnings) == 1


def google(server: Server, **attributes: str) -> None:
    server.headers = {"Metadata-Flavor": "Google"}
    said = {
        "project/project-id": "p",
        "project/numeric-project-id": "42",
        "instance/name": "vm",
        "instance/id": "7",
        "instance/zone": f"projects/42/zones/{ZONE}",
        **{f"instance/attributes/{k.replace('_', '-')}": v for k, v in attributes.items()},
    }
    server.answers = {("GET", f"/computeMetadata/v1/{path}"): (200, text) for path, text in said.items()}


@pytest.mark.parametrize("environ", [{}, {"CLOUD_PLATFORM": "GCP"}])
def test_google(server: Server, environ: Mapping[str, str]) -> None:
    google(server, cluster_location=ZONE, cluster_name="c", instance_template="t", created_by="me")
    found = detect(server, {} if environ else GOOGLE, GCP_QUOTA_PROJECT="q", **environ)
    assert (found.name, found.locality) == ("gcp", ("europe-west1", ZONE))
    assert found.metadata == {
        "gcp_project": "p",
        "gcp_project_number": "42",
        "gcp_location": ZONE,
        "gcp_gke_cluster_name": "c",
        "gcp_gke_cluster_url": f"https://container.googleapis.com/v1/projects/p/locations/{ZONE}/clusters/c",
        "gcp_gce_instance": "vm",
        "gcp_gce_instance_id": "7",
        "gcp_gce_instance_template": "t",
        "gcp_gce_instance_created_by": "me",
        "gcp_quota_project": "q",
    }


def test_google_outside_a_cluster(server: Server) -> None:
    google(server)
    found = detect(server, GOOGLE)
    assert found.metadata["gcp_location"] == ZONE
    assert "gcp_gke_cluster_url" not in found.metadata


TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
TOKEN += "?scopes=https://www.googleapis.com/auth/compute.readonly"
INSTANCE = f"/compute/v1/projects/p/zones/{ZONE}/instances/vm"


def test_google_labels_of_an_instance(server: Server) -> None:
    google(server)
    server.answers["GET", TOKEN] = (200, json.dumps({"access_token": "secret", "expires_in": 3599}))
    server.answers["GET", INSTANCE] = (200, json.dumps({"id": "7", "labels": {"team": "a", "tier": "web", "n": 1}}))
    assert detect(server, GOOGLE).labels == {"team": "a", "tier": "web"}
    assert server.tokens.count("Bearer secret") == 1  # nobody else gets it
    assert server.asked[server.tokens.index("Bearer secret")] == f"GET {INSTANCE}"


@pytest.mark.parametrize(
    ("token", "instance"),
    [
        ((404, "no service account"), (200, '{"labels": {"a": "b"}}')),
        ((200, "not JSON"), (200, '{"labels": {"a": "b"}}')),
        ((200, '{"access_token": "x\\r\\ny"}'), (200, '{"labels": {"a": "b"}}')),
        ((200, '{"access_token": "t"}'), (403, '{"error": {"code": 403}, "labels": {"a": "b"}}')),
        ((200, '{"access_token": "t"}'), (200, "[]")),
        ((200, '{"access_token": "t"}'), (200, '{"labels": ["a"]}')),
        ((200, '{"access_token": "t"}'), (200, "{}")),
    ],
)
def test_google_labels_that_may_not_be_read(server: Server, token: tuple[int, str], instance: tuple[int, str]) -> None:
    google(server)
    server.answers.update({("GET", TOKEN): token, ("GET", INSTANCE): instance})
    found = detect(server, GOOGLE)
    assert (found.labels, found.metadata["gcp_gce_instance"]) == ({}, "vm")


@pytest.mark.parametrize(
    ("attributes", "environ"),
    [({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}), ({}, {"KUBERNETES_SERVICE_HOST": ""}), ({"cluster_name": "c"}, {})],
)
def test_google_labels_are_not_asked_for_in_kubernetes(
    server: Server, attributes: Mapping[str, str], environ: Mapping[str, str]
) -> None:
    google(server, **attributes)
    server.answers["GET", TOKEN] = (200, '{"access_token": "t"}')
    server.answers["GET", INSTANCE] = (200, '{"labels": {"a": "b"}}')
    assert detect(server, GOOGLE, **environ).labels == {}
    assert not {f"GET {TOKEN}", f"GET {INSTANCE}"} & set(server.asked)


def test_google_in_a_regional_cluster(server: Server) -> None:
    google(server, cluster_location="europe-west1", cluster_name="c")
    assert detect(server, GOOGLE).locality == ("europe-west1", "")
    found = detect(server, GOOGLE, GCP_ZONE=ZONE)
    assert (found.locality, found.metadata["gcp_zone"]) == (("europe-west1", ZONE), ZONE)


def test_google_as_told_asks_nobody() -> None:
    found = detect(None, {}, GCP_METADATA=f"p|42|c|{ZONE}")
    assert (found.name, found.locality) == ("gcp", ("europe-west1", ZONE))
    assert (found.metadata["gcp_project"], found.metadata["gcp_gke_cluster_name"]) == ("p", "c")
    assert detect(None, {}, GCP_METADATA="p").metadata == {}


def amazon(server: Server, role: str) -> None:
    server.headers = {"X-aws-ec2-metadata-token": "tok"}
    base = "/latest/meta-data/"
    server.answers = {
        ("PUT", "/latest/api/token"): (200, "tok"),
        ("GET", f"{base}iam/info"): (200, role),
        ("GET", f"{base}placement/region"): (200, "us-east-1"),
        ("GET", f"{base}placement/availability-zone"): (200, "us-east-1a"),
        ("GET", f"{base}instance-id"): (200, "i-1"),
    }


@pytest.mark.parametrize("dmi", [AMAZON, {"product_version": b"4.11.amazon"}])
def test_amazon(server: Server, dmi: Mapping[str, bytes]) -> None:
    amazon(server, '{"InstanceProfileArn": "arn:aws:iam::1:instance-profile/x"}')
    found = detect(server, dmi)
    assert (found.name, found.locality) == ("aws", ("us-east-1", "us-east-1a"))
    assert found.metadata == {
        "aws_region": "us-east-1",
        "aws_availability_zone": "us-east-1a",
        "aws_instance_id": "i-1",
    }


def test_amazon_without_a_role_must_be_named(server: Server) -> None:
    amazon(server, "{}")
    assert detect(server, AMAZON) == cloud.NOWHERE
    assert detect(server, {}, CLOUD_PLATFORM="aws").name == "aws"


def test_amazon_over_ipv6() -> None:
    urls = []

    def ask(_method: str, url: str, *_: object) -> tuple[int, str]:
        urls.append(url)
        return 0, ""

    cloud.detect(Environment({"CLOUD_PLATFORM": "aws"}), {}.get, ("fd00::1",), ask)
    assert urls == ["http://[fd00:ec2::254]/latest/api/token"]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"tagsList": [{"name": "team", "value": "a"}, {"name": 1}]}, {"azure_team": "a"}),
        ({"tags": "team:a;flag"}, {"azure_team": "a", "azure_flag": ""}),
        ({}, {}),
    ],
)
def test_microsoft(server: Server, tags: Mapping[str, object], found: Mapping[str, str]) -> None:
    server.headers = {"Metadata": "True"}
    compute = {"name": "vm", "location": "westeurope", "vmId": "1-2", "zone": "3", **tags}
    server.answers = {
        ("GET", "/metadata/instance?"): (400, json.dumps({"newest-versions": ["2021-02-01", "2023-07-01"]})),
        ("GET", "/metadata/instance?api-version=2023-07-01"): (200, json.dumps({"compute": compute})),
    }
    platform = detect(server, {**MICROSOFT, "chassis_asset_tag": cloud.AZURE_CHASSIS.encode()})
    assert (platform.name, platform.locality) == ("azure", ("westeurope", "3"))
    assert platform.metadata == {"azure_name": "vm", "azure_location": "westeurope", "azure_vmId": "1-2", **found}


@pytest.mark.parametrize("body", ["", "{", "[]", '{"compute": 1}', "[" * 100_000])
def test_nonsense_is_no_platform(server: Server, body: str) -> None:
    server.answers = {("GET", "/metadata/instance?"): (400, body)}
    server.answers["GET", f"/metadata/instance?api-version={cloud.AZURE_VERSION}"] = (200, body)
    assert detect(server, {}, CLOUD_PLATFORM="azure") == cloud.NOWHERE


def test_a_server_that_never_answers_costs_little() -> None:
    """What a firewall does to the address: one question with a short limit, then the start goes on."""
    limits = []

    def silent(_method: str, _url: str, _headers: Mapping[str, str], seconds: float) -> tuple[int, str]:
        limits.append(seconds)
        return 0, ""

    for name in ("gcp", "aws"):
        cloud.detect(Environment({"CLOUD_PLATFORM": name}), {}.get, IPS, silent)
    assert len(limits) == 2
    assert max(limits) <= cloud.FIRST


def test_the_production_client_gives_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        began = time.monotonic()
        assert cloud.ask_http("GET", f"http://127.0.0.1:{dumb.getsockname()[1]}/", {}, 0.05) == (0, "")
        assert time.monotonic() - began < 5
