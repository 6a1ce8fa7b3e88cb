"""`certs`: which certificates the running agent holds, how long they last, when they are renewed, what went wrong."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.certtext import page, usable
from agent.cli.control import PORT, question, rows_of
from agent.cli.flags import Flag, FlagSet
from agent.errors import FatalError

PAGE = "/debug/certs"
FLAGS = FlagSet(
    "remora-agent certs",
    (PORT, Flag("json", False, "print what the agent answers, as JSON")),
    about="Show the certificates that Envoy is served by the running agent, and how their renewal goes.\n"
    "Exit 0 if each of them is valid now, 1 if one is not (yet, or any more), 2 if the agent could not be asked.",
)


class NotAsked(FatalError):
    """Nothing is known of the certificates, good or bad."""

    exit_code = 2


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 if every certificate that is served is valid, 1 if one is not. NotAsked (2): no agent answers."""
    try:
        args, rows = question(FLAGS, argv, environ, PAGE, rows_of("name", "source", "roots"))
        return _show(rows, bool(args["json"]), environ)
    except (AttributeError, KeyError, TypeError):
        raise NotAsked("what listens on the status port is no agent: its certificates are none") from None
    except FatalError as e:
        raise NotAsked(str(e)) from None


def _show(rows: Sequence[Mapping[str, Any]], as_json: bool, environ: Mapping[str, str]) -> int:
    now = time.time()
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        width = _width()
        colour = width > 0 and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        sys.stdout.write("\n".join(page(rows, now, width, colour)) + "\n")
    served = [row for row in rows if row.get("served", True)]
    return 0 if served and all(usable(row, now) for row in served) else 1


def _width() -> int:
    """Columns of the terminal; 0 where nobody looks on: whoever reads lines gets whole ones."""
    try:
        return max(40, os.get_terminal_size(sys.stdout.fileno()).columns) if sys.stdout.isatty() else 0
    except (OSError, ValueError):
        return 0
