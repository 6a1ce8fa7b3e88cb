"""The plan as native nftables: one set of rules for both families in inet tables of our own, and their text.

The rules are those of `init.rules`, in iptables' vocabulary, so that one model serves all backends. Here addresses tell
the family of a rule; a rule of one family that names no address has the whole family as its source. What somebody else
put into our tables and this module does not understand is kept as text.
"""

from __future__ import annotations

from init.diff import Difference, compare
from init.nftwords import parse_rule, rule_text
from init.plan import Plan
from init.record import replace
from init.rules import Chain, Rule, RuleSet, Table, canonical
from init.settings import NATIVE

TABLES = ("raw", "mangle", "nat")
HOOKS = {
    ("raw", "PREROUTING"): "type filter hook prerouting priority -300; policy accept;",
    ("raw", "OUTPUT"): "type filter hook output priority -300; policy accept;",
    ("mangle", "PREROUTING"): "type filter hook prerouting priority -150; policy accept;",
    ("mangle", "OUTPUT"): "type route hook output priority -150; policy accept;",
    ("nat", "PREROUTING"): "type nat hook prerouting priority -100; policy accept;",
    ("nat", "OUTPUT"): "type nat hook output priority -100; policy accept;",
}
PRIORITIES = {"raw": "-300", "mangle": "-150", "dstnat": "-100"}  # names that nft may print for them
OBJECT = "object"  # the policy of something in a table that is no chain: a set, a flag
WHOLE = {4: "0.0.0.0/0", 6: "::/0"}


def native(plan: Plan) -> RuleSet:
    """The plan's rules of both families in one set; chains without rules are left out."""
    tables = []
    for name in TABLES:
        parts = [plan.v4.table(name), *([plan.v6.table(name)] if plan.v6 else [])]
        chains = {c.name: c.policy for t in parts for c in t.chains}
        merged = []
        for chain, policy in chains.items():
            lists = [[_converted(name, chain, r) for r in t.rules(chain)] for t in parts]
            rules = _merge(*lists) if len(lists) == 2 else tuple(lists[0])
            if rules:
                merged.append(Chain(chain, policy, rules))
        if merged:
            tables.append(Table(name, tuple(merged)))
    return canonical(RuleSet(tuple(tables)))


def _converted(table: str, chain: str, rule: Rule) -> Rule:
    if (table, chain, rule.target) == ("mangle", "PREROUTING", "ISTIO_DROP"):
        rule = replace(rule, protocol="tcp")  # as istio's nftables rules have it
    return replace(rule, matches=tuple(_ports(m) for m in rule.matches))


def _ports(match: tuple[str, ...]) -> tuple[str, ...]:
    """A list of ports as the kernel keeps it: sorted, each once."""
    if match[:3] != ("multiport", "!", "--dports"):
        return match
    ports = sorted({int(p) for p in match[3].split(",")})
    return (*match[:3], ",".join(map(str, ports)))


def family(rule: Rule) -> int:
    """4 or 6 for a rule that names addresses of that family, else 0."""
    text = rule.source + rule.destination
    return 6 if ":" in text else 4 if text else 0


def _merge(v4: list[Rule], v6: list[Rule]) -> tuple[Rule, ...]:
    """One list in which each family finds its own rules in order; what both have without an address is there once."""
    a, b = list(v4), list(v6)
    merged: list[Rule] = []
    while a or b:
        if a and family(a[0]):
            merged.append(a.pop(0))
            if b and family(b[0]) and b[0].target == merged[-1].target:
                merged.append(b.pop(0))
        elif b and family(b[0]):
            merged.append(b.pop(0))
        elif a and b and a[0] == b[0]:
            merged.append(a.pop(0))
            b.pop(0)
        elif b and (not a or a[0] in b):
            merged.append(replace(b.pop(0), source=WHOLE[6]))
        else:
            merged.append(replace(a.pop(0), source=WHOLE[4]))
    return tuple(merged)


def chain_name(model: str) -> str:
    """ISTIO_OUTPUT_DNS is istio-output-dns in nft; the names of others have a colon before them."""
    return model[1:] if model.startswith(":") else model.lower().replace("_", "-")


def model_name(name: str) -> str:
    model = name.upper().replace("-", "_")
    ours = model in ("PREROUTING", "OUTPUT") or model.startswith("ISTIO_")
    return model if ours and chain_name(model) == name else ":" + name


def render(rules: RuleSet) -> str:
    """The tables as `nft -f` takes them and `nft list table` gives them back, apart from spelling."""
    return "".join(line + "\n" for table in rules.tables for line in _table_lines(table))


def _table_lines(table: Table) -> list[str]:
    lines = [f"table inet {NATIVE}{table.name} {{"]
    for chain in sorted(table.chains, key=lambda c: c.policy != OBJECT):  # a rule may use a set, never the reverse
        if chain.policy == OBJECT:
            lines += ["\t" + chain.name, *(r.extra[0] for r in chain.rules)]
            continue
        lines.append(f"\tchain {chain_name(chain.name)} {{")
        if chain.policy != "-":
            lines.append("\t\t" + (HOOKS[table.name, chain.name] if chain.policy == "ACCEPT" else chain.policy))
        lines += ["\t\t" + rule_text(r) for r in chain.rules]
        lines.append("\t}")
    return [*lines, "}"]


def transition(have: RuleSet, want: RuleSet) -> str:
    """The one transaction that turns the tables in place into the wanted ones; empty when nothing has to change.

    A table is replaced whole, one that is right is not named, so that its counters go on.
    """
    text = ""
    names = {t.name for t in have.tables}
    for name in (*TABLES, *sorted(names - set(TABLES))):
        there = name in names
        target = RuleSet(tuple(t for t in want.tables if t.name == name))
        if there == bool(target.tables) and have.table(name) == want.table(name):
            continue
        # Adding first makes the deletion possible whether or not the table is there by now.
        text += f"add table inet {NATIVE}{name}\ndelete table inet {NATIVE}{name}\n" + render(target)
    return text


def parse(text: str) -> RuleSet:
    """Our tables out of `nft -s -n list table` texts. Raises ValueError with the line that it does not understand."""
    tables: dict[str, list[Chain]] = {}
    chains: list[Chain] | None = None
    table, chain = "", None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if chains is None:
            if words[:2] != ["table", "inet"] or words[-1] != "{" or not words[2].startswith(NATIVE):
                raise ValueError(f"line {number} is not understood: {line[:120]!r}")
            table = words[2].removeprefix(NATIVE)
            chains = tables.setdefault(table, [])
        elif chain is not None:
            chain = _inside(table, chain, line, chains)
        elif line == "}":
            chains = None
        elif words[0] == "chain" and words[-1] == "{" and len(words) == 3:
            chain = Chain(model_name(words[1]))
        elif words[-1] == "{":
            chain = Chain(line.strip(), OBJECT)
        else:
            chains.append(Chain(line.strip(), OBJECT))
    if chains is not None:
        raise ValueError("the text ends inside a table")
    return canonical(RuleSet(tuple(Table(t, tuple(c)) for t, c in tables.items())))


def _inside(table: str, chain: Chain, line: str, done: list[Chain]) -> Chain | None:
    """The chain with one line more; None when that line ended it."""
    text = line.strip()
    if chain.policy == OBJECT:  # kept as it is, with the brace that ends it
        chain = replace(chain, rules=(*chain.rules, Rule(extra=(line,))))
    elif text.startswith("type ") and " hook " in text and not chain.rules:
        words = [PRIORITIES.get(w.removesuffix(";"), w.removesuffix(";")) + ";" * w.endswith(";") for w in text.split()]
        usual = " ".join(words) == HOOKS.get((table, chain.name))
        return replace(chain, policy="ACCEPT" if usual else text)
    elif line != "\t}":
        return replace(chain, rules=(*chain.rules, parse_rule(text)))
    if line == "\t}":
        done.append(chain)
        return None
    return chain


def diff(want: RuleSet, have: RuleSet) -> list[Difference]:
    """Every deviation of our tables from the plan. All in them is ours, so nothing is spared."""
    found: list[Difference] = []
    planned, there = {t.name for t in want.tables}, {t.name for t in have.tables}
    for name in [*TABLES, *sorted(there - set(TABLES))]:
        title = NATIVE + name
        if name in planned - there:
            found.append(Difference("missing", f"{title}: the table does not exist"))
        elif name in there - planned:
            found.append(Difference("unexpected", f"{title}: the table is not part of the plan"))
        elif name in planned:
            found += _table_diff(title, want.table(name), have.table(name))
    return found


def _table_diff(title: str, want: Table, have: Table) -> list[Difference]:
    found: list[Difference] = []
    wants, haves = {c.name: c for c in want.chains}, {c.name: c for c in have.chains}
    for name in {**wants, **haves}:
        where = f"{title} {chain_name(name)}"
        if name not in haves:
            found.append(Difference("missing", f"{where}: the chain does not exist"))
        elif haves[name].policy == OBJECT:
            found.append(Difference("unexpected", f"{title}: {name.removesuffix(' {')} is not part of the plan"))
        elif name not in wants:
            found.append(Difference("unexpected", f"{where}: the chain is not part of the plan"))
        else:
            if wants[name].policy != haves[name].policy:
                found.append(Difference("changed", f"{where}: {_hook(title, haves[name])}"))
            found += compare(where, wants[name].rules, haves[name].rules, rule_text)
    return found


def _hook(title: str, chain: Chain) -> str:
    wanted = HOOKS.get((title.removeprefix(NATIVE), chain.name), "no hook")
    return f"{'no hook' if chain.policy == '-' else chain.policy.rstrip(';')} stands for {wanted.rstrip(';')}"
