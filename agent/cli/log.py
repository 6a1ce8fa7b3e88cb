"""`log`: the log levels of the running agent, changed for a while."""

import sys
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from agent.cli import control
from agent.cli.flags import Flag, FlagSet
from agent.durations import go_duration
from agent.errors import ConfigError

FLAGS = FlagSet(
    "remora-agent log [LEVEL|SCOPE:LEVEL[,...]|reset]",
    (Flag("for", "5m", "how long, at most an hour; then the levels are as configured again"), control.PORT),
    about="Change the running agent's log levels for a while; without a level, tell them.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0; ConfigError (255) for what is no level, FatalError (1) if there is no agent."""
    args = FLAGS.parse(argv)
    if len(args.words) > 1:
        raise ConfigError(f"log takes one list of levels, such as default:debug,sds:info, not {len(args.words)} words")
    try:
        seconds = go_duration(args["for"])
    except ValueError as e:
        raise ConfigError(f"--for: {e}") from None
    query = "?" + urlencode({"level": args.words[0], "seconds": f"{seconds:g}"}) if args.words else ""
    port = control.port_of(args, environ)
    status, answer = control.call("POST" if query else "GET", port, f"/logging{query}")
    text = answer.strip()
    if status == 400 and text:
        raise ConfigError(text)
    if status != 200:
        raise control.stranger(port, "/logging", f"has the status {status}")
    if not (text.startswith("{") and '"levels"' in text):
        raise control.stranger(port, "/logging", "is not what an agent says")
    sys.stdout.write(text + "\n")
    return 0
