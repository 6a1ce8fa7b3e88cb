"""Native nftables in a real kernel: what comes back, what a second run does, what failures and other backends leave."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded

from init import apply, config, netlink, nft, restore
from init.__main__ import istio_iptables, run
from init.errors import InitError
from init.nftrules import diff, native
from init.plan import plan
from init.record import replace
from init.restore import INET
from init.rules import RuleSet, parse
from init.settings import InitConfig
from tests.fakes.iptables import CONFIGS
from tests.fakes.netns import Namespace, as_user, sh, snapshot, used
from tests.fakes.world import choice

pytestmark = pytest.mark.root

SIDECAR = ["-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020"]
EVERYTHING = [*SIDECAR, "-m", "TPROXY", "-q", "90,100:110", "-o", "9", "-c", "net1", "-k", "tap+", "--drop-invalid"]
EVERYTHING += ["--redirect-dns", "-x", "10.1.0.0/16,fd01::/16"]
RANGES = ["-b", "80,8080", "-i", "10.0.0.0/8,fd00::/8", "--redirect-dns", "--capture-all-dns", "-g", "5-7,9"]
DUAL = ["--dual-stack"]
PLANS = [SIDECAR, [*SIDECAR, *DUAL], EVERYTHING, [*EVERYTHING, *DUAL, "-t", "77", "-r", "99"], [*RANGES, *DUAL], []]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    namespace = Namespace(
        "ip link add eth0 type veth peer name gw0",
        "ip link set gw0 up",
        "ip link set eth0 up",
        "ip addr add 10.77.0.2/24 dev eth0",
        "ip addr add fd77::2/64 dev eth0 nodad",
    )
    yield namespace
    namespace.close()


def settings(argv: list[str], backend: str = "native", path: str = "") -> InitConfig:
    real = config.real_host()
    files = {"/etc/resolv.conf": "nameserver 10.0.0.10\nnameserver fd00::a\n"}
    host = config.Host(lambda name: files.get(name) or real.file(name), real.addresses)
    return config.parse([*argv, *choice(backend)], {"PATH": f"{path}:{os.environ['PATH']}".strip(":")}, host)


def counted() -> list[int]:
    """The packets that each rule of ours has seen."""
    text = "".join(sh(f"nft list table inet {name}") for name in netlink.own_tables())
    return [int(n) for n in re.findall(r"counter packets (\d+)", text)]


@pytest.mark.parametrize("argv", PLANS, ids=range(len(PLANS)))
def test_what_is_written_comes_back_and_is_not_written_again(pod: Namespace, argv: list[str]) -> None:
    def body() -> None:
        before, wanted = snapshot(), settings(argv)
        want = native(plan(wanted))
        outcome = apply.apply(wanted)
        assert (outcome.changed, outcome.backend, outcome.rules) == (True, "nftables", want.count())
        assert outcome.after == {INET: want} == apply.look(wanted).choice.have
        assert apply.verify(wanted) == []
        subprocess.run(["bash", "-c", "echo > /dev/tcp/10.77.0.2/1"], stderr=subprocess.DEVNULL, check=False)
        after, counters = snapshot(), counted()
        assert sum(counters) > 0
        assert not apply.apply(wanted).changed
        assert not apply.apply(wanted, replace=False).changed
        assert snapshot() == after
        assert all(now >= then for now, then in zip(counted(), counters, strict=True))
        assert sum(c.name.startswith("ISTIO_") for c in netlink.nft_chains()) == 0
        assert apply.cleanup(wanted).changed
        assert not apply.cleanup(wanted).changed
        assert snapshot() == before

    pod.call(body)


def test_any_plan_replaces_any_other(pod: Namespace) -> None:
    def body() -> None:
        before, alone = snapshot(), []
        for argv in PLANS:
            apply.apply(settings(argv))
            alone.append(snapshot())
            apply.cleanup(settings(argv))
            assert snapshot() == before
        for first in PLANS[2:]:
            for argv, expected in list(zip(PLANS, alone, strict=True))[2:]:
                apply.apply(settings(first))
                apply.apply(settings(argv), replace=False)  # as istio's command, which needs no --reconcile here
                assert snapshot() == expected
        apply.cleanup(settings([]))
        assert snapshot() == before

    pod.call(body)


def test_the_kernel_keeps_any_plan_as_it_is_written(pod: Namespace) -> None:
    @bounded(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CONFIGS)
    def check(wanted: InitConfig) -> None:
        backend = nft.NftBackend("nftables", restore.Tools())
        want, have = native(plan(wanted)), backend.read(INET)
        backend.apply(INET, want, have)
        assert backend.read(INET) == want

    pod.call(check)


DAMAGE = {
    "missing": ["delete table inet istio-proxy-mangle"],
    "missing rule": ["flush chain inet istio-proxy-nat istio-redirect"],
    "missing chain": ["flush chain inet istio-proxy-nat output", "delete chain inet istio-proxy-nat output"],
    "changed": ["flush chain inet istio-proxy-nat istio-redirect", "add rule inet istio-proxy-nat istio-redirect drop"],
    "reordered": ["insert rule inet istio-proxy-nat istio-output position 0 counter jump istio-redirect"],
    "duplicate": ["add rule inet istio-proxy-nat output counter jump istio-output"],
    "unexpected": ["add chain inet istio-proxy-nat mine { type nat hook output priority -150 ; }"],
    "unexpected set": ["add set inet istio-proxy-nat mine { type ipv4_addr ; }"],
    "unexpected flag": ["add table inet istio-proxy-nat { flags dormant ; }"],
    "unexpected table": ["add table inet istio-proxy-filter"],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_every_kind_is_seen_and_repaired(pod: Namespace, name: str) -> None:
    def body() -> None:
        wanted = settings([*EVERYTHING, *DUAL])
        apply.apply(wanted)
        good = snapshot()
        commands = DAMAGE[name]
        if name == "reordered":
            commands = ["delete rule inet istio-proxy-nat istio-output handle " + last_handle()]
            commands += ["insert rule inet istio-proxy-nat istio-output counter jump istio-redirect"]
        for command in commands:
            subprocess.run(["nft", *command.split()], check=True)
        assert name.split()[0] in {d.kind for d in apply.verify(wanted)}
        assert apply.apply(wanted).changed
        assert snapshot() == good
        assert apply.verify(wanted) == []

    pod.call(body)


def last_handle() -> str:
    return sh("nft -a list chain inet istio-proxy-nat istio-output").split("handle ")[-1].split()[0]


def test_tables_of_others_are_kept_and_one_ahead_is_reported(pod: Namespace) -> None:
    foreign = """table inet mine {
        set s { type ipv4_addr; elements = { 192.0.2.1 }; }
        chain c {
            type nat hook output priority -101
            tcp dport 9999 redirect to :7
        }
        chain istio-output {
        }
    }
    table ip istio-proxy-nat {
    }
    """

    def body() -> None:
        subprocess.run(["nft", "-f", "-"], input=foreign, text=True, check=True)
        sh("iptables-nft -w -t nat -A PREROUTING -p tcp --dport 9 -j ACCEPT")
        before = snapshot()
        outcome = apply.apply(settings([*EVERYTHING, *DUAL]))
        assert [w for w in outcome.warnings if "chain c of table inet mine decides" in w]
        assert [w for w in outcome.warnings if "chain PREROUTING of table ip nat may decide" in w]
        assert set(before) <= set(snapshot())
        assert {d.kind for d in apply.verify(settings([*EVERYTHING, *DUAL]))} == {"foreign-ahead"}
        apply.cleanup(settings([]))
        assert snapshot() == before
        assert [d.text for d in apply.verify(settings(SIDECAR, "nft")) if "inet mine" in d.text]

    pod.call(body)


BACKENDS = ["nft", "legacy", "native"]
PAIRS = [(old, new) for old in BACKENDS for new in BACKENDS if old != new and "native" in (old, new)]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_never_two_backends(pod: Namespace, old: str, new: str) -> None:
    def body() -> None:
        before = snapshot()
        apply.apply(settings([*EVERYTHING, *DUAL], new))
        expected = snapshot()
        apply.cleanup(settings([], new))
        apply.apply(settings([*EVERYTHING, *DUAL, "-t", "77", "-r", "99"], old))
        assert "stale-backend" in {d.kind for d in apply.verify(settings([*EVERYTHING, *DUAL], new))}
        assert apply.apply(settings([*EVERYTHING, *DUAL], new)).changed
        assert snapshot() == expected
        assert apply.verify(settings([*EVERYTHING, *DUAL], new)) == []
        apply.cleanup(settings([], old))  # whoever asks, all of them go
        assert snapshot() == before

    pod.call(body)


def test_all_three_at_once_are_reduced_to_one(pod: Namespace) -> None:
    def body() -> None:
        before = snapshot()
        states = {}
        for backend in BACKENDS:
            apply.apply(settings(SIDECAR, backend))
            states[backend] = snapshot()
            apply.cleanup(settings(SIDECAR, backend))
        for backend in BACKENDS:  # as istio's command leaves them behind
            apply.apply(settings(SIDECAR, "legacy"))
            text = sh("iptables-legacy-save -t nat")
            apply.apply(settings(SIDECAR, "native"))
            for command in (["iptables-legacy-restore", "-w"], ["iptables-nft-restore"]):
                subprocess.run(command, input=text, text=True, check=True)
            kinds = [d.kind for d in apply.verify(settings(SIDECAR, backend))]
            assert kinds.count("stale-backend") == 2
            apply.apply(settings(SIDECAR, backend))
            assert snapshot() == states[backend]
            apply.cleanup(settings([], backend))
            assert snapshot() == before

    pod.call(body)


def test_iptables_is_not_needed(pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nft").symlink_to(restore.Tools().find("nft") or "")
    monkeypatch.setattr(restore, "SYSTEM_PATH", str(tmp_path))

    def body() -> None:
        wanted = replace(settings(EVERYTHING), path="")
        assert apply.apply(wanted).changed
        assert apply.verify(wanted) == []
        assert apply.cleanup(wanted).changed
        (tmp_path / "nft").unlink()
        with pytest.raises(InitError, match="nft is not installed"):
            apply.apply(wanted)

    pod.call(body)


def test_verbs_and_exit_codes(pod: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"PATH": os.environ["PATH"], "NATIVE_NFTABLES": "true"}

    def body() -> None:
        before = snapshot()
        assert run(["plan", *SIDECAR], environ) == 0
        assert capsys.readouterr().out.startswith("# nft -f -\nadd table inet istio-proxy-nat\n")
        dry = {**environ, "DRY_RUN_FILE_PATH": str(tmp_path / "dry")}
        assert istio_iptables([*SIDECAR, "--dry-run"], dry) == 0
        assert istio_iptables([*SIDECAR, "--skip-rule-apply"], environ) == 0
        assert "chain istio-output {" in (tmp_path / "dry").read_text()
        assert run(["verify", *SIDECAR], environ) == 1
        assert "missing: istio-proxy-nat: the table does not exist" in capsys.readouterr().out
        assert snapshot() == before
        assert run(["apply", *SIDECAR], environ) == 0
        assert run(["apply", *SIDECAR], environ) == 0
        assert capsys.readouterr().out == (
            "18 rules written (nftables)\n18 rules in place, nothing written (nftables)\n"
        )
        assert run(["verify", *SIDECAR], environ) == 0
        assert "the plan's 18 rules are in force" in capsys.readouterr().out
        good = snapshot()
        assert istio_iptables([*SIDECAR, "--dry-run", "-o", "9"], environ) == 0
        assert istio_iptables([*SIDECAR, "--cleanup-only", "--dry-run"], environ) == 0
        assert istio_iptables([*SIDECAR, "-o", "x"], environ) == 1
        assert snapshot() == good
        for more in ([], ["--reconcile"], ["--force-apply"]):
            assert istio_iptables([*SIDECAR, "-o", "9", *more], environ) == 0
        assert "\tudp dport 9 counter return" in capsys.readouterr().err
        assert istio_iptables(SIDECAR, {"PATH": os.environ["PATH"]}) == 0  # back to iptables
        assert netlink.own_tables() == []
        assert istio_iptables([*SIDECAR, "--cleanup-only"], environ) == 0
        assert snapshot() == before

    pod.call(body)


def test_a_proxy_user_with_net_admin_can_do_it(pod: Namespace) -> None:
    def body() -> None:
        def repair() -> int:
            wanted = settings([*EVERYTHING, *DUAL])
            first, second = apply.apply(wanted), apply.apply(wanted)
            return 0 if (first.changed, second.changed, apply.verify(wanted)) == (True, False, []) else 1

        assert as_user(1337, 1 << restore.NET_ADMIN, repair) == 0
        before = snapshot()
        assert as_user(1337, 0, lambda: istio_iptables([*SIDECAR, "--native-nftables"], dict(os.environ))) == 1
        assert snapshot() == before

    pod.call(body)


def test_many_owner_groups_and_long_lists(pod: Namespace) -> None:
    def body() -> None:
        many = tuple(str(n) for n in range(1, 400))
        for count in (1, 40, 41, 64):
            wanted = replace(settings([*SIDECAR, *DUAL]), groups=many[:count], inbound_exclude=many)
            assert apply.apply(wanted).changed
            assert apply.verify(wanted) == []
            assert diff(native(plan(wanted)), nft.NftBackend("nftables", restore.Tools()).read(INET)) == []

    pod.call(body)


def test_rules_with_v6_off_leave_lo_alone(pod: Namespace) -> None:
    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL]))
        assert "inet6 ::6/128" in snapshot()
        outcome = apply.apply(settings(SIDECAR))
        assert "inet6 ::6/128" not in snapshot()
        assert [w for w in outcome.warnings if "IPv6 address fd77::2 is captured" in w and "--dual-stack is off" in w]
        assert used(parse(sh("ip6tables-nft-save"))) == RuleSet()

    pod.call(body)
