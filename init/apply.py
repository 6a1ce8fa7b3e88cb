"""Apply, verify and clean up: the plan against the kernel, with nothing changed when a run fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from init import change, restore, routes
from init.diff import Difference, diff, is_own_chain, owned
from init.errors import InitError
from init.plan import Plan, plan
from init.record import record
from init.restore import Tools
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
    if config.native:
        raise InitError("--native-nftables is not supported: leave it out to use iptables")
    if not restore.has_capability():
        raise InitError("the capability NET_ADMIN is missing: packet rules can neither be read nor changed")
    planned = plan(config)
    known = {4: planned.v4} | ({6: planned.v6} if planned.v6 is not None else {})
    choice = restore.choose(config.backend, tools(config), known)
    found: list[Difference] = []
    for family, have in choice.have.items():
        found += _family(family, diff(planned.of(family), have))
    for rules in choice.stale_have.values():
        count = owned(rules, NOTHING).count()
        if count:
            name = choice.stale.name if choice.stale else ""
            found.append(Difference("stale-backend", f"{count} rules of ours are in the {name} tables too"))
    everything = [*choice.have.items(), *choice.stale_have.items()]
    marks = {m for _, have in everything for m in routes.marks(have)}
    own6 = any(f == 6 and _has_chains(have) for f, have in everything)
    want = planned.routes
    if clean:
        want = type(want)(want.mark, want.table)
    steps = tuple(routes.steps(want, marks, clear6=clean or own6))
    found += [Difference("route", step.text()) for step in steps]
    return State(planned, choice, tuple(found), steps)


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
    count = state.plan.count()
    if not todo:
        return Outcome(False, state.backend.name, count, state.differences, warnings, state.choice.have)
    if not replace and occupied(state):
        raise InitError(
            f"other rules of ours are in place ({todo[0].text}): use --reconcile to replace them, nothing was changed"
        )
    wanted = {family: state.plan.of(family) for family in state.families}
    after = _transact(state, wanted)
    return Outcome(True, state.backend.name, count, state.differences, warnings, after)


def occupied(state: State) -> bool:
    """Whether rules of ours are there already, in any family or backend."""
    everything = [*state.choice.have.values(), *state.choice.stale_have.values()]
    return any(owned(have, NOTHING).count() for have in everything)


def cleanup(config: InitConfig) -> Outcome:
    """Remove all that is ours from both backends, with the routes and addresses that belong to it."""
    state = look(config, clean=True)
    changed = state.choice.stale is not None or any(
        _has_chains(have) or owned(have, state.plan.of(f)).count() for f, have in state.choice.have.items()
    )
    after = _transact(state, None)
    return Outcome(changed or bool(state.steps), state.backend.name, 0, (), config.warnings, after)


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
                state.backend.cleanup(family, have, state.plan.of(family))
            else:
                state.backend.apply(family, target, have)
        for family, have in state.choice.stale_have.items():
            if state.choice.stale is not None:
                touched.append((state.choice.stale, family, have))
                state.choice.stale.cleanup(family, have, state.plan.of(family))
        for backend, family, have in touched:
            now = _confirm(state, backend, family, have, wanted)
            if backend is state.backend:
                after[family] = now
        routes.perform((s for s in state.steps if not s.add), done)
    except BaseException as e:  # also when this process is told to stop half-way
        left = _undo(state.plan, touched, done)
        if not isinstance(e, InitError):
            raise
        raise InitError(f"{e}; " + (f"and putting back failed: {left}" if left else "nothing was changed")) from None
    return after


def _confirm(
    state: State, backend: restore.Backend, family: int, have: RuleSet, wanted: Mapping[int, RuleSet] | None
) -> RuleSet:
    """Read back what was written; nothing is believed because of an exit code. Gives the rules in place."""
    planned = state.plan.of(family)
    going = wanted is None or backend is state.choice.stale
    if not (change.removal(have, planned) if going else change.transition(have, planned)):
        return have
    now = backend.read(family)
    rest = owned(now, NOTHING).count() if going else sum(d.harmful for d in diff(planned, now))
    if rest:
        raise InitError(f"the {backend.name} rules of IPv{family} are not what was written: another program writes too")
    return now


def _undo(tried: Plan, touched: list[tuple[restore.Backend, int, RuleSet]], done: list[routes.Step]) -> str:
    """Bring back the state before; the answer names what could not be brought back."""
    failed = []
    for backend, family, before in reversed(touched):
        try:
            backend.rollback(family, before, tried.of(family))
        except InitError as e:
            failed.append(str(e))
    failed += routes.undo(done)
    return "; ".join(failed)
