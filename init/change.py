"""The text of the one `iptables-restore --noflush` that turns the rules in place into the wanted ones.

A `:CHAIN - [0:0]` line empties an existing chain inside the same commit, so a table is replaced atomically. Foreign
chains and rules are never named, except that our rules in them are deleted and added in place.
"""

from __future__ import annotations

from init.diff import Owner, is_own_chain, owned, owner
from init.rules import Chain, Rule, RuleSet, Table, canonical

ORDER = ("raw", "mangle", "filter", "security", "nat")  # nat is the switch: it commits last when rules come


def merge(have: RuleSet, want: RuleSet) -> RuleSet:
    """Everything that should be there afterwards: foreign rules as they are, and ours as planned."""
    own = owner(have, want)
    tables = []
    for name in {t.name: None for t in (*have.tables, *want.tables)}:
        there, planned = have.table(name), want.table(name)
        chains: dict[str, Chain] = {}
        for c in there.chains:
            if not is_own_chain(c.name):
                rules = _arrange(name, c, planned.rules(c.name), own)
                chains[c.name] = Chain(c.name, c.policy, rules)
        for c in planned.chains:
            if c.name not in chains:
                chains[c.name] = c
        tables.append(Table(name, tuple(chains.values())))
    return canonical(RuleSet(tuple(tables)))


def _arrange(table: str, chain: Chain, want: tuple[Rule, ...], own: Owner) -> tuple[Rule, ...]:
    """A foreign chain with our rules as planned: where ours begin now, else at the end; heads at the beginning."""
    if tuple(r for r in chain.rules if own(table, chain.name, r)) == want:
        return chain.rules
    foreign: list[Rule] = []
    place: int | None = None
    tail = [r for r in want if not r.head]
    for rule in chain.rules:
        if not own(table, chain.name, rule):
            foreign.append(rule)
        elif place is None and (rule in tail or is_own_chain(rule.target)):
            place = len(foreign)
    if place is None:
        place = len(foreign)
    return (*(r for r in want if r.head), *foreign[:place], *tail, *foreign[place:])


def transition(have: RuleSet, want: RuleSet) -> str:
    """Restore text from the rules in place to the plan; empty when nothing has to change."""
    return _text(have, merge(have, want), want)


def rollback(now: RuleSet, before: RuleSet, tried: RuleSet) -> str:
    """Restore text that takes back what was `tried`, and brings our part of an earlier state to its very places, or
    near them if somebody else wrote meanwhile."""
    ours = owned(before, RuleSet())
    known = RuleSet(ours.tables + tried.tables)
    own = owner(now, known)

    def foreign(rules: RuleSet) -> list[tuple[str, str, Rule]]:
        return [e for e in rules.each() if not is_own_chain(e[1]) and not own(*e)]

    return _text(now, before if foreign(now) == foreign(before) else merge(now, ours), known)


def _text(now: RuleSet, target: RuleSet, known: RuleSet) -> str:
    own = owner(now, known)
    blocks: list[tuple[tuple[bool, int], str]] = []
    for name in {t.name: None for t in (*now.tables, *target.tables)}:
        lines = _table(name, now.table(name), target.table(name), own)
        if lines:
            rank = ORDER.index(name) if name in ORDER else -1
            emptied = not any(is_own_chain(c.name) for c in target.table(name).chains)
            # What goes away goes after nat has taken over, and a switch that goes away goes first.
            blocks.append(((emptied, -rank if emptied else rank), "\n".join((f"*{name}", *lines, "COMMIT", ""))))
    return "".join(text for _, text in sorted(blocks))


def _table(name: str, now: Table, target: Table, own: Owner) -> list[str]:
    there = {c.name: c.rules for c in now.chains}
    wanted = {c.name: c.rules for c in target.chains}
    declare: list[str] = []
    delete: list[str] = []
    fill: list[str] = []
    drop: list[str] = []
    for chain in {**there, **wanted}:
        rules = wanted.get(chain, ())
        if is_own_chain(chain) and chain not in wanted:
            declare.append(f":{chain} - [0:0]")
            drop.append(f"-X {chain}")
        elif is_own_chain(chain):
            if there.get(chain) != rules:
                declare.append(f":{chain} - [0:0]")
                fill += [f"-A {chain} {r.text()}" for r in rules]
        elif there.get(chain, ()) != rules:
            delete += [f"-D {chain} {r.text()}" for r in there.get(chain, ()) if own(name, chain, r)]
            fill += _insertions(name, chain, rules, own)
    return [*declare, *delete, *fill, *drop]


def _insertions(table: str, chain: str, rules: tuple[Rule, ...], own: Owner) -> list[str]:
    mine = [own(table, chain, r) for r in rules]
    lines = []
    for n, rule in enumerate(rules):
        if mine[n]:
            last = all(mine[n:])
            lines.append(f"-A {chain} {rule.text()}" if last else f"-I {chain} {n + 1} {rule.text()}")
    return lines


def removal(have: RuleSet, known: RuleSet) -> str:
    """Restore text that removes all that is ours, and what `known` plans outside our chains."""
    own = owner(have, known)
    tables = []
    for t in have.tables:
        chains = [
            Chain(c.name, c.policy, tuple(r for r in c.rules if not own(t.name, c.name, r)))
            for c in t.chains
            if not is_own_chain(c.name)
        ]
        tables.append(Table(t.name, tuple(chains)))
    return _text(have, RuleSet(tuple(tables)), known)
