"""The mesh file: what it says, and one sentence for everything it cannot say."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.lab import mesh

FULL = """\
trust_domain: example.org
mtls: PERMISSIVE
certificates: {ttl: 1h30m}
access_log: /dev/stdout
services:
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {x-config: v1}}
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 81}
workloads:
  - {name: a, namespace: demo, service_account: a, ip: 10.77.0.11}
  - {name: b-1, namespace: demo, service_account: b.account, ip: "FD77::0:12", service: b}
"""


def test_everything() -> None:
    parsed = mesh.parse(FULL)
    assert (parsed.trust_domain, parsed.mtls, parsed.ttl) == ("example.org", mesh.Mtls.PERMISSIVE, 5400)
    assert parsed.services[0].headers == {"x-config": "v1"}
    assert parsed.services[1].target_port == 81
    assert parsed.services[0].host == "b.demo.svc.cluster.local"
    assert parsed.workloads[1].ip == "fd77::12"
    assert parsed.spiffe(parsed.workloads[1]) == "spiffe://example.org/ns/demo/sa/b.account"
    assert [w.name for w in parsed.members(parsed.services[0])] == ["b-1"]
    assert [s.port for s in parsed.services_of(parsed.workloads[1])] == [80, 81]
    assert parsed.services_of(parsed.workloads[0]) == ()


def test_an_empty_file_is_an_empty_strict_mesh() -> None:
    assert mesh.parse("") == mesh.Mesh()
    assert mesh.Mesh().mtls is mesh.Mtls.STRICT


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the document must be a mapping, not a list"),
        ("a: [", "not valid YAML at line"),
        ("mtls: no", "mtls must be STRICT, PERMISSIVE or DISABLE, not False"),
        ("mtls: strict", "not 'strict'"),
        ("frob: 1", "frob is not a known key"),
        ("trust_domain: Bad Domain", "trust_domain must be"),
        ("certificates: {ttl: soon}", "certificates.ttl: 'soon' is not a duration"),
        ("certificates: {ttl: 0}", "not between"),
        ("certificates: {life: 1h}", "certificates.life is not a known key"),
        ("services: {}", "services must be a list"),
        ("services: [x]", "services[0] must be a mapping, not a text"),
        ("services: [{name: b, vip: 10.0.0.1}]", "services[0].port is missing"),
        ("services: [{name: b, vip: nowhere, port: 80}]", "services[0].vip must be an IP address"),
        ("services: [{name: b, vip: 0.0.0.0, port: 80}]", "services[0].vip must be an IP address"),
        ("services: [{name: b, vip: 10.0.0.1, port: 0}]", "services[0].port must be a port"),
        ("services: [{name: b, vip: 10.0.0.1, port: true}]", "services[0].port must be a port"),
        ("services: [{name: b_, vip: 10.0.0.1, port: 80}]", "services[0].name must be a DNS label"),
        ("services: [{name: b, vip: 10.0.0.1, port: 80, headers: {'a b': c}}]", "is not a response header name"),
        ("services: [{name: b, vip: 10.0.0.1, port: 80, headers: {a: '%X%'}}]", "without '%'"),
        ("services: [{name: b, vip: 10.0.0.1, port: 80}, {name: b, vip: 10.0.0.2, port: 80}]", "services[1] repeats"),
        ("services: [{name: b, vip: 10.0.0.1, port: 80}, {name: c, vip: 10.0.0.1, port: 80}]", "services[1] repeats"),
        ("workloads: [{name: a, ip: 10.0.0.1, service: b}]", "workloads[0].service names 'b', which is no service"),
        ("workloads: [{name: a, ip: 10.0.0.1}, {name: b, ip: 10.0.0.1}]", "workloads[1] repeats the address"),
        ("workloads: [{name: a, ip: 10.0.0.1, service_account: 'a/b'}]", "workloads[0].service_account must be"),
        ("a: 2001-99-99", "not valid YAML"),
    ],
)
def test_one_sentence_for_every_mistake(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mesh.parse(text, "mesh file m.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("mesh file m.yaml")
    assert said in sentence
    assert "\n" not in sentence


def test_bytes_must_be_utf8() -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        mesh.parse_bytes(b"\xff")


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1m30s", 90), ("500ms", 0.5), (30, 30), ("1.5h", 5400)])
def test_durations(text: object, seconds: float) -> None:
    assert mesh.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1", "1d", "-1s", "0s", "100000h", True, None, "1h x"])
def test_bad_durations(text: object) -> None:
    with pytest.raises(ValueError, match="is not"):
        mesh.duration(text)


@given(st.text(max_size=200))
def test_any_text_is_a_mesh_or_a_sentence(text: str) -> None:
    try:
        mesh.parse(text)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine, a third is not


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["10.0.0.1", "b"])
)
KEYS = st.sampled_from(
    ["trust_domain", "mtls", "certificates", "ttl", "services", "workloads", "name", "vip", "port", "ip", "headers"]
)
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5))


@given(DOCUMENTS)
def test_any_document_is_a_mesh_or_a_sentence(document: object) -> None:
    try:
        mesh.parse(yaml.safe_dump(document))
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
