import asyncio
import os
import socket
import stat
from dataclasses import replace

import pytest

from agent.config import XdsConfig
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.xds.proxy import XdsProxy
from tests.fakes.ads_client import peer_config


def proxy(tmp_path, path, **changes):
    config = XdsConfig(socket_path=str(path), plane=peer_config(tmp_path, None, "127.0.0.1:1"))
    return XdsProxy(replace(config, **changes), Latest(XdsStatus()), {}, Recorder())


def start(tmp_path, path):
    """Bind, look, stop; the socket's mode and that of its directory."""

    async def go():
        it = proxy(tmp_path, path)
        await it.start()
        running = asyncio.create_task(it.run())
        modes = os.lstat(path).st_mode, os.stat(os.path.dirname(path) or ".").st_mode
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        return modes

    return asyncio.run(go())


def test_makes_the_directory_and_opens_the_socket_to_everybody(tmp_path):
    old = os.umask(0o077)
    try:
        modes = start(tmp_path, tmp_path / "etc/istio/proxy/XDS")
    finally:
        os.umask(old)
    assert stat.S_ISSOCK(modes[0])
    assert stat.S_IMODE(modes[0]) == 0o666
    assert stat.S_IMODE(modes[1]) == 0o700


def test_directory_mode(tmp_path):
    old = os.umask(0o022)
    try:
        modes = start(tmp_path, tmp_path / "a/b/XDS")
    finally:
        os.umask(old)
    assert stat.S_IMODE(modes[1]) == 0o750
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stat.S_ISSOCK(start(tmp_path, "./etc/XDS")[0])
    assert stat.S_ISSOCK(start(tmp_path, "XDS")[0])


@pytest.mark.parametrize("stale", ["socket", "file", "link", "dangling"])
def test_what_is_in_the_way_is_replaced(tmp_path, stale):
    path, target = tmp_path / "XDS", tmp_path / "target"
    target.write_text("keep")
    if stale == "socket":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif stale == "file":
        path.write_text("x")
    else:
        path.symlink_to(target if stale == "link" else tmp_path / "nothing")
    assert stat.S_ISSOCK(start(tmp_path, path)[0])
    assert target.read_text() == "keep"


@pytest.mark.parametrize("case", ["directory", "file as parent", "too long"])
def test_one_sentence_when_it_cannot_be_bound(tmp_path, case):
    path = tmp_path / "XDS"
    if case == "directory":
        path.mkdir()
    elif case == "file as parent":
        (tmp_path / "f").write_text("")
        path = tmp_path / "f/XDS"
    else:
        path = tmp_path / ("x" * 120)
    with pytest.raises(FatalError) as caught:
        start(tmp_path, path)
    assert str(path) in str(caught.value)
    reasons = {
        "directory": "a directory is in its place",
        "file as parent": "Not a directory",
        "too long": "107 bytes",
    }
    assert reasons[case] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wanted_type_needs_its_handler(tmp_path):
    with pytest.raises(KeyError):
        proxy(tmp_path, tmp_path / "XDS", subscribe_names=True)


def test_run_needs_start(tmp_path):
    with pytest.raises(RuntimeError):
        asyncio.run(proxy(tmp_path, tmp_path / "XDS").run())
