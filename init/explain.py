"""What happens to the first packet of a connection: a walk through the rules in place, as the kernel does it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from init.record import record, replace
from init.rules import Rule, RuleSet, Table

# Where a packet passes, in the order of the kernel. Network address translation is decided once per connection.
OUTGOING = (("raw", "OUTPUT"), ("mangle", "OUTPUT"), ("nat", "OUTPUT"), ("filter", "OUTPUT"))
LOOPED = (("raw", "PREROUTING"), ("mangle", "PREROUTING"), ("mangle", "INPUT"), ("filter", "INPUT"))
INCOMING = (LOOPED[0], LOOPED[1], ("nat", "PREROUTING"), LOOPED[2], LOOPED[3])
DEEP = 16  # jumps into one another; the kernel refuses loops
GOES_ON, RETURNS, ACCEPTS, ENDS = "goes on", "returns", "accepts", "ends"


@record
class Packet:
    """The first packet of a connection. `uid` is None for one that comes from outside; `local` tells whether its
    destination is an address of this namespace. Addresses are packed bytes; an empty source is one nobody knows."""

    destination: bytes
    port: int
    protocol: str = "tcp"
    source: bytes = b""
    source_port: int = 0
    uid: int | None = None
    gid: int | None = None
    inside: str = ""
    outside: str = ""
    local: bool = True
    mark: int = 0


@record
class Step:
    """A rule that the packet matched, or a policy that decided about it."""

    table: str
    chain: str
    text: str


@record
class Verdict:
    """kind: direct, redirected, tproxied, rewritten, dropped or forwarded; `port` is where a redirected one arrives.
    `unsure` are rules whose conditions are not understood; they were taken not to match."""

    kind: str
    port: int
    detail: str
    steps: tuple[Step, ...]
    unsure: tuple[Step, ...]


def explain(rules: RuleSet, packet: Packet) -> Verdict:
    """The fate of a packet under the rules of its address family."""
    walk = _Walk(rules, packet)
    if packet.uid is None:
        return walk.through(INCOMING) or walk.delivered()
    return walk.through(OUTGOING) or (walk.packet.local and walk.loop()) or walk.delivered()


class _Walk:
    def __init__(self, rules: RuleSet, packet: Packet) -> None:
        self.rules = rules
        self.packet = packet
        self.steps: list[Step] = []
        self.unsure: list[Step] = []
        self.redirected = 0
        self.end: tuple[str, int, str] | None = None  # kind, port, detail
        self.connection_mark = 0
        self.tracked = True
        self.zoned = False

    def verdict(self, kind: str, port: int = 0, detail: str = "") -> Verdict:
        return Verdict(kind, port, detail, tuple(self.steps), tuple(self.unsure))

    def loop(self) -> Verdict | None:
        """What was sent to this namespace itself comes in again through lo."""
        self.packet = replace(self.packet, inside="lo", outside="", uid=None, gid=None)
        return self.through(LOOPED)

    def delivered(self) -> Verdict:
        if self.redirected:
            return self.verdict("redirected", self.redirected)
        return self.verdict("direct" if self.packet.local or self.packet.outside else "forwarded")

    def through(self, hooks: tuple[tuple[str, str], ...]) -> Verdict | None:
        """Walk through hooks; None when the packet passes them all."""
        for table, hook in hooks:
            if (table == "nat" and not self.tracked) or (hook == "INPUT" and not self.packet.local):
                continue
            chains = self.rules.table(table)
            if self.chain(chains, hook, 0) in (GOES_ON, RETURNS):
                policy = next((c.policy for c in chains.chains if c.name == hook), "ACCEPT")
                if policy == "DROP":
                    self.steps.append(Step(table, hook, "policy DROP"))
                    self.end = "dropped", 0, f"the policy of {table} {hook}"
            if self.end:
                return self.verdict(*self.end)
        return None

    def chain(self, table: Table, name: str, depth: int) -> str:
        """How a chain ends: `goes on` when its last rule was passed."""
        own = {c.name for c in table.chains if c.policy == "-"}
        for rule in table.rules(name):
            met = matches(rule, self.packet, self.connection_mark)
            if met is None:
                self.unsure.append(Step(table.name, name, rule.text()))
            if not met:
                continue
            self.steps.append(Step(table.name, name, rule.text()))
            if rule.target in own and depth < DEEP:
                outcome = self.chain(table, rule.target, depth + 1)
                if outcome in (ACCEPTS, ENDS):
                    return outcome
                if rule.goto:
                    return RETURNS
                continue
            outcome = self.act(table.name, name, rule)
            if outcome != GOES_ON:
                return outcome
        return GOES_ON

    def act(self, table: str, chain: str, rule: Rule) -> str:
        """What a target does to the packet."""
        options = {a: b for a, b in pairwise((*rule.options, "")) if a.startswith("--")}
        target = rule.target
        if target == "RETURN":
            return RETURNS
        if target == "ACCEPT":
            return ACCEPTS
        if target in ("DROP", "REJECT"):
            self.end = "dropped", 0, f"{table} {chain}: {rule.text()}"
            return ENDS
        if target == "REDIRECT":
            self.redirected = int(options.get("--to-ports", str(self.packet.port)).partition("-")[0])
            self.packet = replace(self.packet, port=self.redirected, local=True, destination=self.own_address())
            if self.packet.outside:
                self.packet = replace(self.packet, outside="lo")
            return ACCEPTS
        if target == "TPROXY":
            self.packet = replace(self.packet, mark=_marked(self.packet.mark, options.get("--tproxy-mark", "0/0")))
            self.end = "tproxied", int(options.get("--on-port", "0")), ""
            return ENDS
        if target in ("DNAT", "NETMAP"):
            self.end = "rewritten", 0, options.get("--to-destination", options.get("--to", ""))
            return ENDS
        self.mark(target, options)
        return GOES_ON

    def own_address(self) -> bytes:
        """Where REDIRECT sends a packet: to loopback what starts here, else to the address it came in by."""
        if not self.packet.outside:
            return self.packet.destination
        return bytes([127, 0, 0, 1]) if len(self.packet.destination) == 4 else bytes(15) + b"\x01"

    def mark(self, target: str, options: Mapping[str, str]) -> None:
        if target == "MARK":
            self.packet = replace(self.packet, mark=_marked(self.packet.mark, options.get("--set-xmark", "0/0")))
        elif target == "CONNMARK" and "--save-mark" in options:
            self.connection_mark = self.packet.mark
        elif target == "CONNMARK" and "--restore-mark" in options:
            self.packet = replace(self.packet, mark=self.connection_mark)
        elif target == "NOTRACK" or (target == "CT" and "--notrack" in options and not self.zoned):
            self.tracked = False
        elif target == "CT":
            self.zoned = True  # the first one wins


def _number(text: str) -> int:
    return int(text, 16) if text.startswith("0x") else int(text)


def _marked(mark: int, value: str) -> int:
    bits, _, mask = value.partition("/")
    return (mark & ~_number(mask or "0xffffffff") & 0xFFFFFFFF) ^ _number(bits)


def within(address: bytes, network: str) -> bool:
    """Whether an address lies in a range such as 10.0.0.0/8 or fd00::/8; never for an unknown one."""
    text, _, size = network.partition("/")
    base = packed(text)
    if size == "0":
        return True
    if len(base) != len(address):
        return False
    rest = len(base) * 8 - int(size or len(base) * 8)
    return int.from_bytes(base, "big") >> rest == int.from_bytes(address, "big") >> rest


def packed(text: str) -> bytes:
    """The bytes of an address. Raises ValueError."""
    if ":" not in text:
        parts = [int(p) for p in text.split(".")]
        if len(parts) != 4:
            raise ValueError(text)
        return bytes(parts)
    head, gap, tail = text.partition("::")
    if "." in text:  # the last 32 bits as IPv4
        front, _, last = text.rpartition(":")
        v4 = packed(last)
        return packed(f"{front}:{v4[0] << 8 | v4[1]:x}:{v4[2] << 8 | v4[3]:x}")
    groups = [int(g, 16) for g in head.split(":") if g], [int(g, 16) for g in tail.split(":") if g]
    missing = 8 - len(groups[0]) - len(groups[1])
    if missing < 0 or (missing and not gap) or (gap and "::" in tail):
        raise ValueError(text)
    return b"".join(g.to_bytes(2, "big") for g in [*groups[0], *[0] * missing, *groups[1]])


def matches(rule: Rule, packet: Packet, connection_mark: int = 0) -> bool | None:
    """Whether a rule applies to a packet; None when it would, but for a condition that is not understood."""

    def negatable(value: str, test: object) -> bool:
        return not value or bool(test) != value.startswith("! ")

    def plain(value: str) -> str:
        return value.removeprefix("! ")

    def named(value: str, nic: str) -> bool:
        name = plain(value)
        return nic.startswith(name[:-1]) if name.endswith("+") else nic == name

    foreign = ":" if len(packet.destination) == 4 else "."  # native tables hold the rules of both families
    if foreign in rule.source or foreign in rule.destination:
        return False
    if not (
        negatable(rule.source, rule.source and within(packet.source, plain(rule.source)))
        and negatable(rule.destination, rule.destination and within(packet.destination, plain(rule.destination)))
        and negatable(rule.inside, named(rule.inside, packet.inside))
        and negatable(rule.outside, named(rule.outside, packet.outside))
        and negatable(rule.protocol, plain(rule.protocol) in (packet.protocol, "all"))
    ):
        return False
    found: list[bool | None] = [_match(words, packet, connection_mark) for words in rule.matches]
    if False in found:
        return False
    return None if None in found or rule.extra else True


def _match(words: tuple[str, ...], packet: Packet, connection_mark: int) -> bool | None:
    kind, *rest = words
    met: bool | None = True
    while rest:
        inverted = rest[0] == "!"
        option = rest.pop(1 if inverted else 0)
        if inverted:
            rest.pop(0)
        value = rest.pop(0) if rest and not rest[0].startswith("--") and rest[0] != "!" else ""
        test = _condition(kind, option, value, packet, connection_mark)
        if test is not None and test == inverted:
            return False
        met = None if test is None else met
    return met


def _condition(kind: str, option: str, value: str, packet: Packet, connection_mark: int) -> bool | None:
    if kind == "comment":
        return True
    to, since = packet.port, packet.source_port
    ports = {"--dport": [to], "--dports": [to], "--sport": [since], "--sports": [since], "--ports": [to, since]}
    if kind in ("tcp", "udp", "multiport") and option in ports:
        return any(_in_range(p, part, ":") for p in ports[option] for part in value.split(","))
    owners = {"--uid-owner": packet.uid, "--gid-owner": packet.gid}
    if kind == "owner" and option in owners:
        owner = owners[option]
        return owner is not None and _in_range(owner, value, "-")
    if kind in ("mark", "connmark") and option == "--mark":
        bits, _, mask = value.partition("/")
        mark = packet.mark if kind == "mark" else connection_mark
        return mark & _number(mask or "0xffffffff") == _number(bits)
    if (kind, option) in (("conntrack", "--ctstate"), ("state", "--state")):
        return "NEW" in value.split(",")
    return None


def _in_range(number: int, text: str, dash: str) -> bool:
    low, between, high = text.partition(dash)
    return int(low or 0) <= number <= int((high or 65535) if between else low)
