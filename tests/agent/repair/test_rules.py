"""Reading what the init container was told."""

import pytest

from agent.errors import ConfigError
from agent.repair.rules import PlannedRules

ARGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020")


def rules(*args: str) -> PlannedRules:
    return PlannedRules(args, {})


@pytest.mark.root
def test_ports_and_users_come_from_the_arguments() -> None:
    planned = rules(*ARGS)
    assert (planned.inbound_port, planned.probe_port) == (15006, 15002)
    assert planned.proxy_uids == (range(1337, 1338),)
    other = rules("-z", "16006", "-u", "5,100-200", "--iptables-probe-port", "16002")
    assert (other.inbound_port, other.probe_port) == (16006, 16002)
    assert other.proxy_uids == (range(5, 6), range(100, 201))


@pytest.mark.parametrize(
    "args", [("--nosuch",), ("-p", "seventy"), ("--dry-run",), ("--cleanup-only",), ("--skip-rule-apply",), ("--help",)]
)
def test_arguments_that_cannot_be_guarded_by_are_one_sentence(args: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"^REDIRECT_ARGS .*\.$"):
        rules(*args)
