"""Apply, verify and clean up: the plan against the kernel, with nothing changed when a run fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from init import change, netlink, restore, routes
from init.diff import Difference, diff, is_own_chain, owned
from init.errors import InitError
from init.plan import Plan, plan
from init.record import record
from init.record import replace as changed
from init.restore import INET, Tools
from init.rules import RuleSet
from init.settings import InitConfig

NOTHING = RuleSet()


@record
class Outcome:
    """What a run did: `changed` tells whether anything was written, `rules` how many rules of the plan are in force,
    `after` all rules of the backend, also foreign ones, by family."""

    changed: bool
    backend: str
    rules: int
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    after: Mapping[int, RuleSet] = MappingProxyType({})


@record
class State:
    """A plan, the backend, and what is there."""

    plan: Plan
    choice: restore.Choice
    differences: tuple[Difference, ...]
    steps: tuple[routes.Step, ...]
    native: RuleSet = NOTHING  # the plan as rules of both families at once, when that is what the backend takes

    def of(self, family: int) -> RuleSet:
        """The planned rules of a family."""
        return self.native if family == INET else self.plan.of(family)

    def count(self) -> int:
        """How many rules are planned."""
        return sum(self.of(f).count() for f in self.families)

    @property
    def backend(self) -> restore.Backend:
        return self.choice.backend

    @property
    def families(self) -> tuple[int, ...]:
        return tuple(self.choice.have)


def tools(config: InitConfig) -> Tools:
    return Tools(config.path, lock_file=config.namespace if config.cni_mode else "", libraries=config.libraries)


def look(config: InitConfig, *, clean: bool = False) -> State:
    """Read everything and compare it with the plan. Writes nothing."""
    if not restore.has_capability():
        raise InitError("the capability NET_ADMIN is missing: packet rules can neither be read nor changed")
    planned = plan(config)
    choice, native = choose(config, planned)
    state = State(planned, choice, (), (), native)
    found: list[Difference] = []
    for family, have in choice.have.items():
        found += differences(family, state.of(family), have)
    found += [Difference("foreign-ahead", text) for text in netlink.ahead(netlink.nft_chains(), native=config.native)]
    everything = list(choice.have.items())
    for place in choice.stale:
        everything += place.have.items()
        count = sum(ours(family, have) for family, have in place.have.items())
        found.append(Difference("stale-backend", f"{count} rules of ours are in the {place.backend.name} tables too"))
    marks = {m for _, have in everything for m in routes.marks(have)}
    own6 = any(_has_six(family, have) for family, have in everything)
    want = planned.routes
    if clean:
        want = type(want)(want.mark, want.table)
    steps = tuple(routes.steps(want, marks, clear6=clean or own6))
    found += [Difference("route", step.text()) for step in steps]
    return changed(state, differences=tuple(found), steps=steps)


def choose(config: InitConfig, planned: Plan) -> tuple[restore.Choice, RuleSet]:
    """The backend, and the plan for it when it keeps both families in one."""
    run = tools(config)
    if config.native:
        from init import nft, nftrules

        return nft.choose(run), nftrules.native(planned)
    known = {4: planned.v4} | ({6: planned.v6} if planned.v6 is not None else {})
    choice = restore.choose(config.backend, run, known)
    if netlink.own_tables():
        from init import nft

        choice = changed(choice, stale=(*choice.stale, nft.leftover(run)))
    return choice, NOTHING


def differences(family: int, want: RuleSet, have: RuleSet) -> list[Difference]:
    """How the rules of a family deviate from the planned ones."""
    if family == INET:
        from init import nftrules

        return nftrules.diff(want, have)
    return _family(family, diff(want, have))


def ours(family: int, have: RuleSet, known: RuleSet = NOTHING) -> int:
    """How many rules are ours; all in native tables are."""
    return have.count() if family == INET else owned(have, known).count()


def moves(family: int, have: RuleSet, want: RuleSet | None, known: RuleSet) -> bool:
    """Whether anything is written to get from `have` to `want`, or to remove all that is ours."""
    if family == INET:
        return have != (want or NOTHING)
    return bool(change.removal(have, known) if want is None else change.transition(have, want))


def _has_six(family: int, rules: RuleSet) -> bool:
    """Whether these are rules of ours for IPv6."""
    if family == INET:
        return any(r.source == routes.PASSTHROUGH6 + "/128" for _, _, r in rules.each())
    return family == 6 and _has_chains(rules)


def _has_chains(rules: RuleSet) -> bool:
    return any(is_own_chain(c.name) for t in rules.tables for c in t.chains)


def _family(family: int, found: Iterable[Difference]) -> list[Difference]:
    return [Difference(d.kind, f"IPv{family} {d.text}") for d in found]


def verify(config: InitConfig) -> list[Difference]:
    """Every deviation of the kernel from the plan; an empty list means that the plan is in force."""
    return list(look(config).differences)


def apply(config: InitConfig, *, replace: bool = True) -> Outcome:
    """Put the plan in force. Equal: nothing is written. Without `replace`, other rules of ours are not replaced but
    refused. Raises InitError after everything is as it was before."""
    state = look(config)
    todo = [d for d in state.differences if d.harmful or (replace and d.kind == "leftover")]
    warnings = config.warnings + tuple(d.text for d in state.differences if d not in todo)
    count = state.count()
    if not todo:
        return Outcome(False, state.backend.name, count, state.differences, warnings, state.choice.have)
    if not replace and not config.native and occupied(state):
        raise InitError(
            f"other rules of ours are in place ({todo[0].text}): use --reconcile to replace them, nothing was changed"
        )
    wanted = {family: state.of(family) for family in state.families}
    after = _transact(state, wanted)
    return Outcome(True, state.backend.name, count, state.differences, warnings, after)


def occupied(state: State) -> bool:
    """Whether rules of ours are in iptables already, in any family or backend."""
    everything = [state.choice.have, *(place.have for place in state.choice.stale)]
    return any(family != INET and ours(family, rules) for have in everything for family, rules in have.items())


def cleanup(config: InitConfig) -> Outcome:
    """Remove all that is ours from every backend, with the routes and addresses that belong to it."""
    state = look(config, clean=True)
    there = bool(state.choice.stale) or any(moves(f, have, None, state.of(f)) for f, have in state.choice.have.items())
    after = _transact(state, None)
    return Outcome(there or bool(state.steps), state.backend.name, 0, (), config.warnings, after)


def _transact(state: State, wanted: Mapping[int, RuleSet] | None) -> dict[int, RuleSet]:
    """Change the rules (to `wanted`, or away) and then, or before, the routes; on any failure put everything back.
    Gives the rules that are in place afterwards, by family."""
    touched: list[tuple[restore.Backend, int, RuleSet]] = []
    done: list[routes.Step] = []
    after = dict(state.choice.have)
    try:
        routes.perform((s for s in state.steps if s.add), done)
        for family, have in state.choice.have.items():
            target = NOTHING if wanted is None else wanted[family]
            touched.append((state.backend, family, have))
            if wanted is None:
                state.backend.cleanup(family, have, state.of(family))
            else:
                state.backend.apply(family, target, have)
        for place in state.choice.stale:
            for family, have in place.have.items():
                touched.append((place.backend, family, have))
                place.backend.cleanup(family, have, state.of(family))
        for backend, family, have in touched:
            now = _confirm(state, backend, family, have, wanted)
            if backend is state.backend:
                after[family] = now
        routes.perform((s for s in state.steps if not s.add), done)
    except BaseException as e:  # also when this process is told to stop half-way
        left = _undo(state, touched, done)
        if not isinstance(e, InitError):
            raise
        raise InitError(f"{e}; " + (f"and putting back failed: {left}" if left else "nothing was changed")) from None
    return after


def _confirm(
    state: State, backend: restore.Backend, family: int, have: RuleSet, wanted: Mapping[int, RuleSet] | None
) -> RuleSet:
    """Read back what was written; nothing is believed because of an exit code. Gives the rules in place."""
    planned = state.of(family)
    want = planned if wanted is not None and backend is state.backend else None
    if not moves(family, have, want, planned):
        return have
    now = backend.read(family)
    rest = ours(family, now) if want is None else sum(d.harmful for d in differences(family, want, now))
    if rest:
        what = f"of IPv{family} " if family != INET else ""
        raise InitError(f"the {backend.name} rules {what}are not what was written: another program writes too")
    return now


def _undo(tried: State, touched: list[tuple[restore.Backend, int, RuleSet]], done: list[routes.Step]) -> str:
    """Bring back the state before; the answer names what could not be brought back."""
    failed = []
    for backend, family, before in reversed(touched):
        try:
            backend.rollback(family, before, tried.of(family))
        except InitError as e:
            failed.append(str(e))
    failed += routes.undo(done)
    return "; ".join(failed)
