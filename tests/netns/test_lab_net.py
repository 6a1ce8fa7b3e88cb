"""Real namespaces of the lab: what is reachable, what is visible, and that nothing stays behind however it ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import FatalError
from agent.lab import mounts, process
from agent.lab.demo import MESH
from agent.lab.janitor import NETNS, Janitor, members
from agent.lab.net import Namespace, Network, command
from agent.lab.options import Options, find_envoy
from agent.lab.probe import Sniffer, classify, http_request
from agent.lab.process import Place, Process
from agent.lab.world import PROJECT, Lab

pytestmark = pytest.mark.root

ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(PROJECT)}
NEEDED = (Path(sys.prefix), Path(sys.base_prefix), PROJECT)


def eventually(look: Callable[[], object], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def host_interfaces() -> set[str]:
    return {entry["ifname"] for entry in json.loads(command(["ip", "-j", "link"]))}


class World:
    """Two pods on a bridge, without agents, and a mount namespace in which the interpreter is reachable."""

    def __init__(self, name: str, work: Path) -> None:
        self.janitor = Janitor()
        self.network = Network(name, self.janitor)
        self.node = self.network.create()
        self.a = self.network.add("a", "10.77.0.11")
        self.b = self.network.add("b", "10.77.0.12")
        self.work = work
        (work / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        self.mounts = mounts.private_namespace((*NEEDED, work), {Path("/etc/resolv.conf"): work / "resolv.conf"})
        self.processes: list[Process] = []

    def place(self, namespace: Namespace, uid: int = 1000, *capabilities: str) -> Place:
        return Place(namespace, self.work, self.mounts, uid, capabilities)

    def start_app(self) -> None:
        argv = [sys.executable, "-m", "agent.lab.app", "b", "8080"]
        log = self.work / "app.log"
        self.processes.append(process.start("app", self.place(self.b), argv, log, ENVIRON))
        eventually(lambda: "listens" in log.read_text())

    def close(self) -> None:
        os.close(self.mounts)
        assert self.janitor.close() == []
        for each in self.processes:
            assert each.wait(5.0) is not None


@pytest.fixture
def work() -> Iterator[Path]:
    # Not pytest's own folder, whose parents are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def world(work: Path) -> Iterator[World]:
    made = World(f"t{os.getpid():x}", work)
    try:
        yield made
    finally:
        made.close()
        assert not [p for p in NETNS.iterdir() if p.name.startswith(f"rlt{os.getpid():x}-")]


def test_pods_reach_each_other_and_the_host_sees_nothing_of_it(world: World) -> None:
    before = host_interfaces()
    world.start_app()
    with Sniffer(world.node, world.b.port, world.b.ip, 8080) as sniffer:
        answer = http_request(world.a, world.b.ip, 8080, "/?token=abc")
    assert (answer.status, json.loads(answer.body)["peer"]) == (200, world.a.ip)
    assert classify(sniffer.payloads, [b"token=abc"]).leaked == ("token=abc",)
    assert http_request(world.node, world.b.ip, 8080).status == 200
    assert "ConnectionRefused" in http_request(world.a, world.b.ip, 8081).error
    assert host_interfaces() == before
    assert {p.pid for p in world.processes} == set(members(world.b.name))
    assert world.b.ip not in command(["ip", "-4", "addr"])
    assert "10.77." not in command(["ip", "-4", "route"])


def test_a_process_runs_where_and_as_whom_it_should(world: World) -> None:
    script = "id -u; id -G; pwd; cat /etc/resolv.conf; grep CapEff /proc/self/status; ls /proc/self/fd | wc -l"
    status, output = process.run(world.place(world.a, 1337, "net_admin"), ["sh", "-c", script], ENVIRON)
    assert status == 0, output
    lines = output.split("\n")
    assert lines[:3] == ["1337", "1337", str(world.work)]
    assert lines[3] == "nameserver 192.0.2.53"
    assert lines[4].split() == ["CapEff:", "0000000000001000"]
    assert int(lines[5]) == 4  # three standard streams, and the directory that ls reads
    status, output = process.run(world.place(world.a), ["grep", "Cap[IPEA]", "/proc/self/status"], ENVIRON)
    assert set(output.split()[1::2]) == {"0000000000000000"}


def test_the_interpreter_works_for_other_users(world: World) -> None:
    code = "import sys, grpc, agent.lab.app; print(sys.prefix)"
    assert process.run(world.place(world.a), [sys.executable, "-c", code], ENVIRON) == (0, f"{sys.prefix}\n")


def test_its_log_can_be_reopened_by_its_user(world: World) -> None:
    """Envoy opens /dev/stdout anew for its access log."""
    log = world.work / "out.log"
    script = "echo one; echo two > /dev/stdout; echo three >> /dev/stdout"
    started = process.start("echo", world.place(world.a, 1337), ["sh", "-c", script], log, ENVIRON)
    assert started.wait(10.0) == 0
    assert "three" in log.read_text()


def test_a_command_that_hangs_is_given_up(world: World) -> None:
    with pytest.raises(FatalError, match="did not end within"):
        process.run(world.place(world.a), ["sleep", "60"], ENVIRON, limit=0.3)


@pytest.fixture
def closed(work: Path) -> Path:
    """A directory that nobody else may walk through, with things that are needed and things that are not."""
    closed = work / "home"
    (closed / "project/.venv/bin").mkdir(parents=True)
    (closed / "project/.venv/bin/tool").write_text("#!/bin/sh\necho works\n")
    (closed / "project/.venv/bin/tool").chmod(0o755)
    (closed / "versions/3.11.7").mkdir(parents=True)
    (closed / "versions/3.11").symlink_to("3.11.7")
    (closed / "secret").write_text("private")
    (closed / "versions").chmod(0o700)
    closed.chmod(0o700)
    return closed


def test_needed_trees_are_reachable_through_closed_directories(world: World, closed: Path) -> None:
    tool = str(closed / "project/.venv/bin/tool")
    assert process.run(world.place(world.a), [tool], ENVIRON)[0] != 0
    needed = [closed / "project", closed / "project/.venv", closed / "versions/3.11"]
    descriptor = mounts.private_namespace(needed, {})
    try:
        place = Place(world.a, Path("/"), descriptor, 1000)
        assert process.run(place, [tool], ENVIRON) == (0, "works\n")
        status, output = process.run(place, ["ls", "-A", str(closed), f"{closed}/versions"], ENVIRON)
        assert status == 0
        assert set(output.split()) >= {"project", "versions", "3.11", "3.11.7"}
        assert "secret" not in output
        assert process.run(place, ["touch", f"{closed}/new"], ENVIRON)[0] != 0
    finally:
        os.close(descriptor)
    # The host's own view has not changed.
    assert (closed / "secret").read_text() == "private"
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_file_that_does_not_exist_gets_its_directory_rebuilt(world: World) -> None:
    etc = world.work / "etc"
    (etc / "sub").mkdir(parents=True)
    (etc / "sub/kept").write_text("kept")
    (etc / "hosts").write_text("hosts")
    (etc / "link").symlink_to("hosts")
    (etc / "resolv.conf").symlink_to("../run/nowhere")
    (world.work / "mine").write_text("mine")
    descriptor = mounts.private_namespace([], {etc / "resolv.conf": world.work / "mine"})
    try:
        names = ["resolv.conf", "link", "sub/kept"]
        argv = ["cat", *(str(etc / name) for name in names)]
        assert process.run(Place(world.a, Path("/"), descriptor, 1000), argv, ENVIRON) == (0, "minehostskept")
    finally:
        os.close(descriptor)
    assert (etc / "resolv.conf").is_symlink()
    assert not (etc / "resolv.conf").exists()


def test_a_pod_is_laid_out_like_the_injected_container(tmp_path: Path) -> None:
    with Lab(Options(MESH, tmp_path / "logs", find_envoy({}))) as lab:
        pod = lab.pods["a"]
        token = pod.root / "var/run/secrets/tokens/istio-token"
        assert (token.stat().st_uid, token.stat().st_mode & 0o777) == (1337, 0o640)
        assert token.read_text().startswith("lab.demo.a.")
        assert "BEGIN CERTIFICATE" in (pod.root / "var/run/secrets/istio/root-cert.pem").read_text()
        assert 'app="a"' in (pod.root / "etc/istio/pod/labels").read_text()
        # The proxy's user writes where the webhook mounts volumes for it; the application may read no token.
        for writable in ("etc/istio/proxy", "var/lib/istio/data", "var/run/secrets/workload-spiffe-uds"):
            argv = ["touch", f"{writable}/probe"]
            assert process.run(pod.place(1337), argv, lab.environ)[0] == 0
            assert process.run(pod.place(1000), argv, lab.environ)[0] != 0
        assert process.run(pod.place(1000), ["cat", str(token)], lab.environ)[0] != 0
        assert process.run(pod.place(1000), ["cat", "/etc/resolv.conf"], lab.environ)[1].splitlines()[:2] == [
            "search demo.svc.cluster.local svc.cluster.local cluster.local",
            "nameserver 10.77.0.3",
        ]
        # The same command line as the webhook's; a second run finds nothing to do.
        pod.write_rules()
        rules = pod.rules()
        assert any("--to-ports 15006" in rule for rule in rules)
        assert any("-d 10.77.0.3/32" in rule and "15053" in rule for rule in rules)
        pod.write_rules()
        assert pod.rules() == rules


SCRIPT = """
import sys, time
from pathlib import Path
from agent.lab.demo import MESH
from agent.lab.options import Options, find_envoy
from agent.lab.world import Lab, interruptible
with interruptible(), Lab(Options(MESH, Path(sys.argv[1]), find_envoy({}))) as lab:
    for pod in lab.pods.values():
        pod.write_rules()
        pod.start_app()
    lab.start_ca()
    print(lab.id, lab.work, lab.janitor.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_nothing_is_left_however_a_lab_ends(number: signal.Signals, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", SCRIPT, str(tmp_path / "logs")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as lab:
        assert lab.stdout is not None
        lab_id, work, janitor = lab.stdout.readline().split()
        names = [p.name for p in NETNS.iterdir() if p.name.startswith(f"rl{lab_id}-")]
        assert {n.partition("-")[2] for n in names} == {"net", "istiod", "outside", "a", "b"}
        try:
            # Name server, CA and two applications; each is in its namespace only after its first instructions.
            eventually(lambda: sum(len(members(name)) for name in names) >= 4)
            running = [pid for name in names for pid in members(name)]
            assert Path(work).is_dir()
            lab.send_signal(number)
            lab.wait(30)
            eventually(lambda: not Path(f"/proc/{janitor}").exists())
        finally:
            lab.kill()
    assert not [p for p in NETNS.iterdir() if p.name.startswith(f"rl{lab_id}-")]
    assert not Path(work).exists()
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]


def test_a_lab_that_cannot_be_built_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(NETNS.iterdir()) if NETNS.exists() else set()
    # A mesh that `lab init` cannot write: its folder is taken by a file.
    monkeypatch.setattr(Lab, "_own_directory", lambda self, path: path.write_text("in the way"))
    lab = Lab(Options(MESH, tmp_path / "logs", find_envoy({})))
    with pytest.raises(FatalError, match="lab init"):
        lab.__enter__()
    assert set(NETNS.iterdir()) == before
    assert not lab.work.exists()
