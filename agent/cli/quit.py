"""`quit`: ends the agent, for jobs whose pod shall be complete."""

from collections.abc import Mapping, Sequence

from agent.cli import control
from agent.cli.flags import FlagSet, HelpWanted

TIMEOUT = 10.0  # seconds
FLAGS = FlagSet(
    "remora-agent quit",
    (control.PORT,),
    about="End the agent and its Envoy at once, without draining: what a job's last step does.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 once the agent has agreed to end; FatalError (1) if nobody took the order."""
    try:
        args = FLAGS.parse(argv)
    except HelpWanted as wanted:
        print(wanted)
        return 0
    control.no_words("quit", args.words)
    control.post(args["status-port"], "/quitquitquit", TIMEOUT)
    print("The agent ends.")
    return 0
