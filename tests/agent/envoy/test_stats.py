"""What is read out of Envoy's statistics, with istio's words for what is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.envoy.stats import config_updates, open_connections, parse, server_reason
from tests.fakes.envoy import stats

PORTS = (15021, 15090)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "",
            "config not received from XDS server (is Istiod running?): cds updates: 0 successful, 0 rejected; "
            "lds updates: 0 successful, 0 rejected",
        ),
        (
            stats(lds=0),
            "config not fully received from XDS server: cds updates: 1 successful, 0 rejected; "
            "lds updates: 0 successful, 0 rejected",
        ),
        (
            stats(lds=0, lds_rejected=3),
            "config received from XDS server, but was rejected: cds updates: 1 successful, 0 rejected; "
            "lds updates: 0 successful, 3 rejected",
        ),
        (
            stats(cds=0, lds=0, cds_rejected=2),
            "config received from XDS server, but was rejected: cds updates: 0 successful, 2 rejected; "
            "lds updates: 0 successful, 0 rejected",
        ),
        (stats(cds_rejected=5), ""),  # an older version is in force
        (stats(), ""),
    ],
)
def test_configuration(text: str, reason: str) -> None:
    assert config_updates(text).reason == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (stats(), ""),
        (stats(state=None), "server state is not yet updated"),
        (stats(workers=None), "workers_started is not yet updated"),
        (stats(workers=0), "workers have not yet started"),
        (stats(state=1), "server is not live, current state is: DRAINING"),
        (stats(state=2, workers=0), "server is not live, current state is: PRE_INITIALIZING"),
        (stats(state=3), "server is not live, current state is: INITIALIZING"),
        (stats(state=9), "server is not live, current state is: 9"),
        ("server.state: live\n", "server state is not yet updated"),
    ],
)
def test_server(text: str, reason: str) -> None:
    assert server_reason(text) == reason


def test_the_first_of_equal_names_wins() -> None:
    assert parse("a.b: 1\na.b: 2\nc: many\nd\n") == {"a.b": 1}


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ([], -1),
        (["listener.0.0.0.0_8080.downstream_cx_active: 0"], 0),
        (["listener.0.0.0.0_8080.downstream_cx_active: 2", "listener.[__]_15006.downstream_cx_active: 3"], 5),
        (["http.admin.downstream_cx_active: 1", "listener.admin.downstream_cx_active: 1"], 0),
        (["listener.admin.main_thread.downstream_cx_active: 1"], 0),
        (["listener.0.0.0.0_15021.downstream_cx_active: 2", "listener.[__]_15090.downstream_cx_active: 3"], 0),
        (["listener.0.0.0.0_8080.worker_0.downstream_cx_active: 5"], 0),
        (["listener.envoy_internal_connect.downstream_cx_active: 5"], 0),
        (["listener.0.0.0.0_150210.downstream_cx_active: 1"], 1),
    ],
)
def test_open_connections(lines: list[str], count: int) -> None:
    assert open_connections("".join(line + "\n" for line in lines), PORTS) == count


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert all(value >= 0 for value in parse(text).values())
    assert open_connections(text, PORTS) >= -1
    config_updates(text)
    server_reason(text)
