"""`proxy [role] [flags]`: configuration, logging, early start, then the event loop."""

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.deferred import stand_in
from agent.signals import EarlySignals, EndWanted

if TYPE_CHECKING:
    from agent.config import AgentConfig

# What logging, asyncio and subprocess import for errors, debugging and text: Envoy does not wait for it.
SELDOM = ("inspect", "textwrap", "tokenize", "locale", "calendar")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the agent until Envoy is gone for good; returns the exit status."""
    began = time.monotonic()
    signals = EarlySignals()  # ahead of the imports: reading the configuration may wait for addresses and names
    # Nothing becomes garbage while modules are imported; the app turns collection on again.
    gc.disable()
    stand_in(*SELDOM)
    try:
        config = _configure(argv, environ)
        signals.keep()
    except EndWanted as signal:
        print(f"The agent was asked to end by {signal} before it had started anything.", file=sys.stderr)
        return 0
    from agent.boot import boot

    booted = boot(config, signals)
    try:
        from agent.app import serve

        return serve(booted, began)
    finally:
        booted.undo()


def _configure(argv: Sequence[str], environ: Mapping[str, str]) -> "AgentConfig":
    """The configuration, and the log as it wants it."""
    from agent import logs
    from agent.settings import load as config_load

    config = config_load.load(argv, environ)
    log = config.log
    logs.configure(log.levels, log.json, log.targets, log.stacktrace_levels, log.callers, log.repeats)
    default = logs.scope("default")
    for warning in config.warnings:
        default.warning("%s", warning)
    for note in config.notes:
        default.debug("%s", note)
    return config
