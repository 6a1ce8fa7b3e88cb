"""What the packet rules of a pod should look like: a pure function of its settings."""

from __future__ import annotations

from init.record import record
from init.rules import Rule, RuleSet, make
from init.settings import ALL, InitConfig

BUILTIN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}
PROXY_MARK = 1338  # on connections of the proxy to its own pod, so that TPROXY takes them
PROXY_ZONE, APP_ZONE = "1", "2"  # conntrack zones that keep the two halves of a DNS exchange apart
MANY_GROUPS = 40  # iptables refuses a rule with more than 49 owner matches
ESTABLISHED = ("conntrack", "--ctstate", "RELATED,ESTABLISHED")
WHOLE_MARK = ("--nfmask", "0xffffffff", "--ctmask", "0xffffffff")


@record
class Routes:
    """Policy routing for TPROXY (families 4 and 6; none without TPROXY) and whether lo carries ::6."""

    mark: int = 1337
    table: int = 133
    families: tuple[int, ...] = ()
    passthrough6: bool = False


@record
class Plan:
    """The rules of both families (v6 is None when IPv6 is not captured) and the routes they need."""

    v4: RuleSet
    v6: RuleSet | None
    routes: Routes

    def count(self) -> int:
        """Rules of both families."""
        return self.v4.count() + (self.v6.count() if self.v6 else 0)

    def of(self, family: int) -> RuleSet:
        """The rules of a family, an empty set for one that is not planned."""
        return self.v4 if family == 4 else (self.v6 or RuleSet())


def plan(config: InitConfig) -> Plan:
    """The whole plan of a pod."""
    families = (4, 6) if config.v6 else (4,)
    tproxy = config.tproxy and bool(config.inbound_ports)
    return Plan(
        v4=_Builder(config, 4).build(),
        v6=_Builder(config, 6).build() if config.v6 else None,
        routes=Routes(config.mark, config.route_table, families if tproxy else (), config.v6),
    )


def tcp(port: object, *, not_: bool = False) -> tuple[str, ...]:
    return ("tcp", *(("!",) if not_ else ()), "--dport", str(port))


class _Builder:
    def __init__(self, config: InitConfig, family: int) -> None:
        self.config = config
        self.family = family
        self.chains: dict[tuple[str, str], tuple[str, list[Rule]]] = {}
        self.outbound = "ISTIO_OUTPUT"  # where the decision about an application's traffic continues

    @property
    def loopback(self) -> str:
        return self.config.loopback4 if self.family == 4 else "::1/128"

    @property
    def passthrough(self) -> str:
        """The source from which the proxy hands a connection on to the application."""
        return "127.0.0.6/32" if self.family == 4 else "::6/128"

    def add(self, table: str, chain: str, rule: Rule) -> None:
        for builtin in BUILTIN[table]:
            self.chains.setdefault((table, builtin), ("ACCEPT", []))
        self.chains.setdefault((table, chain), ("-", []))[1].append(rule)

    def first(self, table: str, chain: str, rule: Rule) -> None:
        self.add(table, chain, rule)
        rules = self.chains[table, chain][1]
        rules.insert(0, rules.pop())

    def build(self) -> RuleSet:
        self.excluded_interfaces()
        for nic in self.config.virtual_interfaces:
            self.first("nat", "PREROUTING", Rule("RETURN", inside=nic, head=True))
        if self.config.drop_invalid:
            invalid = ("conntrack", "--ctstate", "INVALID")
            self.add("mangle", "PREROUTING", Rule("ISTIO_DROP", matches=(invalid,)))
            self.add("mangle", "ISTIO_DROP", Rule("DROP"))
        self.redirects()
        self.inbound()
        self.add("nat", "OUTPUT", Rule("ISTIO_OUTPUT"))
        self.output_basics()
        self.owner_groups()
        if self.config.dns:
            self.dns()
        self.output_destinations()
        if self.config.tproxy:
            self.tproxy_marks()
        return make(self.chains)

    def excluded_interfaces(self) -> None:
        for nic in self.config.exclude_interfaces:
            for table in ("nat", "mangle") if self.config.tproxy else ("nat",):
                self.add(table, "PREROUTING", Rule("RETURN", inside=nic))
                self.add(table, "OUTPUT", Rule("RETURN", outside=nic))

    def redirects(self) -> None:
        c = self.config
        tunnel = Rule("RETURN", protocol="tcp", matches=(tcp(c.tunnel_port),))
        self.add("nat", "ISTIO_INBOUND", tunnel)
        for chain, port in (("ISTIO_REDIRECT", c.proxy_port), ("ISTIO_IN_REDIRECT", c.inbound_port)):
            self.add("nat", chain, Rule("REDIRECT", ("--to-ports", str(port)), protocol="tcp"))

    def inbound(self) -> None:
        c = self.config
        if not c.inbound_ports:
            return
        table = "mangle" if c.tproxy else "nat"
        if c.tproxy:
            mark = f"0x{c.mark:x}/0xffffffff"
            self.add(table, "ISTIO_DIVERT", Rule("MARK", ("--set-xmark", mark)))
            self.add(table, "ISTIO_DIVERT", Rule("ACCEPT"))
            any_ip = "0.0.0.0" if self.family == 4 else "::"
            where = ("--on-port", str(c.inbound_port), "--on-ip", any_ip, "--tproxy-mark", mark)
            self.add(table, "ISTIO_TPROXY", Rule("TPROXY", where, destination="! " + self.loopback, protocol="tcp"))
        self.add(table, "PREROUTING", Rule("ISTIO_INBOUND", protocol="tcp"))
        if c.inbound_ports == ALL:
            for port in c.inbound_exclude:
                self.add(table, "ISTIO_INBOUND", Rule("RETURN", protocol="tcp", matches=(tcp(port),)))
        for port in c.inbound_ports:
            match = () if port == "*" else (tcp(port),)
            if c.tproxy:
                divert = Rule("ISTIO_DIVERT", protocol="tcp", matches=(*match, ESTABLISHED))
                self.add(table, "ISTIO_INBOUND", divert)
            target = "ISTIO_TPROXY" if c.tproxy else "ISTIO_IN_REDIRECT"
            self.add(table, "ISTIO_INBOUND", Rule(target, protocol="tcp", matches=match))

    def output(self, rule: Rule) -> None:
        self.add("nat", self.outbound, rule)

    def output_basics(self) -> None:
        """What is decided by who sends: excluded ports, the passthrough source, the proxy's own uids and gids."""
        c = self.config
        for port in c.outbound_exclude:
            for protocol in ("tcp", "udp"):
                self.output(Rule("RETURN", protocol=protocol, matches=((protocol, "--dport", port),)))
        self.output(Rule("RETURN", source=self.passthrough, outside="lo"))
        for kind, ids in (("--uid-owner", c.uids), ("--gid-owner", c.gids)):
            ports = tcp(c.tunnel_port, not_=True)
            if c.dns and kind == "--uid-owner":  # the proxy's DNS over TCP to a local resolver stays direct
                ports = ("multiport", "!", "--dports", f"53,{c.tunnel_port}")
            for owner in ids:
                own = ("owner", kind, owner)
                self.output(
                    Rule(
                        "ISTIO_IN_REDIRECT",
                        destination="! " + self.loopback,
                        outside="lo",
                        protocol="tcp",
                        matches=(ports, own),
                    )
                )
                if not c.include.loopback:
                    other = ("owner", "!", kind, owner)
                    if c.dns:  # applications may use a resolver on localhost
                        match = (tcp(53, not_=True), other)
                        self.output(Rule("RETURN", outside="lo", protocol="tcp", matches=match))
                    else:
                        self.output(Rule("RETURN", outside="lo", matches=(other,)))
                self.output(Rule("RETURN", matches=(own,)))

    def owner_groups(self) -> None:
        groups = self.config.groups
        if groups == ALL:
            for group in self.config.groups_exclude:
                self.output(Rule("RETURN", matches=(("owner", "--gid-owner", group),)))
        elif len(groups) <= MANY_GROUPS:
            self.output(Rule("RETURN", matches=tuple(("owner", "!", "--gid-owner", g) for g in groups)))
        else:  # one rule cannot hold them: members go on in a chain of their own
            for group in groups:
                self.output(Rule("ISTIO_OUTPUT_GROUP", matches=(("owner", "--gid-owner", group),)))
            self.outbound = "ISTIO_OUTPUT_GROUP"

    def dns(self) -> None:
        c = self.config
        servers = ("",) if c.dns_all else c.dns_servers.of(self.family)
        port53 = ("udp", "--dport", "53")
        if servers:
            self.output(Rule("ISTIO_OUTPUT_DNS"))
        for protocol in ("tcp", "udp"):
            for server in servers:
                to = ("--to-ports", str(c.dns_port))
                rule = Rule("REDIRECT", to, destination=server, protocol=protocol, matches=((protocol, *port53[1:]),))
                self.add("nat", "ISTIO_OUTPUT_DNS", rule)
        self.add("raw", "OUTPUT", Rule("ISTIO_OUTPUT_DNS"))
        replies = ("udp", "--sport", str(c.dns_port))
        for kind, ids in (("--uid-owner", c.uids), ("--gid-owner", c.gids)):
            for owner in ids:  # the first CT rule wins, so the proxy's come before everybody's
                own = ("owner", kind, owner)
                for match, zone in ((port53, PROXY_ZONE), (replies, APP_ZONE)):
                    self.add(
                        "raw", "ISTIO_OUTPUT_DNS", Rule("CT", ("--zone", zone), protocol="udp", matches=(match, own))
                    )
        if servers:
            self.add("raw", "PREROUTING", Rule("ISTIO_INBOUND"))
        for server in servers:
            ask = Rule("CT", ("--zone", APP_ZONE), destination=server, protocol="udp", matches=(port53,))
            self.add("raw", "ISTIO_OUTPUT_DNS", ask)
            answer = Rule(
                "CT", ("--zone", PROXY_ZONE), source=server, protocol="udp", matches=(("udp", "--sport", "53"),)
            )
            self.add("raw", "ISTIO_INBOUND", answer)

    def output_destinations(self) -> None:
        """What is decided by where it goes: loopback, excluded ranges, included ports, included ranges."""
        c = self.config
        self.output(Rule("RETURN", destination=self.loopback))
        for network in c.exclude.of(self.family):
            self.output(Rule("RETURN", destination=specific(network)))
        for port in c.outbound_ports:
            self.output(Rule("ISTIO_REDIRECT", protocol="tcp", matches=(tcp(port),)))
        for network in ("",) if c.include.all else c.include.of(self.family):
            to = specific(network)
            for nic in c.virtual_interfaces:
                self.first("nat", "PREROUTING", Rule("ISTIO_REDIRECT", destination=to, inside=nic, head=True))
            self.output(Rule("ISTIO_REDIRECT", destination=to))

    def tproxy_marks(self) -> None:
        c = self.config
        mark, proxy = f"0x{c.mark:x}", f"0x{PROXY_MARK:x}"
        whole = ("mark", "--mark", mark)
        self.add(
            "mangle",
            "PREROUTING",
            Rule("CONNMARK", ("--save-mark", *WHOLE_MARK), protocol="tcp", matches=(whole,)),
        )
        self.add("mangle", "OUTPUT", Rule("RETURN", outside="lo", protocol="tcp", matches=(whole,)))
        for kind, ids in (("--uid-owner", c.uids), ("--gid-owner", c.gids)):
            for owner in ids:
                self.add(
                    "mangle",
                    "OUTPUT",
                    Rule(
                        "MARK",
                        ("--set-xmark", f"{proxy}/0xffffffff"),
                        destination="! " + self.loopback,
                        outside="lo",
                        protocol="tcp",
                        matches=(("owner", kind, owner),),
                    ),
                )
        self.add(
            "mangle",
            "OUTPUT",
            Rule("CONNMARK", ("--restore-mark", *WHOLE_MARK), protocol="tcp", matches=(("connmark", *whole[1:]),)),
        )
        unmarked = ("mark", "!", "--mark", proxy)  # applications of one pod reach each other without the proxy
        for rule in (
            Rule("RETURN", inside="lo", protocol="tcp", matches=(unmarked,)),
            Rule("RETURN", source=self.passthrough, inside="lo", protocol="tcp"),
            Rule("RETURN", protocol="tcp", matches=(whole,)),
        ):
            self.first("mangle", "ISTIO_INBOUND", rule)


def specific(network: str) -> str:
    """A range for a rule; one that matches everything is no condition at all, as the kernel prints it."""
    return "" if network.endswith("/0") else network
