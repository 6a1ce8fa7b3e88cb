"""Laws of apply and cleanup in a real kernel, for settings at random on every backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from init import apply, restore
from init.plan import plan
from init.record import replace
from init.rules import parse, render
from init.settings import InitConfig
from tests.fakes.iptables import CONFIGS
from tests.fakes.netns import Namespace, sh, snapshot, used

pytestmark = pytest.mark.root

EXAMPLES = {"nft": 6, "legacy": 6, "python-iptables": 2, "native": 6}
FOREIGN = [
    "-t nat -A PREROUTING -p tcp --dport 9999 -j REDIRECT --to-ports 7",
    "-t nat -A OUTPUT -d 192.0.2.0/24 -j ACCEPT",
    "-t mangle -A OUTPUT -o eth7 -j MARK --set-xmark 0x1/0xff",
    "-t raw -A PREROUTING -p udp --dport 7 -j NOTRACK",
]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    up = "ip link add eth0 type veth peer name gw0", "ip link set eth0 up"
    namespace = Namespace(*up, "ip addr add 10.77.0.2/24 dev eth0", "ip addr add fd77::2/64 dev eth0 nodad")
    yield namespace
    namespace.close()


@pytest.fixture(params=EXAMPLES)
def law(request: pytest.FixtureRequest, pod: Namespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Checks a body(config, ...) for settings at random, inside the pod."""
    kind = str(request.param)
    if kind == "python-iptables":
        monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)
    forced = {"native": "", "python-iptables": "legacy"}.get(kind, kind)
    base = {"backend": forced, "native": kind == "native", "path": os.environ["PATH"]}

    def check(body: Callable[..., None], arguments: int) -> None:
        @bounded(max_examples=EXAMPLES[kind], deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(CONFIGS, min_size=arguments, max_size=arguments))
        def run(configs: list[InitConfig]) -> None:
            pod.call(lambda: body(*(replace(c, **base) for c in configs)))

        run()

    return check


def test_applied_twice_writes_once(law: Callable[..., None]) -> None:
    def body(config: InitConfig) -> None:
        apply.apply(config)
        after = snapshot()
        assert apply.verify(config) == []
        assert not apply.apply(config).changed
        assert snapshot() == after
        apply.cleanup(config)

    law(body, 1)


def test_cleanup_leaves_what_was_there(law: Callable[..., None]) -> None:
    def body(config: InitConfig) -> None:
        tool = "iptables-legacy" if config.backend == "legacy" else "iptables-nft"
        for rule in FOREIGN:
            sh(f"{tool} -w {rule}")
        before = snapshot()
        apply.apply(config)
        if not config.exclude_interfaces and not config.virtual_interfaces:  # those rules look like anybody's
            apply.cleanup(InitConfig(path=config.path, backend=config.backend, native=config.native))
            assert snapshot() == before
        apply.apply(config)
        apply.cleanup(config)
        assert snapshot() == before
        for rule in FOREIGN:
            sh(f"{tool} -w {rule.replace('-A', '-D')}")

    law(body, 1)


def test_what_was_applied_before_does_not_matter(law: Callable[..., None]) -> None:
    def body(first: InitConfig, second: InitConfig) -> None:
        apply.apply(second)
        alone = snapshot()
        apply.cleanup(second)
        apply.apply(first)
        apply.apply(second)
        there = snapshot()
        # An interface that the first excluded and nothing marks as ours stays, and is reported as left over.
        spare = {r.text() for _, _, r in plan(first).v4.each() if r.target == "RETURN" and (r.inside or r.outside)}

        def ours(lines: list[str]) -> list[str]:
            # With such a rule the kernel's chain that holds it stays too.
            kept = [x for x in lines if x.partition(" ")[2].partition(" ")[2] not in spare]
            return [x for x in kept if not (spare and x.startswith(":") and " ACCEPT " in x)]

        assert ours(there) == ours(alone)
        apply.cleanup(first)
        apply.cleanup(second)

    law(body, 2)


def test_the_kernel_prints_what_was_planned(law: Callable[..., None]) -> None:
    def body(config: InitConfig) -> None:
        apply.apply(config)
        if not config.native:
            for family, stem in ((4, "iptables"), (6, "ip6tables")):
                saved = used(parse(sh(f"{stem}-{config.backend}-save")))
                assert render(saved) == render(used(plan(config).of(family)))
                assert parse(render(saved)) == saved
        apply.cleanup(config)

    law(body, 1)
