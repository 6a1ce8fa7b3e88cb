"""Signals before the event loop, sent to real processes; as the first process of a container: tests/netns."""

import signal
import subprocess
import sys

import pytest

WAITING = """
import signal
from agent.signals import EarlySignals, EndWanted
signals = EarlySignals()
try:
    print("up", flush=True)
    while True:
        signal.pause()
except EndWanted as name:
    print("ended by", name, flush=True)
    while len(signals.caught) < 2:
        signal.pause()
print(sorted(signals.caught))
"""
KEEPING = """
import signal
from agent.signals import EarlySignals
signals = EarlySignals()
signals.keep()
print("up", flush=True)
while len(signals.caught) < 2:
    signal.pause()
print(sorted(signals.caught))
"""
USR1, TERM = int(signal.SIGUSR1), int(signal.SIGTERM)


def start(code: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_ends_what_waits_and_another_does_not_disturb_the_end(number: signal.Signals) -> None:
    process = start(WAITING)
    assert process.stdout is not None
    process.send_signal(signal.SIGUSR1)
    process.send_signal(number)
    assert process.stdout.readline() == f"ended by {number.name}\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == f"{sorted((USR1, TERM))}\n"
    assert process.returncode == 0


def test_from_keep_on_they_are_remembered() -> None:
    process = start(KEEPING)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == f"{sorted((USR1, TERM))}\n"
    assert process.returncode == 0
