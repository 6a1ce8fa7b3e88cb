"""`drain`: what a preStop hook calls before the pod is terminated."""

from collections.abc import Mapping, Sequence

from agent.cli import control
from agent.cli.flags import FlagSet

FLAGS = FlagSet(
    "remora-agent drain",
    (control.PORT,),
    about="Let Envoy drain its listeners; the agent ends at once when it is terminated afterwards.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 once Envoy was told to drain; FatalError (1) if nobody took the order."""
    return control.order(FLAGS, argv, environ, "/drain", "Envoy drains.")
