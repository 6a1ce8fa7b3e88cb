"""Native nftables: reading our tables, replacing them in one transaction, and what else in the kernel concerns them."""

from __future__ import annotations

from init import netlink, nftrules
from init.diff import PREFIX as CHAINS
from init.errors import InitError
from init.record import record
from init.restore import FAMILIES, INET, Choice, Place, Tools, find, legacy_tables, read_all, without_commands
from init.rules import RuleSet


@record
class NftBackend:
    """The tables `istio-proxy-*` of family inet, for IPv4 and IPv6 at once."""

    name: str
    tools: Tools

    def command(self) -> str:
        found = self.tools.find("nft")
        if found is None:
            raise InitError("nft is not installed, which rules of --native-nftables need")
        return found

    def read(self, family: int) -> RuleSet:
        """The tables of ours that are in place. Those of others are not even listed: an older nft may stumble."""
        command = self.command()
        there = netlink.own_tables()
        text = "".join(self.tools.run([command, "-s", "-n", "list", "table", "inet", name]) for name in there)
        try:
            return nftrules.parse(text)
        except ValueError as e:
            raise InitError(f"the nftables rules as printed are not understood: {e}") from None

    def load(self, text: str) -> None:
        if text:
            self.tools.run([self.command(), "-f", "-"], text)

    def apply(self, family: int, want: RuleSet, have: RuleSet) -> None:
        """Make our tables those of `want`, all in one transaction."""
        self.load(nftrules.transition(have, want))

    def cleanup(self, family: int, have: RuleSet, known: RuleSet | None = None) -> None:
        """Remove all our tables in one transaction."""
        self.load(nftrules.transition(have, RuleSet()))

    def rollback(self, family: int, before: RuleSet, tried: RuleSet) -> None:
        """Bring back our tables as they were; one that has not changed is left alone."""
        self.load(nftrules.transition(self.read(family), before))


def leftover(tools: Tools) -> Place:
    """Our native tables, for a run that wants the rules in iptables."""
    backend = NftBackend("nftables", tools)
    return Place(backend, {INET: backend.read(INET)})


def choose(tools: Tools) -> Choice:
    """The native backend, with what of ours is left in the tables of iptables, whichever kind.

    Only chains of ours count there. Where the kernel shows none, iptables is not asked and need not be installed.
    """
    if netlink.nft_tables() is None:
        raise InitError("the kernel has no nftables, which --native-nftables needs: load its module on the node")
    backend = NftBackend("nftables", tools)
    stale = []
    for name, wanted in (("nft", _in_nft()), ("legacy", any(map(legacy_tables, FAMILIES)))):
        if wanted and (place := _iptables(name, tools)):
            stale.append(place)
    return Choice(backend, {INET: backend.read(INET)}, tuple(stale))


def _in_nft() -> bool:
    return any(c.family in ("ip", "ip6") and c.name.startswith(CHAINS) for c in netlink.nft_chains())


def _iptables(name: str, tools: Tools) -> Place | None:
    """Our rules in the tables of one kind of iptables, None without any."""
    backend = find(name, tools) or (without_commands(tools) if name == "legacy" else None)
    if backend is None:
        raise InitError(f"iptables-{name}-restore is not installed, and rules of ours in its tables must be removed")
    have = read_all(backend, {})
    ours = any(c.name.startswith(CHAINS) for rules in have.values() for t in rules.tables for c in t.chains)
    return Place(backend, have) if ours else None
