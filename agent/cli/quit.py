"""`quit`: ends the agent, for jobs whose pod shall be complete."""

from collections.abc import Mapping, Sequence

from agent.cli import control
from agent.cli.flags import FlagSet

FLAGS = FlagSet(
    "remora-agent quit",
    (control.PORT,),
    about="End the agent and its Envoy at once, without draining: what a job's last step does.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 once the agent has agreed to end; FatalError (1) if nobody took the order."""
    return control.order(FLAGS, argv, environ, "/quitquitquit", "The agent ends.")
