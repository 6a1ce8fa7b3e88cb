"""One rule in the words of nft: writing it, and reading it back whatever the version that prints it."""

from __future__ import annotations

from collections.abc import Callable

from init.plan import WHOLE_MARK
from init.rules import Rule

PROTOCOLS = {"6": "tcp", "17": "udp", "tcp": "tcp", "udp": "udp"}
FAMILIES = {"2": "0.0.0.0/0", "ipv4": "0.0.0.0/0", "10": "::/0", "ipv6": "::/0"}
STATES = {"1": "INVALID", "2": "ESTABLISHED", "4": "RELATED", "8": "NEW", "64": "UNTRACKED"}
STATE_ORDER = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED")
OWNERS = {"skuid": "--uid-owner", "skgid": "--gid-owner"}
VERDICTS = ("return", "accept", "drop")


def rule_text(rule: Rule) -> str:
    """A rule as nft takes it, with a counter. Raises ValueError for one that only iptables can express."""
    if not rule.target:
        return rule.extra[0]  # somebody else's, kept as it was read
    words: list[str] = []
    if rule.source in ("0.0.0.0/0", "::/0"):
        words += ["meta nfproto", "ipv4" if "." in rule.source else "ipv6"]
    for flag, nic in (("iifname", rule.inside), ("oifname", rule.outside)):
        if nic:
            not_, name = nic.startswith("! "), nic.removeprefix("! ")
            name = name[:-1] + "*" if name.endswith("+") else name
            words.append(f'{flag} {"!= " if not_ else ""}"{name}"')
    ports = [_match(m) for m in rule.matches if m[0] in ("tcp", "udp", "multiport")]
    others = [_match(m) for m in rule.matches if m[0] not in ("tcp", "udp", "multiport")]
    if rule.protocol and not ports:
        words += ["meta l4proto", rule.protocol]
    addresses = _addresses(rule)
    words += [*ports, *addresses] if rule.target == "CT" else [*addresses, *ports]
    return " ".join([*words, *others, "counter", _action(rule)])


def _negated(value: str) -> str:
    return "!= " + value[2:] if value.startswith("! ") else value


def _addresses(rule: Rule) -> list[str]:
    found = []
    for flag, value in (("saddr", rule.source), ("daddr", rule.destination)):
        if value and value not in ("0.0.0.0/0", "::/0"):
            family = "ip6" if ":" in value else "ip"
            found.append(f"{family} {flag} {_negated(value.removesuffix('/128' if family == 'ip6' else '/32'))}")
    return found


def _match(match: tuple[str, ...]) -> str:
    name, *words = match
    not_ = "!= " if words[0] == "!" else ""
    flag, value = words[-2:]
    if name in ("tcp", "udp"):
        return f"{name} {flag.removeprefix('--')} {not_}{value.replace(':', '-')}"
    if name == "multiport":
        return f"tcp {flag.removeprefix('--').removesuffix('s')} {not_}{{ {value.replace(',', ', ')} }}"
    if name == "owner":
        return f"meta {next(k for k, v in OWNERS.items() if v == flag)} {not_}{value}"
    if name == "conntrack":
        return f"ct state {value.lower()}"
    if name in ("mark", "connmark"):
        return f"{'meta' if name == 'mark' else 'ct'} mark {not_}{value}"
    raise ValueError(f"nft has no words for -m {' '.join(match)}")


def _action(rule: Rule) -> str:
    target, options = rule.target, rule.options
    if target in ("RETURN", "ACCEPT", "DROP"):
        return target.lower()
    if target == "REDIRECT":
        return f"redirect to :{options[1]}"
    if target == "TPROXY":
        family = "ip6" if options[3] == "::" else "ip"
        return f"tproxy {family} to :{options[1]} meta mark set {options[5].partition('/')[0]} accept"
    if target == "MARK":
        return f"meta mark set {options[1].partition('/')[0]}"
    if target == "CONNMARK":
        return "ct mark set meta mark" if options[0] == "--save-mark" else "meta mark set ct mark"
    if target == "CT":
        return f"ct zone set {options[1]}"
    return f"{'goto' if rule.goto else 'jump'} {target.lower().replace('_', '-')}"


class _Unknown(Exception):
    """Words that no rule of ours has."""


def parse_rule(text: str) -> Rule:
    """A rule from a line of `nft -n list`; one that is not understood completely is kept as text."""
    try:
        return _Reader(text).rule()
    except _Unknown:
        return Rule(extra=(text,))


class _Reader:
    def __init__(self, text: str) -> None:
        self.words = text.split()
        self.places: dict[str, str] = {}
        self.matches: list[tuple[str, ...]] = []

    def rule(self) -> Rule:
        while self.words and self.match():
            pass
        target, options, goto = self.action()
        return Rule(
            target,
            options,
            self.places.get("source", ""),
            self.places.get("destination", ""),
            self.places.get("inside", ""),
            self.places.get("outside", ""),
            self.places.get("protocol", ""),
            matches=tuple(self.matches),
            goto=goto,
        )

    def take(self, *heads: str) -> bool:
        """Whether the next words are these; if so they are gone."""
        if tuple(self.words[: len(heads)]) != heads:
            return False
        del self.words[: len(heads)]
        return True

    def next(self) -> str:
        if not self.words:
            raise _Unknown
        return self.words.pop(0)

    def place(self, name: str, value: str) -> None:
        if self.places.setdefault(name, value) != value:
            raise _Unknown

    def value(self) -> tuple[bool, str]:
        """(negated, value); the elements of a set joined by commas after a brace."""
        not_ = self.take("!=")
        word = self.next()
        if word == "{":
            parts = []
            while (part := self.next()) != "}":
                parts.append(part.removesuffix(","))
            word = "{" + ",".join(parts)
        return not_, word

    def plain(self, legal: Callable[[str], bool] | None = None) -> tuple[bool, str]:
        not_, word = self.value()
        if word.startswith("{") or (legal and not legal(word)):
            raise _Unknown
        return not_, word

    def match(self) -> bool:
        """Read one condition, or the counter; False when the action begins."""
        first = self.words[0]
        if self.take("counter"):
            if self.take("packets"):
                del self.words[:3]
            return True
        if first in ("iifname", "oifname"):
            self.next()
            not_, name = self.plain(lambda w: len(w) > 2 and w[0] == w[-1] == '"')
            name = name[1:-1]
            name = name[:-1] + "+" if name.endswith("*") else name
            self.place("inside" if first == "iifname" else "outside", ("! " if not_ else "") + name)
            return True
        if first in ("ip", "ip6"):
            return self.address()
        if first in ("tcp", "udp"):
            return self.port()
        if first == "ct":
            return self.conntrack()
        return first == "meta" and self.meta()

    def address(self) -> bool:
        v6 = self.next() == "ip6"
        side = {"saddr": "source", "daddr": "destination"}.get(self.next())
        not_, text = self.plain(lambda w: (":" in w) == v6 and not set(w) - set("0123456789abcdef:./"))
        if side is None:
            raise _Unknown
        text += "" if "/" in text else "/128" if v6 else "/32"
        self.place(side, ("! " if not_ else "") + text)
        return True

    def port(self) -> bool:
        protocol, side = self.next(), self.next()
        not_, text = self.value()
        if side not in ("dport", "sport") or set(text) - set("0123456789-,{"):
            raise _Unknown
        self.place("protocol", protocol)
        bang = ("!",) if not_ else ()
        if not text.startswith("{"):
            self.matches.append((protocol, *bang, "--" + side, text.replace("-", ":")))
        elif protocol == "tcp" and not_ and "-" not in text:
            self.matches.append(self.several(side, text[1:]))
        else:
            raise _Unknown
        return True

    def several(self, side: str, ports: str) -> tuple[str, ...]:
        listed = ",".join(map(str, sorted(map(int, ports.split(",")))))
        return ("multiport", "!", f"--{side}s", listed)

    def conntrack(self) -> bool:
        if self.words[2:3] == ["set"]:
            return False
        self.next()
        what = self.next()
        not_, text = self.value()
        if what == "state" and not not_:
            self.matches.append(("conntrack", "--ctstate", ",".join(states(text.removeprefix("{")))))
        elif what == "mark":
            self.matches.append(("connmark", *(("!",) if not_ else ()), "--mark", mark(text)))
        else:
            raise _Unknown
        return True

    def meta(self) -> bool:
        if self.words[2:3] == ["set"]:
            return False
        self.next()
        what = self.next()
        not_, text = self.plain()
        bang = ("!",) if not_ else ()
        if what == "l4proto" and not not_ and text in PROTOCOLS:
            self.place("protocol", PROTOCOLS[text])
        elif what == "nfproto" and not not_ and text in FAMILIES:
            self.place("source", FAMILIES[text])
        elif what in OWNERS and not set(text) - set("0123456789-"):
            self.matches.append(("owner", *bang, OWNERS[what], text))
        elif what == "mark":
            self.matches.append(("mark", *bang, "--mark", mark(text)))
        else:
            raise _Unknown
        return True

    def action(self) -> tuple[str, tuple[str, ...], bool]:
        """(target, options, goto) of the words that are left, which must be one action exactly."""
        match self.words:
            case ["return" | "accept" | "drop" as verdict]:
                return verdict.upper(), (), False
            case ["jump" | "goto" as how, chain] if chain.startswith("istio-"):
                return chain.upper().replace("-", "_"), (), how == "goto"
            case ["redirect", "to", to] if to[:1] == ":" and to[1:].isdigit():
                return "REDIRECT", ("--to-ports", to[1:]), False
            case ["tproxy", "ip" | "ip6" as which, "to", to, "meta", "mark", "set", value, "accept"] if to[:1] == ":":
                where = ("--on-port", to[1:], "--on-ip", "::" if which == "ip6" else "0.0.0.0")
                return "TPROXY", (*where, "--tproxy-mark", mark(value) + "/0xffffffff"), False
            case ["meta", "mark", "set", "ct", "mark"]:
                return "CONNMARK", ("--restore-mark", *WHOLE_MARK), False
            case ["ct", "mark", "set", "meta", "mark"]:
                return "CONNMARK", ("--save-mark", *WHOLE_MARK), False
            case ["meta", "mark", "set", value]:
                return "MARK", ("--set-xmark", mark(value) + "/0xffffffff"), False
            case ["ct", "zone", "set", zone] if zone.isdigit():
                return "CT", ("--zone", zone), False
        raise _Unknown


def mark(text: str) -> str:
    try:
        return f"0x{int(text, 0):x}"
    except ValueError:
        raise _Unknown from None


def states(text: str) -> list[str]:
    """Connection states by name, in one order, from names or from the bits that nft prints for them."""
    found = set()
    for part in text.split(","):
        bit = str(int(part, 16)) if part.startswith("0x") and not set(part[2:]) - set("0123456789abcdef") else ""
        name = STATES.get(bit, part.upper())
        if name not in STATE_ORDER:
            raise _Unknown
        found.add(name)
    return [s for s in STATE_ORDER if s in found]
