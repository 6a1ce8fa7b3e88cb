"""A small `iptables-restore --noflush` over rule sets, and settings at random, for property tests of plans."""

from __future__ import annotations

from hypothesis import strategies as st

from init.rules import Rule, RuleSet, make, parse_rule, split
from init.settings import InitConfig, Ranges

BUILTIN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


class RestoreError(Exception):
    """What the real command would refuse."""


def load(state: RuleSet, text: str) -> RuleSet:
    """The state after a restore; each table is all or nothing, as in the kernel."""
    chains = {(t.name, c.name): (c.policy, list(c.rules)) for t in state.tables for c in t.chains}
    table = ""
    for line in text.splitlines():
        words = split(line)
        if line.startswith("*"):
            table = line[1:]
            for builtin in BUILTIN[table]:
                chains.setdefault((table, builtin), ("ACCEPT", []))
        elif line == "COMMIT":
            _check(chains, table)
        elif line.startswith(":"):
            assert words[1:] == ["-", "[0:0]"], line
            chains[table, words[0][1:]] = ("-", [])
        else:
            _edit(chains, table, words)
    return make(chains)


def _edit(chains: dict[tuple[str, str], tuple[str, list[Rule]]], table: str, words: list[str]) -> None:
    verb, chain, *rest = words
    if (table, chain) not in chains:
        raise RestoreError(f"no chain {chain}")
    rules = chains[table, chain][1]
    if verb == "-X":
        if rules:
            raise RestoreError(f"{chain} is not empty")
        del chains[table, chain]
    elif verb == "-A":
        rules.append(parse_rule(rest))
    elif verb == "-I":
        if not 1 <= int(rest[0]) <= len(rules) + 1:
            raise RestoreError(f"no place {rest[0]} in {chain}")
        rules.insert(int(rest[0]) - 1, parse_rule(rest[1:]))
    elif verb == "-D":
        try:
            rules.remove(parse_rule(rest))
        except ValueError:
            raise RestoreError(f"{chain} has no such rule") from None
    else:
        raise RestoreError(verb)


def _check(chains: dict[tuple[str, str], tuple[str, list[Rule]]], table: str) -> None:
    names = {c for t, c in chains if t == table}
    for (t, _), (_, rules) in chains.items():
        for rule in rules:
            if t == table and rule.target.startswith(("ISTIO_", "MINE")) and rule.target not in names:
                raise RestoreError(f"no chain {rule.target}")


PORTS = st.lists(st.integers(1, 65535).map(str), max_size=3).map(tuple)
IDS = st.lists(st.integers(0, 9999).map(str), min_size=1, max_size=3, unique=True).map(tuple)
NICS = st.lists(st.sampled_from(["net1", "net2", "tap0"]), max_size=2, unique=True).map(tuple)
V4 = st.lists(st.sampled_from(["10.0.0.0/8", "0.0.0.0/0", "127.0.0.0/8"]), max_size=3, unique=True).map(tuple)
V6 = st.lists(st.sampled_from(["fd00::/8", "::/0", "2001:db8::/32"]), max_size=3, unique=True).map(tuple)
SOME = st.builds(Ranges, v4=V4, v6=V6, loopback=st.booleans())
SERVERS = st.builds(Ranges, v4=st.sampled_from([(), ("10.0.0.10/32",)]), v6=st.sampled_from([(), ("fd00::a/128",)]))
CONFIGS = st.builds(
    InitConfig,
    uids=IDS,
    gids=IDS,
    tproxy=st.booleans(),
    inbound_ports=st.one_of(st.just(("*",)), PORTS),
    inbound_exclude=PORTS,
    outbound_ports=PORTS,
    outbound_exclude=PORTS,
    exclude_interfaces=NICS,
    virtual_interfaces=NICS,
    include=st.one_of(st.just(Ranges(all=True)), SOME),
    exclude=SOME,
    groups=st.one_of(st.just(("*",)), IDS, st.just(tuple(str(n) for n in range(64)))),
    groups_exclude=PORTS,
    mark=st.sampled_from([1337, 77]),
    dns=st.booleans(),
    dns_all=st.booleans(),
    dns_servers=SERVERS,
    drop_invalid=st.booleans(),
    v6=st.booleans(),
)

_FOREIGN = [
    ("nat", "PREROUTING", Rule("DNAT", ("--to-destination", "10.1.1.1"), protocol="tcp")),
    ("nat", "OUTPUT", Rule("MINE", destination="192.0.2.0/24")),
    ("nat", "MINE", Rule("RETURN")),
    ("filter", "INPUT", Rule("DROP", protocol="udp")),
    ("mangle", "OUTPUT", Rule("MARK", ("--set-xmark", "0x1/0xffffffff"))),
    ("mangle", "PREROUTING", Rule("ACCEPT", inside="eth7")),
    ("raw", "OUTPUT", Rule("NOTRACK")),
]


def _foreign(entries: list[tuple[str, str, Rule]]) -> RuleSet:
    chains: dict[tuple[str, str], tuple[str, list[Rule]]] = {}
    for table, chain, rule in entries:
        for builtin in BUILTIN[table]:
            chains.setdefault((table, builtin), ("ACCEPT", []))
        chains.setdefault((table, chain), ("-", []))[1].append(rule)
        if rule.target == "MINE":
            chains.setdefault((table, "MINE"), ("-", []))
    return make(chains)


FOREIGN = st.lists(st.sampled_from(_FOREIGN), max_size=8).map(_foreign)
