"""The two iptables backends: reading with `iptables-save`, writing with one atomic `iptables-restore --noflush`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from init import change, process
from init.diff import owned
from init.errors import InitError
from init.record import record
from init.rules import RuleSet, parse
from init.trouble import LOCK_WAIT, explain

FAMILIES = (4, 6)
INET = 0  # stands for both families where a backend keeps them in one set of rules
COMMAND_LIMIT = 30.0  # seconds for a command, beyond that wait
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
NO_NFT = "Failed to initialize nft"  # what the nft commands say on a kernel without nf_tables
NET_ADMIN = 12  # the number of CAP_NET_ADMIN


TYPE_CHECKING = False  # as in typing, whose import would cost more than all of this package
if TYPE_CHECKING:
    from typing import Protocol

    class Backend(Protocol):
        """Somewhere rules live."""

        @property
        def name(self) -> str: ...
        def read(self, family: int) -> RuleSet: ...
        def apply(self, family: int, want: RuleSet, have: RuleSet) -> None: ...
        def cleanup(self, family: int, have: RuleSet, known: RuleSet | None = None) -> None: ...
        def rollback(self, family: int, before: RuleSet, tried: RuleSet) -> None: ...


@record
class Tools:
    """Finding and running commands with a time limit and a small environment."""

    path: str = ""
    limit: float = COMMAND_LIMIT
    lock_file: str = ""
    lock_wait: float = LOCK_WAIT
    libraries: tuple[tuple[str, str], ...] = ()  # environment variables that lead to the libraries of iptables

    def find(self, name: str) -> str | None:
        for folder in f"{self.path}:{SYSTEM_PATH}".split(":"):
            candidate = f"{folder}/{name}"
            if folder and os.access(candidate, os.X_OK):
                return candidate
        return None

    def run(
        self,
        argv: Sequence[str],
        text: str = "",
        extra: float = 0.0,
        more: Sequence[tuple[str, str]] = (),
        name: str = "",
    ) -> str:
        """Standard output of a command with `extra` seconds and `more` variables, called `name` in messages. Raises
        InitError with one sentence."""
        environ = {"PATH": f"{self.path}:{SYSTEM_PATH}".strip(":"), "LC_ALL": "C", **dict(more)}
        if self.lock_file:
            environ["XTABLES_LOCKFILE"] = self.lock_file
        name = name or argv[0].rpartition("/")[2]
        limit = self.limit + extra
        try:
            code, out, err = process.run(argv, text, limit, environ)
        except process.Overdue:
            raise InitError(f"{name} did not finish within {limit:g} seconds and was stopped") from None
        except OSError as e:
            raise InitError(f"{name} cannot be run: {e.strerror}") from None
        if code != 0:
            raise InitError(explain(name, code, err, text, self.lock_wait))
        return out


@record
class RestoreBackend:
    """iptables and ip6tables of one kind: `nft` or `legacy`. `commands` are (save, restore) by family."""

    name: str
    tools: Tools
    commands: Mapping[int, tuple[str, str]]

    def command(self, family: int, which: int) -> str:
        if family in self.commands:
            return self.commands[family][which]
        stem = "iptables" if family == 4 else "ip6tables"
        raise InitError(f"{stem}-{self.name} is not installed, which the rules of IPv{family} need")

    def read(self, family: int) -> RuleSet:
        """The rules in place. A legacy table that nobody uses is not looked at: looking would create it."""
        if self.name == "legacy" and not legacy_tables(family):
            return RuleSet()
        text = self.save(family)
        try:
            return parse(text)
        except ValueError as e:
            raise InitError(f"the {self.name} rules of IPv{family} as printed are not understood: {e}") from None

    def save(self, family: int) -> str:
        return self.tools.run([self.command(family, 0)])

    def restore(self, family: int, text: str) -> None:
        if text:
            self.load(family, text)

    def load(self, family: int, text: str) -> None:
        command = [self.command(family, 1), "--noflush"]
        legacy = self.name == "legacy"
        if legacy:
            command += ["-w", str(self.tools.lock_wait)]
        self.tools.run(command, text, extra=self.tools.lock_wait if legacy else 0)

    def apply(self, family: int, want: RuleSet, have: RuleSet) -> None:
        """Make our rules those of `want`; `have` is what `read` gave."""
        self.restore(family, change.transition(have, want))

    def cleanup(self, family: int, have: RuleSet, known: RuleSet | None = None) -> None:
        """Remove all that is ours; rules of `known` count as ours even where only a plan tells."""
        self.restore(family, change.transition(have, RuleSet()) if known is None else change.removal(have, known))

    def rollback(self, family: int, before: RuleSet, tried: RuleSet) -> None:
        """Bring back our part of `before` after a change to `tried` that may have happened in part."""
        self.restore(family, change.rollback(self.read(family), before, tried))


def legacy_tables(family: int) -> tuple[str, ...]:
    """Legacy tables that exist in this namespace; none when the kernel has no legacy tables or does not tell."""
    try:
        with open(f"/proc/thread-self/net/ip{'' if family == 4 else '6'}_tables_names", encoding="utf-8") as f:
            return tuple(f.read().split())
    except OSError:
        return ()


def has_capability(number: int = NET_ADMIN) -> bool:
    """Whether this process holds a capability effectively."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as f:
        for line in f:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return True


def find(name: str, tools: Tools) -> RestoreBackend | None:
    """The backend of this kind, when at least its IPv4 commands are installed."""
    commands: dict[int, tuple[str, str]] = {}
    for family, stem in ((4, "iptables"), (6, "ip6tables")):
        save, restore = tools.find(f"{stem}-{name}-save"), tools.find(f"{stem}-{name}-restore")
        if not save or not restore:  # a system with one kind only does not name it
            save, restore = tools.find(f"{stem}-save"), tools.find(f"{stem}-restore")
            if not save or not restore or kind(save, tools) != name:
                continue
        commands[family] = (save, restore)
    return RestoreBackend(name, tools, commands) if 4 in commands else None


def kind(command: str, tools: Tools) -> str:
    return "nft" if "nf_tables" in tools.run([command, "--version"]) else "legacy"


@record
class Place:
    """A backend and what it holds now, by family."""

    backend: Backend
    have: Mapping[int, RuleSet]


@record
class Choice:
    """The backend to program with what it holds now, and others that hold something of ours."""

    backend: Backend
    have: Mapping[int, RuleSet]
    stale: tuple[Place, ...] = ()


def choose(forced: str, tools: Tools, known: Mapping[int, RuleSet]) -> Choice:
    """Pick the backend: the forced one; else where our rules are; else legacy where legacy rules are; else nft.

    Rules are counted, not tables: an empty table proves nothing. `known` are planned rules, by family.
    """
    found = {name: b for name in ("nft", "legacy") if (b := find(name, tools))}
    if "legacy" not in found and (forced == "legacy" or (not found and any(map(legacy_tables, FAMILIES)))):
        found["legacy"] = without_commands(tools)
    if forced and forced not in found:
        raise InitError(f"iptables-{forced}-save and iptables-{forced}-restore are not installed")
    if not found:
        raise InitError("iptables is not installed: neither its nft nor its legacy commands were found")
    have: dict[str, dict[int, RuleSet]] = {}
    for name, backend in found.items():
        try:
            have[name] = read_all(backend, known)
        except InitError as e:
            # Only a kernel without nf_tables is a reason to go on: rules that cannot be read may well be there.
            if name == forced or NO_NFT not in str(e) or (len(found) == 1 and not any(map(legacy_tables, FAMILIES))):
                raise
    if not have:
        found["legacy"] = without_commands(tools)
        have["legacy"] = read_all(found["legacy"], known)
    ours = [n for n in have if any(owned(r, known.get(f, RuleSet())).count() for f, r in have[n].items())]
    if forced:
        name = forced
    elif len(ours) == 1:
        name = ours[0]
    elif "legacy" in have and any(r.count() for r in have["legacy"].values()):
        name = "legacy"
    else:
        name = next(iter(have))
    return Choice(found[name], have[name], tuple(Place(found[n], have[n]) for n in ours if n != name))


def without_commands(tools: Tools) -> RestoreBackend:
    """Legacy tables through a library, for want of the commands."""
    from init import legacy

    return legacy.backend(tools)


def read_all(backend: Backend, known: Mapping[int, RuleSet]) -> dict[int, RuleSet]:
    """Rules of both families; a family that is not planned may be unreadable."""
    have: dict[int, RuleSet] = {}
    for family in FAMILIES:
        try:
            have[family] = backend.read(family)
        except InitError:
            if family in known or family == 4:
                raise
    return have
