"""`istio-iptables ARGS`: the redirect rules under istio's name; the work is init's."""

from collections.abc import Mapping, Sequence

from init.__main__ import end_cleanly, istio_iptables


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Returns 0, 1 (failed), 126 (validation failed) or 255 (usage), as istio's command does."""
    end_cleanly()
    return istio_iptables(list(argv), environ)
