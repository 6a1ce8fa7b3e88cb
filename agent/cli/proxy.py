"""`proxy [role] [flags]`: configuration, logging, early start, then the event loop."""

import gc
import time
from collections.abc import Mapping, Sequence

from agent import logs
from agent.cli.flags import HelpWanted
from agent.settings import load as config_load


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the agent until Envoy is gone for good; returns the exit status."""
    began = time.monotonic()
    # Nothing becomes garbage while modules are imported; the app turns collection on again.
    gc.disable()
    try:
        config = config_load.load(argv, environ)
    except HelpWanted as wanted:
        print(wanted)
        return 0
    log = config.log
    logs.configure(log.levels, log.json, log.targets, log.stacktrace_levels, log.callers, log.repeats)
    default = logs.scope("default")
    for warning in config.warnings:
        default.warning("%s", warning)
    for note in config.notes:
        default.debug("%s", note)
    from agent.boot import boot

    booted = boot(config)
    try:
        from agent.app import serve

        return serve(booted, began)
    finally:
        booted.undo()
