"""How soon a real Envoy has the control plane's new configuration after an outage of seconds."""

import time
from pathlib import Path

import pytest

from tests.e2e.test_xds_cache_envoy import MESH, WORKLOADS, C, mesh

pytestmark = [pytest.mark.root, pytest.mark.envoy, pytest.mark.timeout(120)]

OUTAGE = 4.0


@pytest.mark.parametrize("cache", ["on", "off"])
def test_resync_takes_tenths_of_a_second(tmp_path: Path, cache: str) -> None:
    """istio's agent: 3 to 10 s, because only Envoy dials again."""
    with mesh(tmp_path, XDS_CACHE=cache) as it:
        calm = time.time()
        it.kill_plane()
        time.sleep(OUTAGE)
        it.start_plane(MESH.replace("v1", "v2") + C + WORKLOADS)
        back = time.time()
        it.config_seen("v2", back - 1)
        first = min(r.end for r in it.log.requests(back - 1) if r.headers.get("x-config") == "v2")
        print(f"XDS_CACHE={cache}: seen {(first - back) * 1000:.0f} ms after the control plane listened again")
        assert first - back < 5.0  # tenths of a second on an idle machine
        assert all(r.ok for r in it.log.requests(calm))
        text = it.a.log("agent").read_text()
        assert "Traceback" not in text
        assert text.count("\n") < 200  # an outage does not fill the log
