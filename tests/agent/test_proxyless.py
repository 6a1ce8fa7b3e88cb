"""Writing the gRPC bootstrap, and when applications may use it."""

import json
import stat
from pathlib import Path

import pytest

from agent import proxyless
from agent.errors import FatalError
from tests.fakes.configs import make


def nobody(_: str) -> None:
    raise AssertionError("nothing to warn of")


def test_written_readable_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "deep/down/grpc.json"
    path.parent.mkdir(parents=True)
    path.write_text("half a fi")
    path.chmod(0o600)
    proxyless.write(make(env={"GRPC_XDS_BOOTSTRAP": str(path)}), nobody)
    assert json.loads(path.read_text())["node"]["metadata"]["GENERATOR"] == "grpc"
    assert path.read_text().startswith('{\n  "xds_servers"')
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["grpc.json"]


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    proxyless.write(make(env={"GRPC_XDS_BOOTSTRAP": str(tmp_path / "new/grpc.json")}), nobody)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("place", ["file/grpc.json", "taken"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    with pytest.raises(FatalError, match="GRPC_XDS_BOOTSTRAP") as caught:
        proxyless.write(make(env={"GRPC_XDS_BOOTSTRAP": str(tmp_path / place)}), nobody)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_readiness_waits_for_the_certificates(tmp_path: Path) -> None:
    path, out = tmp_path / "grpc.json", tmp_path / "out"
    assert not proxyless.readiness(str(path)).ready
    proxyless.write(make(env={"GRPC_XDS_BOOTSTRAP": str(path), "OUTPUT_CERTS": str(out)}), nobody)
    out.mkdir()
    for name in ("cert-chain.pem", "key.pem", "root-cert.pem"):
        assert str(out) in proxyless.readiness(str(path)).reason
        (out / name).write_text("x")
    assert proxyless.readiness(str(path)).ready
    for broken in (b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(broken)
        assert "cannot be used" in proxyless.readiness(str(path)).reason


def test_off_and_elsewhere() -> None:
    assert make(env={"GRPC_XDS_BOOTSTRAP": ""}).proxyless.bootstrap == ""
    assert make().proxyless.bootstrap == "etc/istio/proxy/grpc-bootstrap.json"
