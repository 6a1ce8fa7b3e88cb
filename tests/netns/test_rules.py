"""Plans in a real kernel: what comes back, what a second run does, what is left after removing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from agent.cli.rules import run as pilot_agent
from init import apply, config, restore, routes
from init.__main__ import istio_iptables, run
from init.errors import InitError
from init.plan import plan
from init.rules import RuleSet, parse, render
from tests.fakes.netns import Namespace, as_user, sh, snapshot, used

pytestmark = pytest.mark.root

DEFAULT = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x '' -b * -d 15090,15021,15020 --log_output_level=default:info"
DNS = {"ISTIO_META_DNS_CAPTURE": "true"}
# The init containers that istio's webhook writes, by what the pod asked for; a proxyless pod has none.
INJECTED: dict[str, tuple[str, dict[str, str]]] = {
    "default": (DEFAULT, {}),
    "dns": (DEFAULT, DNS),
    "hold": (DEFAULT, {}),
    "native": (DEFAULT, {}),
    "tproxy": (DEFAULT.replace("REDIRECT", "TPROXY"), {}),
    "traffic": (
        "-p 15001 -z 15006 -u 1337 -m REDIRECT -i 10.0.0.0/8 -x '' -b * -d 15090,15021,9100,15020 -o 5432"
        " --log_output_level=default:info",
        {},
    ),
    "proxyless": ("--cleanup-only", {}),
}
EVERYTHING = DEFAULT.replace("REDIRECT", "TPROXY") + " -q 90 -o 9 -c net1 -k tap0 --drop-invalid --redirect-dns"


def words(line: str, *more: str) -> list[str]:
    return ["" if w == "''" else w for w in line.split()] + list(more)


@pytest.fixture(params=["nft", "legacy", "python-iptables"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What --force-iptables-binary says; python-iptables serves legacy tables where no command is found."""
    if request.param != "python-iptables":
        return str(request.param)
    monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)
    return "legacy"


@pytest.fixture
def make() -> Iterator[Callable[..., Namespace]]:
    made: list[Namespace] = []

    def build(*addresses: str) -> Namespace:
        up = ["ip link add eth0 type veth peer name gw0", "ip link set gw0 up", "ip link set eth0 up"]
        add = [f"ip addr add {a} dev eth0{' nodad' if ':' in a else ''}" for a in addresses]
        made.append(Namespace(*up, *add))
        return made[-1]

    yield build
    for namespace in made:
        namespace.close()


@pytest.fixture
def pod(make: Callable[..., Namespace]) -> Namespace:
    return make("10.77.0.2/24", "fd77::2/64")


def settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> config.InitConfig:
    real = config.real_host()
    files = {"/etc/resolv.conf": "nameserver 10.0.0.10\nnameserver fd00::a\n"}
    host = config.Host(lambda path: files.get(path) or real.file(path), real.addresses)
    return config.parse(argv, {"PATH": os.environ["PATH"], **(environ or {})}, host)


@pytest.mark.parametrize("name", INJECTED)
def test_what_the_webhook_asks_for(pod: Namespace, backend: str, name: str) -> None:
    line, environ = INJECTED[name]

    def body() -> None:
        argv = words(line, "--dual-stack", "--force-iptables-binary", backend)
        before = snapshot()
        wanted = settings(argv, environ)
        if wanted.cleanup_only:
            assert not apply.cleanup(wanted).changed
            assert snapshot() == before
            return
        outcome = apply.apply(wanted)
        assert (outcome.changed, outcome.backend) == (True, backend)
        planned = plan(wanted)
        for family, stem in ((4, "iptables"), (6, "ip6tables")):
            saved = sh(f"{stem}-{backend}-save")
            plain = "".join(x + "\n" for x in saved.splitlines() if not x.startswith("#"))
            kernel = re.sub(r"\[\d+:\d+\]", "[0:0]", plain)
            assert sorted(kernel.split("COMMIT\n")) == sorted(render(planned.of(family)).split("COMMIT\n"))
        assert apply.verify(wanted) == []
        after = snapshot()
        assert not apply.apply(wanted).changed
        assert not apply.apply(wanted, replace=False).changed
        assert snapshot() == after
        assert apply.cleanup(wanted).changed
        assert snapshot() == before

    pod.call(body)


def test_any_plan_replaces_any_other(pod: Namespace, backend: str) -> None:
    lines = [
        DEFAULT,
        EVERYTHING,
        DEFAULT + " --dual-stack",
        EVERYTHING + " --dual-stack -t 77 -r 99",
        "-b 80 -i 10.0.0.0/8",
    ]

    def body() -> None:
        before = snapshot()
        alone = []
        for line in lines:
            wanted = settings(words(line, "--force-iptables-binary", backend))
            apply.apply(wanted)
            alone.append(snapshot())
            apply.cleanup(wanted)
            assert snapshot() == before
        slow = restore.Tools().find("ip") is None  # every step is a process of Python
        for first in lines[1:2] if slow else lines:
            for line, expected in zip(lines, alone, strict=True):
                apply.apply(settings(words(first, "--force-iptables-binary", backend)))
                apply.apply(settings(words(line, "--force-iptables-binary", backend)))
                assert snapshot() == expected
        apply.cleanup(settings(["--force-iptables-binary", backend]))  # with none of the flags
        assert snapshot() == before

    pod.call(body)


def test_without_reconcile_other_rules_are_refused(pod: Namespace, backend: str) -> None:
    def body() -> None:
        apply.apply(settings(words(DEFAULT, "--force-iptables-binary", backend)))
        before = snapshot()
        with pytest.raises(InitError, match="--reconcile"):
            apply.apply(settings(words(DEFAULT, "-o", "9", "--force-iptables-binary", backend)), replace=False)
        assert snapshot() == before

    pod.call(body)


def test_damage_of_every_kind_is_seen_and_repaired(pod: Namespace, backend: str) -> None:
    tool = f"iptables-{backend} -w -t nat "
    damage = {
        "missing": [tool + "-D ISTIO_OUTPUT 2"],
        "changed": [tool + "-R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 1"],
        "unexpected": [tool + "-A ISTIO_INBOUND -p tcp --dport 7 -j RETURN"],
        "reordered": [tool + "-D ISTIO_OUTPUT 9", tool + "-I ISTIO_OUTPUT 1 -j ISTIO_REDIRECT"],
        "duplicate": [tool + "-A OUTPUT -j ISTIO_OUTPUT"],
        "route": ["ip rule del fwmark 1337"],
    }

    def body() -> None:
        wanted = settings(words(DEFAULT, "--force-iptables-binary", backend))
        tproxy = settings(words(EVERYTHING, "--force-iptables-binary", backend))
        for kind, commands in damage.items():
            which = tproxy if kind == "route" else wanted
            apply.apply(which)
            good = snapshot()
            for command in commands:
                sh(command)
            assert kind in {d.kind for d in apply.verify(which)}
            assert apply.apply(which).changed
            assert snapshot() == good
        apply.apply(wanted)
        good = snapshot()
        sh(f"iptables-{backend} -t nat -F")
        assert {d.kind for d in apply.verify(wanted)} == {"missing"}
        assert apply.apply(wanted, replace=False).changed  # nothing of ours is left, so nothing is replaced
        assert snapshot() == good

    pod.call(body)


def test_foreign_rules_are_kept_and_one_ahead_is_reported(pod: Namespace, backend: str) -> None:
    tool = f"iptables-{backend} -w "
    foreign = [
        tool + "-t nat -A PREROUTING -p tcp --dport 9999 -j REDIRECT --to-ports 7",
        tool + "-t nat -N MINE",
        tool + "-t nat -A MINE -j RETURN",
        tool + "-t nat -A OUTPUT -d 192.0.2.0/24 -j MINE",
        tool + "-A INPUT -p tcp --dport 6666 -j DROP",
    ]

    def body() -> None:
        for command in foreign:
            sh(command)
        before = snapshot()
        wanted = settings(words(EVERYTHING, "--dual-stack", "--force-iptables-binary", backend))
        apply.apply(wanted)
        after = snapshot()
        assert set(before) - {"COMMIT"} <= set(after)
        outcome = apply.apply(settings(words(DEFAULT, "--force-iptables-binary", backend)))
        assert any("9999" in w for w in outcome.warnings)
        apply.cleanup(wanted)
        assert snapshot() == before

    pod.call(body)


def test_legacy_is_chosen_where_legacy_rules_live_and_never_created_by_looking(make: Callable[..., Namespace]) -> None:
    fresh, used_ = make("10.77.0.2/24"), make("10.77.0.2/24")

    def untouched() -> None:
        assert apply.apply(settings(words(DEFAULT))).backend == "nft"
        assert not apply.apply(settings(words(DEFAULT))).changed
        assert restore.legacy_tables(4) == ()
        assert restore.legacy_tables(6) == ()

    def populated() -> None:
        sh("iptables-legacy -w -t nat -A PREROUTING -p tcp --dport 9 -j ACCEPT")
        assert apply.apply(settings(words(DEFAULT))).backend == "legacy"
        assert not apply.apply(settings(words(DEFAULT))).changed
        assert used(parse(sh("iptables-nft-save"))) == RuleSet()

    fresh.call(untouched)
    used_.call(populated)


def test_an_empty_legacy_table_proves_nothing(pod: Namespace) -> None:
    def body() -> None:
        apply.apply(settings(words(DEFAULT)))
        sh("iptables-legacy -t nat -L")
        assert restore.legacy_tables(4) == ("nat",)
        assert (apply.apply(settings(words(DEFAULT))).backend) == "nft"

    pod.call(body)


@pytest.mark.parametrize(("old", "new"), [("nft", "legacy"), ("legacy", "nft")])
def test_never_both_backends(pod: Namespace, old: str, new: str) -> None:
    def body() -> None:
        before = snapshot()
        line = words(DEFAULT, "--dual-stack", "--force-iptables-binary")
        apply.apply(settings([*line, old]))
        assert "stale-backend" in {d.kind for d in apply.verify(settings([*line, new]))}
        assert apply.apply(settings([*line, new])).changed
        assert used(parse(sh(f"iptables-{old}-save"))) == RuleSet()
        assert used(parse(sh(f"ip6tables-{old}-save"))) == RuleSet()
        assert apply.verify(settings([*line, new])) == []
        apply.cleanup(settings([*line, old]))
        assert snapshot() == before

    pod.call(body)


def test_what_istio_left_behind_goes(pod: Namespace) -> None:
    def body() -> None:
        before = snapshot()
        wanted = settings(words(EVERYTHING))
        apply.apply(wanted)
        sh("ip rule add fwmark 1337 lookup 133")  # istio adds one more with every run
        assert len(routes.steps(plan(wanted).routes, (), clear6=False)) == 1
        apply.cleanup(wanted)
        sh("ip addr add ::6/128 dev lo")
        apply.cleanup(settings(words(DEFAULT)))
        assert snapshot() == before

    pod.call(body)


def test_verbs_and_exit_codes(pod: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"PATH": os.environ["PATH"]}

    def body() -> None:
        argv = words(DEFAULT)
        assert run(["verify", *argv], environ) == 1
        assert "missing: IPv4 nat" in capsys.readouterr().out
        assert run(["apply", *argv], environ) == 0
        assert run(["apply", *argv], environ) == 0
        assert capsys.readouterr().out == "18 rules written (nft)\n18 rules in place, nothing written (nft)\n"
        assert run(["verify", *argv], environ) == 0
        before = snapshot()
        assert istio_iptables([*argv, "--dry-run", "-o", "9"], environ) == 0
        assert istio_iptables([*argv, "-o", "9"], environ) == 1
        assert istio_iptables([*argv, "-o", "x"], environ) == 1
        assert istio_iptables([*argv, "--skip-rule-apply", "-o", "9"], environ) == 0
        assert snapshot() == before
        assert istio_iptables([*argv, "-o", "9", "--reconcile"], environ) == 0
        assert pilot_agent(argv, environ) == 1  # -o 9 is in force
        assert pilot_agent([*argv, "--cleanup-only"], environ) == 0
        assert run(["cleanup", *argv], environ) == 0
        assert "no rules of ours" in capsys.readouterr().out

    pod.call(body)


def test_a_proxy_user_with_net_admin_can_do_it_on_nft(pod: Namespace) -> None:
    net_admin = 1 << restore.NET_ADMIN

    def body() -> None:
        def repair() -> int:
            wanted = settings(words(EVERYTHING, "--dual-stack"))
            first, second = apply.apply(wanted), apply.apply(wanted)
            return 0 if (first.changed, second.changed, apply.verify(wanted)) == (True, False, []) else 1

        assert as_user(1337, net_admin, repair) == 0

        def powerless() -> int:
            return istio_iptables(words(DEFAULT), {"PATH": os.environ["PATH"]})

        before = snapshot()
        assert as_user(1337, 0, powerless) == 1
        assert snapshot() == before

    pod.call(body)


def test_many_owner_groups(pod: Namespace, backend: str) -> None:
    def body() -> None:
        environ = {"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(str(5000 + n) for n in range(64))}
        wanted = settings(words(DEFAULT, "--force-iptables-binary", backend), environ)
        assert apply.apply(wanted).changed
        assert apply.verify(wanted) == []

    pod.call(body)
