"""`config show` and `config check`: what the agent would run with, why, and whether it would start at all."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby

from agent.cli.control import PORT, get_json, port_of, rows_of
from agent.cli.flags import PROXY, Flag, FlagSet, Parsed
from agent.errors import ConfigError
from agent.text import one_line

OWN = (
    Flag("json", False, "print JSON"),
    Flag("running", False, "show: the settings of the running agent; check: it runs, so its ports are taken"),
    PORT,
)
FLAGS = FlagSet(
    "remora-agent config show|check [role]",
    (*PROXY.own, *OWN),
    about="show: every setting, its value and where it came from. check: would the agent start with this, are its\n"
    "ports free, and do those of the agent and of Envoy's bootstrap differ? Give it the role and flags that `proxy`\n"
    "gets; environment and files are those of this process. With --running, `show` asks the agent itself instead.",
    ignore_unknown=True,
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0; 255 (or ConfigError) for a configuration that cannot work, FatalError (1) if no agent answers."""
    args = FLAGS.parse(argv)
    if not args.words or args.words[0] not in ("show", "check"):
        raise ConfigError("config needs to know what to do: config show or config check")
    own = {flag.name for flag in OWN}
    values = {name: value for name, value in args.values.items() if name not in own}
    proxy = Parsed(values, args.given - own, args.words[1:], args.unknown)
    return (_show if args.words[0] == "show" else _check)(args, proxy, environ)


def _show(args: Parsed, proxy: Parsed, environ: Mapping[str, str]) -> int:
    if args["running"]:
        if proxy.words or proxy.given or proxy.unknown:
            raise ConfigError("config show --running asks the agent, which has its role and flags: leave them out")
        rows = get_json(port_of(args, environ), "/debug/config", rows_of("group", "name", "value", "source"))
    else:
        from agent.settings import load as config_load
        from agent.settings.show import as_json

        rows = json.loads(as_json(config_load.load(proxy, environ)))
    if args["json"]:
        print(json.dumps(rows, indent=2))
        return 0
    for group, members in groupby(rows, key=lambda row: str(row["group"])):
        listed = list(members)
        print(f"{group}:")
        width = max(len(row["name"]) for row in listed)
        for row in listed:
            value = row["value"]
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            print(f"  {row['name']:{width}}  {'-' if value is None else one_line(text)}  ({row['source']})")
    return 0


def _check(args: Parsed, proxy: Parsed, environ: Mapping[str, str]) -> int:
    from agent.settings.check import check

    report = check(proxy, environ, lambda _: "") if args["running"] else check(proxy, environ)
    if args["json"]:
        print(json.dumps({"problems": report.problems, "warnings": report.warnings}, indent=2))
    else:
        for warning in report.warnings:
            print(f"warning: {warning}")
        for problem in report.problems:
            print(f"Error: {problem}", file=sys.stderr)
        if not report.problems:
            print("The configuration is usable.")
    return 255 if report.problems else 0
