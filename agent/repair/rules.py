"""The redirect rules as the guard sees them: what differs from the plan, and the repair. Blocking calls."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.errors import AttemptError, ConfigError
from agent.record import record
from init import apply, config
from init.errors import InitError
from init.record import replace


@record
class Findings:
    """One phrase each. `harmful`: the plan is not in force; `others`: somebody else's rules that can defeat it."""

    harmful: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Rules(Protocol):
    """What the guard needs of the redirect rules."""

    @property
    def inbound_port(self) -> int:
        """Where the rules lead inbound connections."""

    @property
    def probe_port(self) -> int:
        """A port on which nothing listens."""

    @property
    def proxy_uids(self) -> tuple[range, ...]:
        """The users whose connections the rules take for the proxy's."""

    def look(self) -> Findings:
        """Compare with the plan; AttemptError if the rules cannot be read."""

    def repair(self) -> None:
        """Make them as planned; AttemptError if that fails."""


class PlannedRules:
    """The rules that the init container was asked for, by the same arguments and environment.

    ConfigError: the arguments cannot be used.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        try:
            self._config = config.parse(argv, environ)
        except InitError as error:
            raise ConfigError(f"REDIRECT_ARGS cannot be used: {error}.") from error
        if self._config.cleanup_only or self._config.dry_run or self._config.skip_apply or self._config.help:
            raise ConfigError(
                "REDIRECT_ARGS must be the arguments that the init container applies the rules with, "
                "without --dry-run, --cleanup-only or --skip-rule-apply."
            )

    @property
    def inbound_port(self) -> int:
        return self._config.inbound_port

    @property
    def probe_port(self) -> int:
        return self._config.probe_port

    @property
    def proxy_uids(self) -> tuple[range, ...]:
        spans = [uid.partition("-") for uid in self._config.uids]
        return tuple(range(int(low), int(high or low) + 1) for low, _, high in spans)

    def look(self) -> Findings:
        try:
            state = apply.look(self._config)
        except (InitError, OSError) as error:
            raise AttemptError("verify", str(error)) from error
        found = state.differences
        if not found and not self._config.native:
            # Once everything is flushed nothing tells any more which backend it was in.
            self._config = replace(self._config, backend=state.backend.name)
        return Findings(
            tuple(f"{d.kind} {d.text}" for d in found if d.harmful),
            tuple(f"{d.kind} {d.text}" for d in found if not d.harmful),
        )

    def repair(self) -> None:
        try:
            apply.apply(self._config)
        except (InitError, OSError) as error:
            raise AttemptError("repair", str(error)) from error
