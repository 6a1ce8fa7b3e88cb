"""`request METHOD PATH [BODY]`: one call to Envoy's or the agent's local port. Prints the body and nothing else."""

import os
import sys
from collections.abc import Mapping, Sequence

from agent.cli.flags import Flag, FlagSet
from agent.cli.http import HttpError, Url, fetch
from agent.errors import ConfigError

PORTS = (15000, 15004, 15020, 15021)
TIMEOUT = 60.0
FLAGS = FlagSet(
    "pilot-agent request <method> <path> [<body>]",
    (Flag("debug-port", 15000, "local port to call: 15000 (Envoy), 15020 (agent), 15021 or 15004"),),
    about="Call Envoy's admin port or the agent's status port and print the answer.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 for an answer below 400 (and for 404, as istio's agent does); ConfigError (255) for everything else."""
    args = FLAGS.parse(argv)
    port = args["debug-port"]
    if port not in PORTS:
        raise ConfigError(f"--debug-port {port} is not allowed: use one of {', '.join(map(str, PORTS))}")
    if not 2 <= len(args.words) <= 3:
        raise ConfigError(f"request needs a method, a path and perhaps a body, not {len(args.words)} words")
    method, path, body = (*args.words, "")[:3]
    if not method.isascii() or not method.replace("-", "").isalnum():
        raise ConfigError(f"{method!r} is not an HTTP method")
    shown = f"http://localhost:{port}/{path.removeprefix('/')}"
    try:
        status, answer = fetch(method, Url(shown), os.fsencode(body), TIMEOUT)
    except HttpError as e:
        raise ConfigError(f"{method} {shown} failed: {e}") from None
    if status > 399 and status != 404:
        detail = answer.decode("utf-8", "replace").strip()
        raise ConfigError(f"{method} {shown} was answered with status {status}{': ' + detail if detail else ''}")
    sys.stdout.buffer.write(answer + b"\n")
    return 0
