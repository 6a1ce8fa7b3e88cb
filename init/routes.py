"""Policy routing for TPROXY and the passthrough address of IPv6: exactly what the plan wants, whatever was there."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from init import netlink
from init.errors import InitError
from init.plan import Routes
from init.record import record
from init.rules import RuleSet

PASSTHROUGH6 = "::6"
UNDONE = (errno.EEXIST, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)  # how the kernel says that it is so already


@record
class Step:
    """One change: kind is rule, route or address; family, mark and table where they apply."""

    kind: str
    add: bool
    family: int = 6
    mark: int = 0
    table: int = 0

    def text(self) -> str:
        what = {
            "rule": f"IPv{self.family} rule fwmark 0x{self.mark:x} lookup {self.table}",
            "route": f"IPv{self.family} route local default dev lo table {self.table}",
            "address": f"address {PASSTHROUGH6} on lo",
        }[self.kind]
        return what + (" is missing" if self.add else " is not part of the plan")

    def run(self, *, undo: bool = False) -> None:
        add = self.add != undo
        if self.kind == "rule":
            netlink.change_rule(self.family, self.mark, self.table, add=add)
        elif self.kind == "route":
            netlink.change_route(self.family, self.table, add=add)
        else:
            netlink.change_address(PASSTHROUGH6, add=add)


def marks(have: RuleSet) -> set[int]:
    """The marks that TPROXY rules of ours in place use."""
    found = set()
    for rule in have.table("mangle").rules("ISTIO_TPROXY"):
        if "--tproxy-mark" in rule.options[:-1]:
            text = rule.options[rule.options.index("--tproxy-mark") + 1].partition("/")[0]
            found.add(int(text, 16) if text.startswith("0x") else 0)
    return found - {0}


def steps(want: Routes, stale_marks: Iterable[int], *, clear6: bool) -> list[Step]:
    """What has to change. Rules with the plan's mark and table, or with a stale mark, are ours; `clear6` says that
    ::6 on lo is ours too when the plan does not want it."""
    marked = set(stale_marks)
    found: list[Step] = []
    for family in (4, 6):
        wanted = family in want.families
        tables = set(netlink.local_defaults(family))
        rules = netlink.rules(family)
        ours = [r for r in rules if r == (want.mark, want.table) or (r[0] in marked and r[1] in tables)]
        keep = (want.mark, want.table) if wanted else None
        if wanted and want.table not in tables:
            found.append(Step("route", True, family, table=want.table))
        if keep and keep not in ours:
            found.append(Step("rule", True, family, *keep))
        for n, rule in enumerate(ours):
            if rule != keep or keep in ours[:n]:
                found.append(Step("rule", False, family, *rule))
        for table in sorted(({t for _, t in ours} | {want.table}) & tables):
            if not wanted or table != want.table:
                found.append(Step("route", False, family, table=table))
    there = any(i == netlink.LO and a == PASSTHROUGH6 for i, a in netlink.addresses())
    if want.passthrough6 and not there:
        found.append(Step("address", True))
    elif there and clear6 and not want.passthrough6:
        found.append(Step("address", False))
    return found


def perform(todo: Iterable[Step], done: list[Step]) -> None:
    """Do the steps in order, each noted in `done` before it happens: a caller that is stopped in the middle takes back
    what may have happened. Raises InitError for one that fails, which is not noted."""
    for step in todo:
        done.append(step)
        try:
            step.run()
        except OSError as e:
            done.pop()
            verb = "added" if step.add else "removed"
            what = step.text().partition(" is ")[0]
            why = e.strerror
            if step.kind == "address" and e.errno == errno.EACCES:
                why = "IPv6 is disabled on lo (net.ipv6.conf.lo.disable_ipv6)"
            raise InitError(f"the {what} cannot be {verb}: {why}") from None


def undo(done: list[Step]) -> list[str]:
    """Take back steps, last first; the answer names what could not be taken back."""
    failed = []
    for step in reversed(done):
        try:
            step.run(undo=True)
        except OSError as e:
            if e.errno in UNDONE:
                continue
            failed.append(f"{step.text().partition(' is ')[0]}: {e.strerror}")
    return failed
