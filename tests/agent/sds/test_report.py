"""What is said of mounted files, asked for or not, and of somebody else's server."""

import json
import socket
from pathlib import Path

import pytest

from agent.config import SdsConfig
from agent.sds.files import FileSecrets
from agent.sds.report import describe, shadow
from tests.fakes.ca import Root


def config(tmp: Path) -> SdsConfig:
    return SdsConfig(cert_file=str(tmp / "c"), key_file=str(tmp / "k"), root_file=str(tmp / "r"))


def mount(tmp: Path) -> None:
    key, cert = Root("mounted").workload("spiffe://mounted/x")
    for name, content in (("c", cert), ("k", key), ("r", Root("mounted").pem)):
        (tmp / name).write_bytes(content)


@pytest.mark.parametrize("ca", [True, False])
def test_mounted_files_are_told_of_before_anybody_asks_for_them(tmp_path: Path, ca: bool) -> None:
    mount(tmp_path)
    pair, root = describe(config(tmp_path), FileSecrets(), ca)
    assert (pair["name"], pair["served"], pair["certificate"]["san"]) == ("default", True, ["spiffe://mounted/x"])
    assert (root["name"], root["roots"][0]["subject"]) == ("ROOTCA", "O=mounted")
    assert "PRIVATE" not in json.dumps([pair, root])
    row = shadow({"name": "default"}, [pair, root])
    assert (row["served"], row["shadowed_by"], row["roots_shadowed_by"]) == (False, pair["files"], root["files"])


def test_absent_ones_are_trouble_only_where_there_is_no_ca(tmp_path: Path) -> None:
    assert describe(config(tmp_path), FileSecrets(), ca=True) == []
    assert shadow({}, [])["served"]
    pair, root = describe(config(tmp_path), FileSecrets(), ca=False)
    assert f"cannot read {tmp_path}/c" in pair["last_error"]
    assert f"cannot read {tmp_path}/r" in root["last_error"]


def test_unusable_ones_beside_a_ca_are_shown_but_not_served(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("rubbish")
    (row,) = describe(config(tmp_path), FileSecrets(), ca=True)
    assert (row["served"], "no PEM certificate" in row["last_error"]) == (False, True)
    assert shadow({}, [row])["roots_shadowed_by"] is None


def test_the_last_good_content_is_what_is_served(tmp_path: Path) -> None:
    mount(tmp_path)
    files = FileSecrets()
    files.track("default", (str(tmp_path / "c"), str(tmp_path / "k")), quiet=True)
    files.track("another name", (str(tmp_path / "c"), str(tmp_path / "k")), quiet=True)
    (tmp_path / "c").unlink()
    files.refresh()
    pair, _, other = describe(config(tmp_path), files, ca=True)
    assert pair["certificate"]
    assert "cannot read" in pair["last_error"]
    assert (other["name"], other["files"]) == ("another name", pair["files"])


def test_the_server_of_somebody_else_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    elsewhere = SdsConfig(external=True, external_socket=path, cert_file="c", key_file="k", root_file="r")
    (row,) = describe(elsewhere, FileSecrets(), ca=False)
    assert (row["source"], row["socket"], row["there"]) == ("external", path, False)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        (row,) = describe(elsewhere, FileSecrets(), ca=False)
    assert (row["there"], row["last_error"]) == (True, None)
