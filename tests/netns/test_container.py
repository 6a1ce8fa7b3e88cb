"""The agent as the one process of a container: first process, a root that cannot be written, no /tmp, uid 1337."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import wait_for

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent.parent


class Container(World):
    """`start` runs the agent behind `prefix`, a shell line that ends by exec'ing its arguments."""

    prefix = ""

    def wrap(self, command: list[str]) -> list[str]:
        return [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            f'{self.prefix} exec "$@"',
            "sh",
            *command,
        ]

    def agent(self) -> int:
        """The agent's process id as seen from here: the one child of `unshare`."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(wait_for(lambda: path.read_text().split())[0])


@pytest.fixture
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with Container(tmp_path_factory.mktemp("c")) as made:
        yield made


def children(pid: int) -> list[str]:
    """State letters of the children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_the_first_process_collects_orphans_and_still_sees_how_envoy_ends(container: Container) -> None:
    container.envoy = container.script(
        "forking", f'(sleep 0.1 & sleep 0.2 &)\nexec {shlex.quote(str(container.envoy))} "$@"'
    )
    container.proxy_config["binaryPath"] = str(container.envoy)
    container.start()
    container.wait_ready()
    agent = container.agent()
    wait_for(lambda: children(agent) == ["S"], 15)  # Envoy alone
    envoy = int(Path(f"/proc/{agent}/task/{agent}/children").read_text().split()[0])
    os.kill(envoy, signal.SIGSEGV)
    wait_for(lambda: len(container.envoy_starts()) == 2, 20)
    container.wait_ready()
    os.kill(agent, signal.SIGTERM)
    status, out, _ = container.end()
    assert status == 0
    assert "Envoy was killed by SIGSEGV" in out


def hidden_parents(paths: list[Path]) -> list[Path]:
    """Directories on the way to `paths` that other users may not pass, outermost only."""
    found: list[Path] = []
    for path in paths:
        for parent in reversed(path.resolve().parents):
            if not parent.stat().st_mode & 0o001 and parent not in found:
                found.append(parent)
                break
    return found


BECOME = "setpriv --reuid 1337 --regid 1337 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"


def seen_by_its_user(pid: int) -> set[str]:
    """What of a process another one of uid 1337 can open."""
    names = ("environ", "maps", "mem")
    script = f"for name in {' '.join(names)}; do (: </proc/{pid}/$name) 2>/dev/null && echo $name; done; true"
    done = subprocess.run([*BECOME.split(), "sh", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_uid_1337_with_a_read_only_root_and_no_tmp(container: Container) -> None:
    world = container.folder
    for path in [world, *world.rglob("*")]:
        os.chown(path, 1337, 1337)
    needed = [ROOT, Path(sys.prefix), Path(sys.base_prefix), world]
    # In a mount namespace of its own: the needed folders behind directories that uid 1337 may pass, everything else
    # read-only, /tmp empty and closed.
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs stage /mnt"]
    for number, path in enumerate(needed):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
    for parent in [*hidden_parents(needed), Path("/tmp")]:
        lines.append(f"mount -t tmpfs -o mode=0755 hidden {shlex.quote(str(parent))}")
    for number, path in enumerate(needed):
        quoted = shlex.quote(str(path))
        lines += [f"mkdir -p {quoted}", f"mount --bind /mnt/{number} {quoted}"]
    quoted = shlex.quote(str(world))
    lines += [
        "awk '{print $5}' /proc/self/mountinfo | sort -u | while read -r m; do",
        f'  case "$m" in {quoted}|/mnt/{len(needed) - 1}|/proc*|/dev*|/sys*) ;;',
        '  *) mount -o remount,bind,ro "$m" 2>/dev/null || true ;; esac',
        "done",
        f"cd {quoted}",
        "if touch /written || touch /tmp/written || touch /etc/written; then exit 99; fi 2>/dev/null",
        f"exec {BECOME} \\",
    ]
    container.prefix = "\n".join(lines) + '\n  sh -c \'exec "$@"\' sh "$@"\n'
    container.start(HOME="/nonexistent")
    container.wait_ready()
    wait_for(lambda: container.ca.calls, 10)
    agent = container.agent()
    assert "Uid:\t1337\t1337" in Path(f"/proc/{agent}/status").read_text()
    # Nobody but root looks into the agent's memory, where the keys are; Envoy's is as visible as any process's.
    (envoy,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    assert (seen_by_its_user(agent), seen_by_its_user(int(envoy)) >= {"environ", "maps"}) == (set(), True)
    caches = list(world.rglob("__pycache__"))
    os.kill(agent, signal.SIGTERM)
    status, out, err = container.end()
    assert (status, err, caches) == (0, "", [])
    assert "Traceback" not in out


def test_a_full_disk_is_one_sentence(container: Container) -> None:
    folder = shlex.quote(str(container.folder / "etc/istio/proxy"))
    fill = f"mount -t tmpfs -o size=4k full {folder} && cat /dev/zero > {folder}/zero 2>/dev/null"
    container.prefix = f'{fill}; "$@"; status=$?; echo left: $(ls {folder}); exit $status;'
    container.start()
    status, out, err = container.end()
    assert out.splitlines()[-1] == "left: zero"
    assert status == 1
    assert err.startswith("Error: Envoy's bootstrap cannot be written to ")
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert container.envoy_starts() == []


def test_two_agents_on_one_host(container: Container, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other ports, another directory, one network: neither takes from the other."""
    first = container
    first.start()
    first.wait_ready()
    with World(tmp_path_factory.mktemp("d")) as second:
        second.network.close()
        second.network = first.network
        try:
            second.proxy_config |= {"statusPort": 16020, "proxyAdminPort": 16000}
            second.proxy_config["binaryPath"] = str(
                second.script("other", f"{second.envoy.read_text().splitlines()[1].replace('15000', '16000')}")
            )
            second.proxy_config["discoveryAddress"] = first.proxy_config["discoveryAddress"]
            second.root_file.write_bytes(first.root.pem)
            second.start(ENVOY_PROMETHEUS_PORT="16090", ENVOY_STATUS_PORT="16021")
            wait_for(lambda: second.http(16020, "/healthz/ready")[0] == 200, 20)
            assert first.http(15020, "/healthz/ready")[0] == 200
            assert second.end(signal.SIGTERM)[0] == 0
            assert first.http(15020, "/healthz/ready")[0] == 200
        finally:
            second.network = type(first.network)()
    os.kill(first.agent(), signal.SIGTERM)
    assert first.end()[0] == 0
