import json

from agent.model import XdsStatus
from agent.xds.cache import CLUSTER, ENDPOINTS, Kept
from agent.xds.endpoints import Standing
from agent.xds.keeper import CacheReport
from agent.xds.ledger import Ledger
from agent.xds.report import report
from agent.xds.wire import LISTENER, Flavour, Head

CACHE = CacheReport("live", "", 100, 2, 0.0)


def test_before_anything_happened():
    found = report(XdsStatus(), Ledger(), CacheReport("empty", "", 0, 0, 0.0), {}, [], 0.0)
    assert (found["state"], found["silent"], found["types"], found["endpoints"]) == ("disconnected", None, [], [])
    json.dumps(found)


def test_a_running_agent():
    ledger, kept = Ledger(), Kept(Flavour.DELTA)
    kept.put("a", b"xx")
    kept.put("b", b"yy")
    ledger.failures = 3
    for type_url in (LISTENER, CLUSTER):
        ledger.requested(Head(type_url), 10, 1.0)
        ledger.responded(Head(type_url, "n", "v"), 50, 2.0)
        ledger.requested(Head(type_url, "n"), 10, 3.0)
    ledger.requested(Head(CLUSTER, "n", "", "bad"), 10, 4.0)
    standing = Standing("a:1", 2, 1.5, "refused")
    status = XdsStatus(connected=True, endpoint="b:1", streams=4)
    found = report(status, ledger, CACHE, {CLUSTER: kept, ENDPOINTS: Kept(Flavour.DELTA)}, [standing], 10.0)
    assert (found["state"], found["endpoint"], found["streams"], found["silent"]) == ("live", "b:1", 4, 8.0)
    assert (found["requests"], found["responses"], found["connection_failures"]) == (5, 2, 3)
    assert found["endpoints"] == [{"address": "a:1", "failures": 2, "behind": 1.5, "error": "refused"}]
    # In the order in which Envoy needs them; what is only in the cache is there too.
    assert [one["type"] for one in found["types"]] == ["Cluster", "ClusterLoadAssignment", "Listener"]
    cluster, endpoints, listener = found["types"]
    assert (cluster["resources"], cluster["bytes"], cluster["last_push_bytes"]) == (2, 6, 50)
    assert (cluster["acked"], cluster["nacked"], cluster["error"], cluster["acked_version"]) == (7.0, 6.0, "bad", "v")
    assert (endpoints["pushes"], endpoints["pushed"]) == (0, None)
    assert (listener["resources"], listener["pushed"], listener["error"]) == (None, 8.0, "")
    json.dumps(found)


def test_stale_is_more_than_disconnected():
    found = report(XdsStatus(stale=True, error="gone"), Ledger(), CACHE, {}, [], 0.0)
    assert (found["state"], found["error"]) == ("stale", "gone")
