"""How the child is set up, seen from the child itself."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.config import EnvoyConfig
from agent.envoy.launch import spawn
from agent.errors import FatalError
from tests.fakes.envoy import FakeEnvoy, alive, wait_for

TELL = """
import ctypes, json, os, pathlib, sys
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal))
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
out = pathlib.Path(sys.argv[1])
out.with_suffix(".new").write_text(json.dumps({
    "pgid": os.getpgid(0), "pid": os.getpid(), "cwd": os.getcwd(),
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "env": dict(os.environ), "death": signal.value, "ambient": int(status["CapAmb"], 16), "argv": sys.argv[2:],
    "fds": sorted(int(f) for f in os.listdir("/proc/self/fd"))}))
out.with_suffix(".new").rename(out)
"""


def config(binary: str = sys.executable, **more: Any) -> EnvoyConfig:
    return EnvoyConfig(True, binary, ".", "", 15000, "127.0.0.1", 15021, 15090, **more)


def tell(folder: Path, **more: Any) -> dict[str, Any]:
    folder.chmod(0o777)
    out = folder / "told"
    envoy = spawn(config(**more), ["-c", TELL, str(out), "x", ""], {"PATH": os.defpath, "EMPTY": "", "A": "ä"})
    assert select.select([envoy.pidfd], [], [], 30)[0]
    assert envoy.reap() == 0
    told = json.loads(out.read_text())
    assert isinstance(told, dict)
    return told


def test_the_child_as_it_sees_itself(tmp_path: Path) -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        told = tell(tmp_path)
    finally:
        os.close(leaked)
    assert told["pgid"] == told["pid"] != os.getpgid(0)
    assert told["cwd"] == os.getcwd()
    assert told["death"] == signal.SIGKILL
    assert told["ambient"] == 0
    assert told["argv"] == ["x", ""]
    assert (told["env"]["EMPTY"], told["env"]["A"]) == ("", "ä")
    assert "HOME" not in told["env"]
    assert leaked not in told["fds"] or leaked <= 2


@pytest.mark.root
def test_another_user(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith(("test_", "pytest-", "popen-")):  # those that pytest has made
            parent.chmod(0o755)
    told = tell(tmp_path, run_as=(1337, 1338), binary="/proc/self/exe")
    assert (told["uid"], told["gid"], told["groups"], told["death"]) == (1337, 1338, [], signal.SIGKILL)


AMBIENT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Head(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure): _fields_ = [(n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable")]
caps = (Data * 2)()
assert libc.capget(ctypes.byref(Head(0x20080522, 0)), caps) == 0
caps[0].inheritable |= 1 << 12
assert libc.capset(ctypes.byref(Head(0x20080522, 0)), caps) == 0
assert libc.prctl(47, 2, 12, 0, 0) == 0
from agent.config import EnvoyConfig
from agent.envoy.launch import spawn
def ambient(): return int(next(l for l in open("/proc/self/status") if l.startswith("CapAmb")).split()[1], 16)
assert ambient() == 1 << 12
out = sys.argv[1]
command = "grep CapAmb /proc/self/status > " + out
spawn(EnvoyConfig(True, "/bin/sh", ".", "", 1, "", 1, 1), ["-c", command], {"PATH": "/bin:/usr/bin"}).reap(10)
assert ambient() == 1 << 12
"""


@pytest.mark.root
def test_the_capabilities_that_repair_needs_stay_with_the_agent(tmp_path: Path) -> None:
    out = tmp_path / "caps"
    subprocess.run([sys.executable, "-c", AMBIENT, str(out)], check=True)
    assert int(out.read_text().split()[1], 16) == 0


def test_envoy_dies_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from agent.config import EnvoyConfig
        from agent.envoy.launch import spawn
        envoy = spawn(EnvoyConfig(True, "/bin/sleep", ".", "", 1, "", 1, 1), ["1000"], {})
        print(envoy.pid, flush=True)
        signal.pause()
    """
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    agent.stdout.close()
    assert alive(pid)
    agent.kill()
    agent.wait()
    wait_for(lambda: not alive(pid))


def test_killing_ends_the_whole_group(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        wait_for(fake.starts)
        child = int(fake.order("leave"))
        envoy.kill()
        assert envoy.reap(10) == -signal.SIGKILL
        wait_for(lambda: not alive(child))


def test_what_a_crashed_envoy_leaves_behind_ends_too(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        wait_for(fake.starts)
        child = int(fake.order("leave"))
        fake.order("exit/3")
        assert envoy.reap(10) == 3
        wait_for(lambda: not alive(child))


def test_waiting_is_bounded_and_the_end_is_final(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        with pytest.raises(TimeoutError):
            envoy.reap(0.01)
        envoy.kill()
        assert envoy.reap() == -signal.SIGKILL
        assert envoy.pidfd == -1
        envoy.kill()
        assert envoy.reap() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "content", "mode", "words"),
    [
        ("missing", None, 0, "there is no such file"),
        ("plain", b"#!/bin/sh\n", 0o644, "not an executable file"),
        ("garbage", b"\x7fELF nonsense", 0o755, "not a program that this machine can run"),
        ("script", b"#!/no/such/interpreter\n", 0o755, "its interpreter is missing"),
    ],
)
def test_a_binary_that_cannot_run(tmp_path: Path, name: str, content: bytes | None, mode: int, words: str) -> None:
    binary = tmp_path / name
    if content is not None:
        binary.write_bytes(content)
        binary.chmod(mode)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FatalError, match=words) as caught:
        spawn(config(str(binary)), [], {})
    assert str(binary) in str(caught.value)
    assert "binaryPath" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_directory_is_not_a_binary(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="not an executable"):
        spawn(config(str(tmp_path)), [], {})
