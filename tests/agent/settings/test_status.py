"""What the injector writes for the status server: read exactly, refused in one sentence."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AppProbe, ScrapeTarget
from agent.errors import ConfigError
from agent.settings.status import PROBERS, SCRAPING, app_probes, scrape
from tests.fakes.configs import make

PATH = "/app-health/web/livez"


@pytest.mark.parametrize(
    ("raw", "probe"),
    [
        ({"httpGet": {"port": 80}}, AppProbe("httpGet", 80)),
        (
            {
                "httpGet": {
                    "path": "x?a=1",
                    "port": 8080,
                    "host": "ignored",
                    "scheme": "https",
                    "httpHeaders": [{"name": "Host", "value": "h"}, {"name": "A", "value": "b"}],
                },
                "timeoutSeconds": 5,
                "extra": True,
            },
            AppProbe("httpGet", 8080, 5, "x?a=1", "HTTPS", (("Host", "h"), ("A", "b"))),
        ),
        ({"tcpSocket": {"port": 1, "host": "h"}}, AppProbe("tcpSocket", 1)),
        ({"grpc": {"port": 2, "service": None}, "httpGet": None}, AppProbe("grpc", 2)),
        ({"gRPC": {"Port": 2, "Service": "s"}, "TimeoutSeconds": 1}, AppProbe("grpc", 2, 1, service="s")),
    ],
)
def test_probes(raw: Any, probe: AppProbe) -> None:
    assert app_probes(json.dumps({PATH: raw})) == {PATH: probe}


@pytest.mark.parametrize("path", ["/app-health/a/readyz", "/app-lifecycle/a/prestopz", "/app-health/a.b-c/startupz"])
def test_paths(path: str) -> None:
    assert list(app_probes(json.dumps({path: {"tcpSocket": {"port": 1}}}))) == [path]


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_no_probes(text: str | None) -> None:
    assert app_probes(text) == {}


TCP = {"tcpSocket": {"port": 1}}


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"/app-health/livez": TCP},
        {"app-health/a/livez": TCP},
        {"/app-health//livez": TCP},
        {"/app-health/a/other": TCP},
        {"/app-health/a/livez/": TCP},
        {"/other/a/livez": TCP},
        {PATH: None},
        {PATH: 1},
        {PATH: {}},
        {PATH: {"exec": {"command": ["true"]}}},
        {PATH: {**TCP, "httpGet": {"port": 1}}},
        {PATH: {"tcpSocket": 5}},
        {PATH: {"tcpSocket": {}}},
        {PATH: {"tcpSocket": {"port": "8080"}}},
        {PATH: {"tcpSocket": {"port": 1.5}}},
        {PATH: {"tcpSocket": {"port": True}}},
        {PATH: {"tcpSocket": {"port": 65536}}},
        {PATH: {**TCP, "timeoutSeconds": "1"}},
        {PATH: {"httpGet": {"port": 1, "path": 5}}},
        {PATH: {"httpGet": {"port": 1, "httpHeaders": {"a": "b"}}}},
        {PATH: {"httpGet": {"port": 1, "httpHeaders": [{"name": 1}]}}},
        {PATH: {"grpc": {"port": 1, "service": 1}}},
    ],
)
def test_impossible_probes(config: Any) -> None:
    with pytest.raises(ConfigError, match=PROBERS) as caught:
        app_probes(json.dumps(config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        ({}, (ScrapeTarget(80),)),
        ({"scrape": "true", "path": "/x", "port": "8080"}, (ScrapeTarget(8080, "/x"),)),
        ({"scrape": "no", "targets": []}, (ScrapeTarget(80),)),
        ({"Port": "08080"}, (ScrapeTarget(8080),)),
        ({"scrape": "false", "port": "nonsense"}, ()),
        ({"targets": [{"port": "1", "path": "/a"}, {"port": "2"}]}, (ScrapeTarget(1, "/a"), ScrapeTarget(2))),
    ],
)
def test_scraping(config: Any, targets: tuple[ScrapeTarget, ...]) -> None:
    assert scrape(json.dumps(config), 15020) == targets


def test_no_scraping() -> None:
    assert scrape(None, 15020) == scrape("", 15020) == ()


PORTS = ["15020", "015020", "15000", "15001", "15004", "15006", "15008", "15021", "15053", "15090", "9999"]


@pytest.mark.parametrize(
    "config",
    [
        "x",
        1,
        [],
        *({"port": port} for port in (*PORTS, "0", "70000", "http", "-1", "8 0", "٨٠", "9" * 5000)),
        {"port": 80},
        {"path": 1},
        {"scrape": True},
        {"targets": {}, "port": "x"},
        {"targets": [1]},
        {"targets": [{"path": "/x"}]},
        {"targets": [{"port": "8080"}, {"port": "15021"}]},
    ],
)
def test_impossible_scraping(config: Any) -> None:
    with pytest.raises(ConfigError, match=SCRAPING) as caught:
        scrape(json.dumps(config), 9999)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30) | st.dictionaries(st.text(max_size=9), st.text(max_size=9)).map(json.dumps))
def test_whatever_stands_there_is_read_or_refused(text: str) -> None:
    for read in (app_probes, lambda t: scrape(t, 15020)):
        with suppress(ConfigError):
            read(text)


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
@pytest.mark.parametrize("name", [PROBERS, SCRAPING])
def test_both_stop_the_start(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        make(env={name: text})
    assert caught.value.exit_code == 255


def test_only_where_there_is_a_status_port() -> None:
    annotations = {"status.sidecar.istio.io/port": "0"}
    status = make(env={PROBERS: "{", SCRAPING: "{"}, annotations=annotations).status
    assert (status.port, status.app_probes, status.scrape) == (0, {}, ())
    assert make("router", env={SCRAPING: "{"}).status.scrape == ()
