"""`version`: which program this is, for people (-s), scripts (-o json|yaml) and bug reports."""

import sys
from collections.abc import Mapping, Sequence

from agent.cli.flags import Flag, FlagSet
from agent.errors import ConfigError
from agent.version import ISTIO_VERSION, VERSION

FLAGS = FlagSet(
    "pilot-agent version",
    (
        Flag("short", False, "print the version alone", short="s"),
        Flag("output", "", "json or yaml", short="o"),
    ),
    about="Print the version.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0, or ConfigError (255) for an output format that does not exist."""
    args = FLAGS.parse(argv)
    python = ".".join(map(str, sys.version_info[:3]))
    info = {
        "version": VERSION,
        "revision": "unknown",
        "status": "Released",
        "tag": VERSION,
        "python_version": python,
        "istio_version": ISTIO_VERSION,
    }
    if args["output"] == "json":
        import json

        print(json.dumps({"clientVersion": info}, indent=2))
    elif args["output"] == "yaml":
        print("clientVersion:")
        for key, value in info.items():
            print(f'  {key}: "{value}"')
    elif args["output"]:
        raise ConfigError(f"--output {args['output']!r} is not supported: use json or yaml")
    elif args["short"]:
        print(f"client version: {VERSION}")
    else:
        print(f"client version: {VERSION} (remora; matches istio {ISTIO_VERSION}; Python {python})")
    return 0
