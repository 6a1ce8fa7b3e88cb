"""Which rules are ours, and how the rules in place differ from the plan: ordered equality, never mere presence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from init.record import record
from init.rules import Chain, Rule, RuleSet, Table

PREFIX = "ISTIO_"
PASSING = ("", "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TRACE", "TOS", "DSCP", "TTL", "HL", "TCPMSS", "CT", "AUDIT")

Owner = Callable[[str, str, Rule], bool]


@record
class Difference:
    """One deviation.

    Kinds: missing, changed, unexpected, reordered, duplicate, stale-backend, route; and two that nothing is repaired
    for: foreign-ahead (somebody's rule that can defeat ours) and leftover (an interface that an earlier plan excluded).
    """

    kind: str
    text: str

    @property
    def harmful(self) -> bool:
        """Whether the plan is not in force."""
        return self.kind not in ("foreign-ahead", "leftover")


def is_own_chain(name: str) -> bool:
    return name.startswith(PREFIX)


def owner(have: RuleSet, want: RuleSet) -> Owner:
    """Tells our rules in chains that are not ours: jumps into our chains, what the plan puts there, and rules of an
    earlier plan (ours or istio's carry no mark, so those are known by their shape, and only beside chains of ours)."""
    planned = {(t, c, r) for t, c, r in want.each() if not is_own_chain(c)}
    present = any(is_own_chain(c.name) for t in have.tables for c in t.chains)
    legacy = {entry for entry in have.each() if present and _shaped(*entry, have.table(entry[0]))}

    def own(table: str, chain: str, rule: Rule) -> bool:
        return is_own_chain(rule.target) or (table, chain, rule) in planned or (table, chain, rule) in legacy

    return own


def _shaped(table: str, chain: str, rule: Rule, siblings: Table) -> bool:
    """A rule outside our chains that only a plan of this kind writes."""
    if rule.target == "RETURN" and chain in ("PREROUTING", "OUTPUT") and table in ("nat", "mangle"):
        if _interface(rule) and rule.inside:  # excluded, or virtual
            twin = Rule("RETURN", outside=rule.inside) in siblings.rules("OUTPUT")
            jump = any(r.inside == rule.inside and is_own_chain(r.target) for r in siblings.rules("PREROUTING"))
            return chain == "PREROUTING" and (twin or jump)
        if _interface(rule):
            return chain == "OUTPUT" and Rule("RETURN", inside=rule.outside) in siblings.rules("PREROUTING")
    if table != "mangle" or rule.protocol != "tcp" or len(rule.matches) != 1:
        return False
    match = rule.matches[0][:2]
    if rule.target == "CONNMARK":
        saves = chain == "PREROUTING" and match == ("mark", "--mark") and rule.options[:1] == ("--save-mark",)
        restores = chain == "OUTPUT" and match == ("connmark", "--mark") and rule.options[:1] == ("--restore-mark",)
        return saves or restores
    if chain != "OUTPUT" or rule.outside != "lo":
        return False
    if rule.target == "RETURN":
        return match == ("mark", "--mark") and not rule.destination and not rule.source
    marks = rule.target == "MARK" and rule.options == ("--set-xmark", "0x53a/0xffffffff")
    return marks and match[0] == "owner" and rule.destination.startswith("! ")


def _interface(rule: Rule) -> bool:
    """`-i NIC -j RETURN` or `-o NIC -j RETURN` and nothing else."""
    nic = rule.inside or rule.outside
    return bool(nic) and rule in (Rule("RETURN", inside=nic), Rule("RETURN", outside=nic))


def owned(have: RuleSet, want: RuleSet) -> RuleSet:
    """Only what is ours: our chains whole, and our rules in other chains."""
    own = owner(have, want)
    tables = []
    for t in have.tables:
        chains = []
        for c in t.chains:
            rules = c.rules if is_own_chain(c.name) else tuple(r for r in c.rules if own(t.name, c.name, r))
            if is_own_chain(c.name) or rules:
                chains.append(Chain(c.name, c.policy, rules))
        if chains:
            tables.append(Table(t.name, tuple(chains)))
    return RuleSet(tuple(tables))


def diff(want: RuleSet, have: RuleSet) -> list[Difference]:
    """Every deviation of the rules in place from the plan, in table and chain order."""
    mine, own = owned(have, want), owner(have, want)
    found: list[Difference] = []
    for name in {t.name: None for t in (*want.tables, *mine.tables)}:
        planned, there = want.table(name), mine.table(name)
        order = [c.name for c in planned.chains]
        order += [c.name for c in there.chains if c.name not in order]
        existing = {c.name for c in there.chains}
        for chain in order:
            found += _chain(f"{name} {chain}", planned, there, chain, exists=chain in existing)
            if not is_own_chain(chain) and planned.rules(chain):
                found += _ahead(name, chain, planned, have, own)
    return found


def _chain(where: str, planned: Table, there: Table, chain: str, *, exists: bool) -> list[Difference]:
    want, got = planned.rules(chain), there.rules(chain)
    if is_own_chain(chain):
        wanted = any(c.name == chain for c in planned.chains)
        if wanted and not exists:
            return [Difference("missing", f"{where}: the chain does not exist")]
        if exists and not wanted:
            return [Difference("unexpected", f"{where}: the chain is not part of the plan")]
    found = compare(where, want, got, kept=_interface)
    spared = {f"{where}: {r.text()}" for r in got if _interface(r)} if not is_own_chain(chain) else set()
    return [Difference("leftover", d.text) if d.kind == "unexpected" and d.text in spared else d for d in found]


def compare(
    where: str,
    want: tuple[Rule, ...],
    got: tuple[Rule, ...],
    text: Callable[[Rule], str] = Rule.text,
    kept: Callable[[Rule], bool] = lambda rule: False,
) -> list[Difference]:
    """Two lists of rules; `text` spells a rule, and one that may be `kept` counts as added, not as changed."""
    if want == got:
        return []
    wants, gets = Counter(want), Counter(got)
    lost, extra = wants - gets, gets - wants
    if not lost and not extra:
        return [Difference("reordered", f"{where}: the rules are in another order")]
    if len(want) == len(got) and len(lost) == len(extra) == 1 and not kept(next(iter(extra))):
        return [Difference("changed", f"{where}: {text(next(iter(extra)))} stands for {text(next(iter(lost)))}")]
    found = [Difference("missing", f"{where}: {text(r)}") for r in lost]
    return found + [Difference("duplicate" if r in wants else "unexpected", f"{where}: {text(r)}") for r in extra]


def _ahead(table: str, chain: str, planned: Table, have: RuleSet, own: Owner) -> list[Difference]:
    """Foreign rules before our first one that can end the chain for a TCP packet."""
    found = []
    tail = {r for r in planned.rules(chain) if not r.head}
    for rule in have.table(table).rules(chain):
        if own(table, chain, rule):
            if rule in tail:
                break
        elif terminating(rule, have.table(table)):
            found.append(Difference("foreign-ahead", f"{table} {chain}: {rule.text()} stands before our rules"))
    return found


def terminating(rule: Rule, table: Table, depth: int = 0) -> bool:
    """Whether a rule can decide about a TCP packet by itself or through the chain it jumps to."""
    if rule.protocol and rule.protocol.removeprefix("! ") != "tcp" and not rule.protocol.startswith("! "):
        return False
    if rule.target in PASSING or depth > 16 or (depth and rule.target == "RETURN"):
        return False
    chains = {c.name: c.rules for c in table.chains if c.policy == "-"}
    if rule.target in chains:
        return any(terminating(r, table, depth + 1) for r in chains[rule.target])
    return True
