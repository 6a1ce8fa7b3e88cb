"""What a machine may lack: each time one sentence that names it, and nothing changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from init import apply, config, restore
from init.__main__ import istio_iptables
from init.errors import InitError
from init.record import replace
from tests.fakes.netns import Namespace, as_user, sh, snapshot

pytestmark = pytest.mark.root

ARGS = ["-u", "1337", "-b", "*", "-i", "*"]
DUAL = [*ARGS, "--dual-stack"]
CAPABILITIES = {"NET_ADMIN": 1 << 12, "NET_RAW": 1 << 13}


@pytest.fixture
def pod() -> Iterator[Namespace]:
    up = "ip link add eth0 type veth peer name gw0", "ip link set eth0 up"
    namespace = Namespace(*up, "ip addr add 10.77.0.2/24 dev eth0", "ip addr add fd77::2/64 dev eth0 nodad")
    yield namespace
    namespace.close()


def settings(argv: list[str], *folders: Path) -> config.InitConfig:
    return config.parse(argv, {"PATH": ":".join([*map(str, folders), os.environ["PATH"]])})


def program(path: Path, body: str) -> None:
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)


def fails(pod: Namespace, body: Callable[[], object]) -> str:
    """The sentence with which `body` fails in the pod, having changed nothing."""

    def inside() -> str:
        before = snapshot()
        with pytest.raises(InitError) as e:
            body()
        assert snapshot() == before
        return str(e.value)

    sentence = pod.call(inside)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("backend", "held", "named"),
    [("nft", 0, "NET_ADMIN"), ("legacy", 0, "NET_ADMIN"), ("legacy", CAPABILITIES["NET_ADMIN"], "NET_RAW")],
)
def test_a_capability(pod: Namespace, tmp_path: Path, backend: str, held: int, named: str) -> None:
    log = tmp_path / "log"
    opened = log.open("w")  # by root, for a user who may not even look into the folder

    def powerless() -> int:
        sys.stderr = opened
        words = [*ARGS, "--force-iptables-binary", backend, "--log_output_level=error"]
        code = istio_iptables(words, {"PATH": os.environ["PATH"]})
        opened.flush()
        return code

    def body() -> int:
        before = snapshot()
        code = as_user(1337, held, powerless)
        assert snapshot() == before
        return code

    assert pod.call(body) == 1
    text = log.read_text()
    assert text.count("\n") == 1
    assert named in text or "xtables lock" in text  # the lock file of root comes first for another user


def test_every_command(pod: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)
    assert "iptables is not installed" in fails(pod, lambda: apply.apply(settings(ARGS)))


def test_the_commands_of_one_family(pod: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = restore.Tools.find
    monkeypatch.setattr(restore.Tools, "find", lambda t, name: None if name.startswith("ip6") else real(t, name))
    assert "ip6tables-nft is not installed" in fails(pod, lambda: apply.apply(settings(DUAL)))

    def body() -> bool:
        return apply.apply(settings(ARGS)).changed  # IPv6 was not asked for

    assert pod.call(body)


@pytest.mark.parametrize(
    ("message", "module"),
    [
        ("Extension owner revision 0 not supported, missing kernel module?", "xt_owner"),
        ("iptables-restore: line 10 failed: No chain/target/match by that name.", "xt_REDIRECT"),
        ("can't initialize iptables table `nat': Table does not exist (do you need to insmod?)", "iptable_nat"),
    ],
)
def test_a_kernel_module(pod: Namespace, tmp_path: Path, message: str, module: str) -> None:
    program(tmp_path / "iptables-nft-restore", f'echo "{message.replace("`", chr(92) + "`")}" >&2; exit 1\n')
    sentence = fails(pod, lambda: apply.apply(settings([*ARGS, "--force-iptables-binary", "nft"], tmp_path)))
    assert f"the kernel module {module}" in sentence


def test_ipv6_at_all(pod: Namespace, tmp_path: Path) -> None:
    """A kernel without IPv6 is no error, even when the commands for it are there and fail."""
    for kind in ("nft", "legacy"):
        for verb in ("save", "restore"):
            program(tmp_path / f"ip6tables-{kind}-{verb}", 'echo "Address family not supported" >&2; exit 3\n')

    def body() -> None:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        wanted = settings(DUAL, tmp_path)
        assert not wanted.v6
        outcome = apply.apply(wanted)
        assert (outcome.changed, outcome.warnings) == (True, ())
        assert apply.verify(wanted) == []
        assert not apply.apply(wanted).changed
        assert apply.cleanup(wanted).changed

    pod.call(body)


def test_ipv6_on_lo_alone(pod: Namespace) -> None:
    def body() -> object:
        Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("1")
        return fails_inside()

    def fails_inside() -> str:
        before = snapshot()
        with pytest.raises(InitError) as e:
            apply.apply(settings(DUAL))
        assert snapshot() == before
        return str(e.value)

    assert "IPv6 is disabled on lo" in str(pod.call(body))


def test_rules_for_an_ipv6_address(pod: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that nothing captures is named in a warning."""

    def body() -> None:
        outcome = apply.apply(settings(ARGS))
        assert [w for w in outcome.warnings if "fd77::2" in w and "not captured" in w]
        assert istio_iptables(ARGS, {"PATH": os.environ["PATH"]}) == 0
        assert apply.apply(settings(DUAL)).warnings == ()

    pod.call(body)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warn")]
    assert warnings == ["warn\ttraffic of the IPv6 address fd77::2 is not captured: --dual-stack is off"]


def test_time_for_a_lock_that_another_holds(pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    base = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(base(c), lock_file=str(tmp_path / "lock"), lock_wait=1))
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sentence = fails(pod, lambda: apply.apply(settings([*ARGS, "--force-iptables-binary", "legacy"])))
    assert "waited 1 seconds for the xtables lock, which another program holds" in sentence


def test_the_state_is_logged_at_the_end(pod: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        environ = {"PATH": os.environ["PATH"]}
        sh("iptables-nft -w -A INPUT -p tcp --dport 7 -j ACCEPT")
        istio_iptables([*DUAL, "--log_output_level=default:info"], environ)
        lines = capsys.readouterr().err.splitlines()
        assert {"info\tPROXY_UID=1337", "info\tiptables-save", "info\tip6tables-save"} <= set(lines)
        assert lines.count("info\t-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001") == 2
        assert "info\t-A INPUT -p tcp -m tcp --dport 7 -j ACCEPT" in lines
        istio_iptables([*DUAL, "--cleanup-only"], environ)
        assert "ISTIO_" not in "".join(x for x in capsys.readouterr().err.splitlines() if "\t-A" in x)

    pod.call(body)
