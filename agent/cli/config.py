"""`config show` and `config check`: what the agent would run with, why, and whether it would start at all."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby

from agent.cli.flags import PROXY, Flag, FlagSet, HelpWanted, Parsed
from agent.errors import ConfigError

FLAGS = FlagSet(
    "remora-agent config show|check [role]",
    (*PROXY.own, Flag("json", False, "print JSON")),
    about="show: every setting, its value and where it came from. check: would the agent start with this?\n"
    "Give it the role and flags that `proxy` gets; environment and files are those of this process.",
    ignore_unknown=True,
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0; 255 (or ConfigError) for a configuration that cannot work."""
    try:
        args = FLAGS.parse(argv)
    except HelpWanted as wanted:
        print(wanted)
        return 0
    if not args.words or args.words[0] not in ("show", "check"):
        raise ConfigError("config needs to know what to do: config show or config check")
    values = {name: value for name, value in args.values.items() if name != "json"}
    proxy = Parsed(values, args.given, args.words[1:], args.unknown)
    return (_show if args.words[0] == "show" else _check)(proxy, environ, args["json"])


def _show(args: Parsed, environ: Mapping[str, str], as_json: bool) -> int:
    from agent.settings import load as config_load
    from agent.settings.show import settings

    rows = settings(config_load.load(args, environ))
    if as_json:
        print(
            json.dumps([{n: getattr(row, n) for n in ("group", "name", "value", "source")} for row in rows], indent=2)
        )
        return 0
    for group, members in groupby(rows, key=lambda row: row.group):
        listed = list(members)
        print(f"{group}:")
        width = max(len(row.name) for row in listed)
        for row in listed:
            value = row.value if isinstance(row.value, str) and row.value else json.dumps(row.value, ensure_ascii=False)
            print(f"  {row.name:{width}}  {'-' if row.value is None else _one_line(value)}  ({row.source})")
    return 0


def _one_line(text: str) -> str:
    """Control characters escaped, and bytes that are no text replaced: a row is a row."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode("utf-8", "replace").decode()


def _check(args: Parsed, environ: Mapping[str, str], as_json: bool) -> int:
    from agent.settings.check import check

    report = check(args, environ)
    if as_json:
        print(json.dumps({"problems": report.problems, "warnings": report.warnings}, indent=2))
    else:
        for warning in report.warnings:
            print(f"warning: {warning}")
        for problem in report.problems:
            print(f"Error: {problem}", file=sys.stderr)
        if not report.problems:
            print("The configuration is usable.")
    return 255 if report.problems else 0
