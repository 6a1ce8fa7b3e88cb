"""`lab init`: files, modes, and what a second run keeps."""

from pathlib import Path

import pytest
from cryptography import x509

from agent.errors import ConfigError, FatalError
from agent.lab import setup, tokens
from agent.lab.authority import check_pair
from agent.lab.mesh import parse

MESH = parse("workloads: [{name: a, namespace: demo, service_account: x, ip: 10.0.0.1}, {name: b, ip: 10.0.0.2}]")


def test_everything_a_lab_needs(tmp_path: Path) -> None:
    said = setup.initialise(tmp_path / "lab", MESH, ["10.77.0.1"])
    assert len(said) == 3
    folder = tmp_path / "lab"
    assert {f.name: f.stat().st_mode & 0o777 for f in folder.iterdir() if f.is_file()} == {
        "root-cert.pem": 0o644,
        "root-key.pem": 0o600,
        "istiod-cert.pem": 0o644,
        "istiod-key.pem": 0o600,
        "policy.json": 0o644,
    }
    chain = (folder / setup.SERVER_CERT).read_bytes()
    check_pair((folder / setup.SERVER_KEY).read_bytes(), chain, (folder / setup.ROOT_CERT).read_bytes())
    san = x509.load_pem_x509_certificates(chain)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "istiod.istio-system.svc" in san.value.get_values_for_type(x509.DNSName)
    assert "10.77.0.1" in [str(ip) for ip in san.value.get_values_for_type(x509.IPAddress)]
    token = folder / "tokens" / "demo.a"
    assert tokens.parse(token.read_text()) == tokens.Identity("demo", "x")
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_second_run_keeps_root_and_tokens_and_withdraws_strangers(tmp_path: Path) -> None:
    setup.initialise(tmp_path, MESH, [])
    root, token = (tmp_path / setup.ROOT_CERT).read_bytes(), (tmp_path / "tokens" / "demo.a").read_text()
    said = setup.initialise(
        tmp_path, parse("workloads: [{name: a, namespace: demo, service_account: x, ip: 10.0.0.1}]"), []
    )
    assert "kept" in said[0]
    assert (tmp_path / setup.ROOT_CERT).read_bytes() == root
    assert (tmp_path / "tokens" / "demo.a").read_text() == token
    assert [f.name for f in (tmp_path / "tokens").iterdir()] == ["demo.a"]


def test_another_service_account_is_another_token(tmp_path: Path) -> None:
    setup.initialise(tmp_path, MESH, [])
    setup.initialise(tmp_path, parse("workloads: [{name: a, namespace: demo, service_account: y, ip: 10.0.0.1}]"), [])
    assert tokens.parse((tmp_path / "tokens" / "demo.a").read_text()).service_account == "y"


def test_a_broken_root_is_not_replaced_silently(tmp_path: Path) -> None:
    setup.initialise(tmp_path, MESH, [])
    (tmp_path / setup.ROOT_KEY).write_text("x")
    with pytest.raises(ConfigError, match=r"remove root-key\.pem and root-cert\.pem"):
        setup.initialise(tmp_path, MESH, [])


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match=r"cannot write .*(Not a directory|File exists)"):
        setup.initialise(tmp_path / "file" / "lab", MESH, [])
