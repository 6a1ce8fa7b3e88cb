"""python-iptables against a real kernel: rules that it did not write, locks, and when it is chosen."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from init import apply, config, legacy, restore
from init.errors import InitError
from init.record import replace
from init.rules import RuleSet, parse, render
from tests.fakes.netns import Namespace, sh, snapshot, used

pytestmark = pytest.mark.root
ARGS = ["-u", "1337", "-b", "*", "-i", "*", "--dual-stack"]
FOREIGN = [
    "-t nat -A OUTPUT -p tcp -m tcp -j RETURN",  # a match that has nothing to say
    "-t nat -A OUTPUT ! -o eth+ -p udp -m udp --sport 1:9 ! --dport 53 -j ACCEPT",
    "-t nat -A PREROUTING ! -i lo -m comment --comment banana -m multiport -p tcp --dports 1,3:9 -j LOG --log-prefix x",
    "-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
    "-t mangle -A PREROUTING -m mark ! --mark 0x7 -m conntrack --ctstate NEW -j MARK --set-xmark 0x1/0xff",
    "-t filter -A INPUT -p tcp -m tcp --tcp-flags SYN,RST SYN",  # no target
    "-t filter -N MINE",
    "-t filter -A FORWARD -g MINE",
]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    up = "ip link add eth0 type veth peer name gw0", "ip link set eth0 up"
    namespace = Namespace(*up, "ip addr add 10.77.0.2/24 dev eth0", "ip addr add fd77::2/64 dev eth0 nodad")
    yield namespace
    namespace.close()


@pytest.fixture
def no_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)


def settings(*more: str) -> config.InitConfig:
    return config.parse([*ARGS, *more], {"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("stem", ["iptables", "ip6tables"])
def test_foreign_rules_are_read_as_the_command_prints_them_and_stay(pod: Namespace, stem: str) -> None:
    family = 4 if stem == "iptables" else 6
    backend = legacy.backend(restore.Tools())

    def body() -> None:
        for rule in FOREIGN:
            sh(f"{stem}-legacy -w {rule}")
        before = render(used(parse(sh(f"{stem}-legacy-save"))))
        assert render(used(backend.read(family))) == before
        backend.restore(family, "*nat\n:ISTIO_X - [0:0]\n-I OUTPUT 1 -p tcp -j ISTIO_X\n-A ISTIO_X -j RETURN\nCOMMIT\n")
        assert "-A OUTPUT -p tcp -j ISTIO_X" in sh(f"{stem}-legacy-save")
        backend.restore(family, "*nat\n:ISTIO_X - [0:0]\n-D OUTPUT -p tcp -j ISTIO_X\n-X ISTIO_X\nCOMMIT\n")
        assert render(used(parse(sh(f"{stem}-legacy-save")))) == before

    pod.call(body)


@pytest.mark.parametrize("line", ["-A NOWHERE -j RETURN", "-D OUTPUT -j DROP", "-A OUTPUT -m nonsense -j DROP", "-Z"])
def test_a_line_that_fails_leaves_its_table_alone(pod: Namespace, line: str) -> None:
    backend = legacy.backend(restore.Tools())

    def body() -> None:
        sh("iptables-legacy -w -t nat -A OUTPUT -p tcp -j RETURN")
        before = snapshot()
        with pytest.raises(InitError, match=r"python-iptables failed.*line 3 failed"):
            backend.restore(4, f"*nat\n:ISTIO_X - [0:0]\n{line}\nCOMMIT\n")
        assert snapshot() == before

    pod.call(body)


@pytest.mark.usefixtures("no_commands")
def test_chosen_where_legacy_tables_are_and_no_command_is(pod: Namespace) -> None:
    def body() -> None:
        with pytest.raises(InitError, match="iptables is not installed"):
            apply.apply(settings())
        sh("iptables-legacy -w -t nat -A PREROUTING -p tcp --dport 9 -j ACCEPT")
        before = snapshot()
        outcome = apply.apply(settings())
        assert (outcome.backend, outcome.changed) == ("legacy", True)
        assert not apply.apply(settings()).changed
        assert isinstance(apply.look(settings()).backend, legacy.PythonBackend)
        assert used(parse(sh("iptables-nft-save"))) == RuleSet()
        apply.cleanup(settings())
        assert [x for x in snapshot() if x[0] == "-"] == [x for x in before if x[0] == "-"]

    pod.call(body)


@pytest.mark.usefixtures("no_commands")
def test_the_lock_is_held_while_writing_and_waited_for(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    base = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(base(c), lock_file=str(path), lock_wait=0.3))

    def body() -> None:
        before = snapshot()
        with path.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(InitError, match=r"waited 0\.3 seconds for the xtables lock.*nothing was changed"):
                apply.apply(settings("--force-iptables-binary", "legacy"))
        assert [x for x in snapshot() if x[0] == "-"] == [x for x in before if x[0] == "-"]
        assert apply.apply(settings("--force-iptables-binary", "legacy")).changed

    pod.call(body)
