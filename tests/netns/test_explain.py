"""`remora-init explain` says what the kernel does: every actor against real connections."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import pytest

from init import ask, config, restore
from init.__main__ import run
from init.rules import RuleSet
from tests.fakes.world import FAR, FAR6, PEER, PEER6, POD, POD6, World, choice

pytestmark = pytest.mark.root
Rules = Sequence[Mapping[int, RuleSet]]

DEFAULT = ["-u", "1337", "-i", "*", "-b", "*", "-d", "15090,15021,15020", "--dual-stack"]
PASSED = (15008, 15021, 15090)  # with 15020, what a peer reaches without the proxy

# who: (uid, gid, source) or None for a peer; where to; what happens
ACTORS: list[tuple[tuple[int, int, str] | None, str, int]] = [
    *[((uid, gid, ""), "far", 80) for uid, gid in ((0, 0), (1000, 1000), (1337, 1337), (1337, 0), (1000, 1337))],
    *[((1337, 1337, ""), "pod", port) for port in (8080, 15008)],
    ((1337, 1337, "through"), "pod", 8080),
    ((1337, 1337, ""), "loop", 8080),
    *[((uid, gid, ""), place, 8080) for uid, gid in ((1000, 1000), (1000, 1337)) for place in ("pod", "loop")],
    ((1337, 1337, "loop"), "through", 15002),
    *[(None, "pod", port) for port in (8080, 22, 15001, 15006, 15020, *PASSED)],
]
PLACES = {
    4: {"far": FAR, "pod": POD, "peer": PEER, "loop": "127.0.0.1", "through": "127.0.0.6"},
    6: {"far": FAR6, "pod": POD6, "peer": PEER6, "loop": "::1", "through": "::6"},
}
CONFIGS = {
    "default": DEFAULT,
    "tproxy": [*DEFAULT, "-m", "TPROXY"],
    "dns": [*DEFAULT, "--redirect-dns", "--capture-all-dns"],
    "ports": ["-u", "1337", "-b", "8080,22", "-i", "203.0.113.0/24,2001:db8::/32", "-o", "8080", "-q", "8080"],
    "nothing": ["-u", "1337", "-b", "", "-i", "", "--dual-stack"],
    "elsewhere": ["-u", "1000", "-g", "7", "-i", "*", "-x", "203.0.113.0/24,2001:db8::/32", "-b", "*", "-c", "eth0"],
}


@pytest.fixture
def world() -> Iterator[World]:
    made = World(*PASSED)
    yield made
    made.close()


@pytest.fixture(params=["nft", "legacy", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def happens(world: World, who: tuple[int, int, str] | None, places: dict[str, str], host: str, port: int) -> object:
    """What the kernel does to a connection: the port and original destination of a redirected one."""
    found = world.happens(who and who[:2], host, port, places.get(who[2], "") if who else "")
    return ("redirected", found) if isinstance(found, int) else found


def said(
    world: World, rules: Rules, who: tuple[int, int, str] | None, places: dict[str, str], host: str, port: int
) -> object:
    words = {"dest": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    if who is None:
        words["source"] = places["peer"]
    else:
        words |= {"uid": str(who[0]), "gid": str(who[1])} | ({"source": places[who[2]]} if who[2] else {})

    def body() -> object:
        verdict = ask.answer(rules, ask.asked(words).packet)
        # a redirect to where it was going anyway cannot be told from none
        if verdict.kind == "direct" or verdict.port == port:
            return "direct"
        return "tproxied" if verdict.kind == "tproxied" else (verdict.kind, verdict.port)

    return world.pod.call(body)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_it_says_is_what_happens(world: World, backend: str, name: str) -> None:
    world.apply(backend, [*CONFIGS[name], "--dual-stack"])
    settings = config.parse(choice(backend), {"PATH": os.environ["PATH"]})
    rules = world.pod.call(lambda: ask.in_place(settings))
    wrong = []
    for family, places in PLACES.items():
        for who, place, port in ACTORS:
            host = places[place]
            real, told = happens(world, who, places, host, port), said(world, rules, who, places, host, port)
            if real != told and (real, told) != ("refused", "direct"):
                wrong.append((family, who, host, port, real, told))
    assert wrong == []


def test_the_words(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.apply("nft", DEFAULT)
    environ = {"PATH": os.environ["PATH"]}

    def ask_for(*words: str) -> list[str]:
        assert world.pod.call(lambda: run(["explain", *words], environ)) == 0
        return capsys.readouterr().out.splitlines()

    assert ask_for("--uid", "1000", "--dest", f"{FAR}:80") == [
        f"packet: tcp from uid 1000 gid 1000 at {POD}, out through eth0, to {FAR}:80",
        "nat OUTPUT: -j ISTIO_OUTPUT",
        "nat ISTIO_OUTPUT: -j ISTIO_REDIRECT",
        "nat ISTIO_REDIRECT: -p tcp -j REDIRECT --to-ports 15001",
        f"redirected to port 15001, where {FAR}:80 is known as the original destination",
    ]
    assert ask_for("--uid", "1337", "--dest", f"{FAR}:80")[-2:] == [
        "nat ISTIO_OUTPUT: -m owner --uid-owner 1337 -j RETURN",
        f"direct: it goes to {FAR}:80 as it is",
    ]
    assert ask_for("--uid=1000", f"--dest={FAR}:53", "--proto=udp")[-1].startswith("direct")
    assert "in through eth0" in ask_for("--source", PEER6, "--dest", f"[{POD6}]:8080")[0]
    assert ask_for("--in-interface", "eth0", "--dest", f"{POD}:22")[-1].startswith("redirected to port 15006")
    world.pod.sh("iptables-nft -w -A OUTPUT -p tcp --dport 25 -j DROP", "iptables-nft -w -P INPUT DROP")
    assert (
        ask_for("--uid", "1337", "--dest", f"{FAR}:25")[-1]
        == "dropped by filter OUTPUT: -p tcp -m tcp --dport 25 -j DROP"
    )
    assert ask_for("--source", PEER, "--dest", f"{POD}:80")[-1] == "dropped by the policy of filter INPUT"
    for words, code in ((["--dest", f"{FAR}:80"], 255), (["--uid", "1", "--dest", "x:1"], 255), (["--uid"], 255)):
        assert run(["explain", *words], environ) == code
        assert capsys.readouterr().err.count("\n") == 1
    assert restore.legacy_tables(4) == ()
