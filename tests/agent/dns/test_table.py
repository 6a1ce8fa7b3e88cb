import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dns import table
from agent.dns.table import HostTable
from agent.model import NameInfo
from agent.protos import names_pb2

SEARCH = "demo.svc.cluster.local"


def k8s(short: str, namespace: str, *ips: str, alt: tuple[str, ...] = ()) -> NameInfo:
    return NameInfo(ips, "Kubernetes", short, namespace, alt)


def external(*ips: str) -> NameInfo:
    return NameInfo(ips, "External")


TABLE = {
    "web.demo.svc.cluster.local": k8s("web", "demo", "10.1.0.1", "2001:db8::1", alt=("web.demo.svc.clusterset.local",)),
    "api.other.svc.cluster.local": k8s("api", "other", "10.1.0.2"),
    "far.demo.svc.remote.cluster": k8s("far", "demo", "10.1.0.8", alt=("far.alt",)),
    "gone.demo.svc.cluster.local.": k8s("gone", "demo", "10.1.0.9"),
    "Mixed.Example.COM": external("10.2.0.2"),
    "dotted.example.com.": external("10.2.0.3"),
    "noip.example.com": external("not-an-address"),
    "*.wild.example.com": external("10.2.0.4"),
    "*.deep.wild.example.com": external("10.2.0.5"),
    "exact.wild.example.com": external("10.2.0.6"),
    "*.demo.svc.cluster.local": external("10.2.0.7"),
}


def find(name: str, search: str = SEARCH, domain: str = SEARCH) -> tuple[str, str | None] | None:
    found = HostTable(TABLE, "demo", domain, search).find(name)
    return found and (".".join(map(str, found.addresses.v4[0])), found.target)


@pytest.mark.parametrize(
    ("name", "ip"),
    [
        ("web", "10.1.0.1"),
        ("web.demo", "10.1.0.1"),
        ("web.demo.svc", "10.1.0.1"),
        ("web.demo.svc.cluster.local", "10.1.0.1"),
        ("web.demo.svc.clusterset.local", "10.1.0.1"),
        ("api.other", "10.1.0.2"),
        ("api.other.svc", "10.1.0.2"),
        ("far.demo.svc.remote.cluster", "10.1.0.8"),
        ("mixed.example.com", "10.2.0.2"),
        ("dotted.example.com", "10.2.0.3"),
        ("a.wild.example.com", "10.2.0.4"),
        ("a.b.wild.example.com", "10.2.0.4"),
        ("a.deep.wild.example.com", "10.2.0.5"),
        ("exact.wild.example.com", "10.2.0.6"),
    ],
)
def test_known_names(name: str, ip: str) -> None:
    assert find(name) == (ip, None)


@pytest.mark.parametrize(
    "name",
    ["api", "web.other", "web.demo.svc.cluster", "far", "far.alt", "far.demo", "gone", "gone.demo.svc",
     "noip.example.com", "wild.example.com", "example.com", "mixed.example.com.svc.cluster.local", "", "*"],
)  # fmt: skip
def test_unknown_names(name: str) -> None:
    assert find(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixed.example.com", ("10.2.0.2", "mixed.example.com")),
        ("web.demo", ("10.1.0.1", "web.demo")),
        ("api.other.svc.cluster.local", ("10.1.0.2", "api.other.svc.cluster.local")),
        ("q.wild.example.com", ("10.2.0.4", "q.wild.example.com")),  # more specific than *.demo.svc.cluster.local
        ("nothing", ("10.2.0.7", None)),
        ("web.demo.svc.cluster.local", ("10.2.0.7", None)),  # a host of the search domain is not expanded again
    ],
)
def test_the_search_domain_leads_to_the_host(name: str, expected: tuple[str, str | None]) -> None:
    assert find(f"{name}.{SEARCH}") == expected


def test_without_a_search_domain_nothing_is_expanded() -> None:
    assert find("web.demo.demo.svc.cluster.local", search="") == ("10.2.0.7", None)
    assert find("mixed.example.com.corp", search="corp.") == ("10.2.0.2", "mixed.example.com")


def test_the_cluster_domain_is_the_proxys_without_its_namespace() -> None:
    assert table.cluster_domain("demo.svc.cluster.local", "demo") == "svc.cluster.local"
    assert table.cluster_domain("svc.cluster.local.", "demo") == "svc.cluster.local"
    assert table.cluster_domain("", "") == ""
    assert find("web", domain="") is None
    assert find("web.demo.svc.cluster.local", domain="") == ("10.1.0.1", None)


def test_an_ending_that_is_not_a_whole_label_is_another_domain() -> None:
    hosts = HostTable({"web.notsvc.cluster.local": k8s("web", "demo", "10.0.0.1")}, "demo", SEARCH, "")
    assert hosts.find("web") is None


def test_a_real_host_beats_the_short_name_of_another() -> None:
    rows = {"web.demo.svc.cluster.local": k8s("web", "demo", "10.0.0.1"), "web.demo": external("10.0.0.2")}
    for order in (rows, dict(reversed(rows.items()))):
        found = HostTable(order, "demo", SEARCH, "").find("web.demo")
        assert found is not None
        assert found.addresses.v4 == (b"\x0a\0\0\2",)


def test_addresses_are_sorted_by_family_and_bad_ones_left_out() -> None:
    assert table.addresses(("10.0.0.1", "x", "", "::1", "10.0.0.256")) == ((b"\x0a\0\0\1",), (bytes(15) + b"\1",))


class TestDecode:
    def test_what_istiod_writes_comes_back(self) -> None:
        message = names_pb2.NameTable()
        message.table["web.demo.svc.cluster.local"].CopyFrom(
            names_pb2.NameInfo(
                ips=["10.1.0.1"], registry="Kubernetes", shortname="web", namespace="demo", alt_hosts=["w"]
            )
        )
        assert table.decode(message.SerializeToString()) == {
            "web.demo.svc.cluster.local": NameInfo(("10.1.0.1",), "Kubernetes", "web", "demo", ("w",))
        }
        assert table.decode(b"") == {}

    def test_garbage_is_a_value_error_with_one_sentence(self) -> None:
        with pytest.raises(ValueError, match="name table cannot be decoded"):
            table.decode(b"\x0a\xff\xff\xff")

    @given(st.binary(max_size=200))
    def test_hostile_bytes_give_a_table_or_a_value_error(self, payload: bytes) -> None:
        try:
            decoded = table.decode(payload)
        except ValueError:
            return
        assert len(HostTable(decoded, "demo", SEARCH, SEARCH)) >= 0


texts = st.text(max_size=20)


@given(st.dictionaries(texts, st.builds(NameInfo, st.tuples(st.sampled_from(["10.0.0.1", "::1", "x"])), st.sampled_from(
    ["Kubernetes", ""]), texts, texts, st.tuples(texts))), texts, texts, texts)  # fmt: skip
def test_odd_tables_and_names_are_no_trouble(rows: dict[str, NameInfo], namespace: str, domain: str, name: str) -> None:
    hosts = HostTable(rows, namespace, domain, domain)
    assert hosts.find(name) is None or hosts.find(name).addresses  # type: ignore[union-attr]
    assert json.loads(table.debug_json(rows, namespace, domain))["table"].keys() >= rows.keys()


def test_the_debug_page_has_the_table_and_the_generated_names() -> None:
    body = json.loads(table.debug_json(TABLE, "demo", SEARCH))["table"]
    assert body["web.demo.svc.cluster.local"] == {
        "ips": ["10.1.0.1", "2001:db8::1"], "registry": "Kubernetes", "shortname": "web", "namespace": "demo",
        "alt_hosts": ["web.demo.svc.clusterset.local"],
    }  # fmt: skip
    for name in ("web.", "web.demo.", "web.demo.svc.", "web.demo.svc.cluster.local.", "web.demo.svc.clusterset.local."):
        assert body[name] == {"ips": ["10.1.0.1", "2001:db8::1"], "registry": "Kubernetes"}
    assert body["mixed.example.com."] == {"ips": ["10.2.0.2"], "registry": "Kubernetes"}
    assert "noip.example.com." not in body
