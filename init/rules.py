"""Packet rules as data, and their text in the spelling of `iptables-save`.

The text is canonical: tables and chains in a fixed order, no counters, no comments. What `render` prints for a plan is
what `iptables-save` answers after it was loaded, apart from counters and comment lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from init.record import record

TABLES = ("raw", "mangle", "nat", "filter", "security")
BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_PLACES = {"-s": "source", "-d": "destination", "-i": "inside", "-o": "outside", "-p": "protocol"}


@record
class Rule:
    """One rule. A leading "! " in an address, interface or protocol negates it; `matches` are the words of each -m.

    `head` asks for a place at the beginning of a built-in chain instead of its end; it is not part of the rule's text.
    """

    target: str = ""
    options: tuple[str, ...] = ()
    source: str = ""
    destination: str = ""
    inside: str = ""
    outside: str = ""
    protocol: str = ""
    extra: tuple[str, ...] = ()
    matches: tuple[tuple[str, ...], ...] = ()
    goto: bool = False
    head: bool = False
    aside = ("head",)  # not compared

    def text(self) -> str:
        """The words after `-A CHAIN`."""
        words: list[str] = []
        for flag, place in _PLACES.items():
            value: str = getattr(self, place)
            if value:
                words += ["!", flag, value[2:]] if value.startswith("! ") else [flag, value]
        words += self.extra
        for match in self.matches:
            words += ["-m", *match]
        if self.target:
            words += ["-g" if self.goto else "-j", self.target, *self.options]
        return " ".join(words)


@record
class Chain:
    """A chain; `policy` is "-" for a chain that the kernel does not have by itself."""

    name: str
    policy: str = "-"
    rules: tuple[Rule, ...] = ()


@record
class Table:
    """A table with its chains in canonical order."""

    name: str
    chains: tuple[Chain, ...] = ()

    def rules(self, chain: str) -> tuple[Rule, ...]:
        return next((c.rules for c in self.chains if c.name == chain), ())


@record
class RuleSet:
    """All tables of one address family, in canonical order."""

    tables: tuple[Table, ...] = ()

    def table(self, name: str) -> Table:
        return next((t for t in self.tables if t.name == name), Table(name))

    def each(self) -> Iterator[tuple[str, str, Rule]]:
        """(table, chain, rule) in order."""
        for table in self.tables:
            for chain in table.chains:
                for rule in chain.rules:
                    yield table.name, chain.name, rule

    def count(self) -> int:
        """Rules, and built-in chains that do not let everything pass."""
        strict = sum(c.policy not in ("-", "ACCEPT") for t in self.tables for c in t.chains)
        return strict + sum(1 for _ in self.each())


def make(chains: dict[tuple[str, str], tuple[str, list[Rule]]]) -> RuleSet:
    """A rule set in canonical order from {(table, chain): (policy, rules)}."""
    tables: dict[str, list[Chain]] = {}
    for (table, name), (policy, rules) in chains.items():
        tables.setdefault(table, []).append(Chain(name, policy, tuple(rules)))
    return canonical(RuleSet(tuple(Table(name, tuple(chains)) for name, chains in tables.items())))


def canonical(rules: RuleSet) -> RuleSet:
    """Tables and chains in the order that `render` uses."""
    tables = [Table(t.name, tuple(sorted(t.chains, key=_chain_key))) for t in rules.tables]
    return RuleSet(tuple(sorted(tables, key=_table_key)))


def _chain_key(chain: Chain) -> tuple[int, str]:
    own = chain.policy == "-"
    return (len(BUILTIN) + own, chain.name) if own or chain.name not in BUILTIN else (BUILTIN.index(chain.name), "")


def _table_key(table: Table) -> tuple[int, str]:
    return (TABLES.index(table.name), "") if table.name in TABLES else (len(TABLES), table.name)


def render(rules: RuleSet) -> str:
    """The rule set as text that `iptables-restore` takes and `iptables-save` gives back."""
    lines: list[str] = []
    for table in canonical(rules).tables:
        lines.append("*" + table.name)
        lines += [f":{c.name} {c.policy} [0:0]" for c in table.chains]
        lines += [f"-A {c.name} {r.text()}".rstrip() for c in table.chains for r in c.rules]
        lines.append("COMMIT")
    return "".join(line + "\n" for line in lines)


def parse(text: str) -> RuleSet:
    """The rule set of an `iptables-save` output. Raises ValueError with the line that it does not understand."""
    chains: dict[str, dict[str, tuple[str, list[Rule]]]] = {}
    current: dict[str, tuple[str, list[Rule]]] | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and current is None:
            current = chains.setdefault(line[1:].strip(), {})
        elif line == "COMMIT" and current is not None:
            current = None
        elif line.startswith(":") and current is not None and len(line[1:].split()) >= 2:
            name, policy = line[1:].split()[:2]
            current.setdefault(name, (policy, []))
        elif current is not None and (found := _rule_line(line)) is not None and found[0] in current:
            current[found[0]][1].append(found[1])
        else:
            raise ValueError(f"line {number} is not understood: {line[:120]!r}")
    if current is not None:
        raise ValueError("the text ends inside a table")
    return canonical(
        RuleSet(tuple(Table(t, tuple(Chain(n, p, tuple(r)) for n, (p, r) in c.items())) for t, c in chains.items()))
    )


def _rule_line(line: str) -> tuple[str, Rule] | None:
    if line.startswith("["):  # counters in front of the rule
        line = line.partition("] ")[2]
    words = split(line)
    if len(words) < 2 or words[0] != "-A":
        return None
    return words[1], parse_rule(words[2:])


def split(line: str) -> list[str]:
    """The words of a line; a quoted word keeps its quotes, so that joining the words gives the line again."""
    words: list[str] = []
    word, quoted, escaped = "", False, False
    for c in line:
        if escaped:
            word, escaped = word + c, False
        elif quoted and c == "\\":
            word, escaped = word + c, True
        elif c == '"':
            word, quoted = word + c, not quoted
        elif c == " " and not quoted:
            if word:
                words.append(word)
            word = ""
        else:
            word += c
    return [*words, word] if word else words


def parse_rule(words: list[str]) -> Rule:
    """A rule from the words after `-A CHAIN`."""
    places: dict[str, str] = {}
    extra: list[str] = []
    matches: list[list[str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        negated = word == "!" and bool(rest) and not matches and rest[0] in _PLACES
        flag = rest.pop(0) if negated else word
        if flag in ("-j", "-g") and rest:
            target, *options = rest
            return _rule(places, extra, matches, target, options, goto=flag == "-g")
        if flag == "-m" and rest:
            matches.append([rest.pop(0)])
        elif matches:
            matches[-1].append(flag)
            if flag == "--comment" and rest:  # its text may look like anything
                matches[-1].append(rest.pop(0))
        elif flag in _PLACES and _PLACES[flag] not in places and rest:
            places[_PLACES[flag]] = ("! " if negated else "") + rest.pop(0)
        else:
            extra += ["!", flag] if negated else [flag]
    return _rule(places, extra, matches, "", [], goto=False)


def _rule(
    places: dict[str, str], extra: list[str], matches: list[list[str]], target: str, options: list[str], *, goto: bool
) -> Rule:
    return Rule(
        target=target,
        options=tuple(options),
        source=places.get("source", ""),
        destination=places.get("destination", ""),
        inside=places.get("inside", ""),
        outside=places.get("outside", ""),
        protocol=places.get("protocol", ""),
        extra=tuple(extra),
        matches=tuple(tuple(m) for m in matches),
        goto=goto,
    )
