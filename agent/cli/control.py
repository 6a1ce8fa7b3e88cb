"""What `quit`, `drain`, `exec`, `certs` and `events` share: calls to the agent's status port on this machine."""

from collections.abc import Sequence
from typing import Any

from agent.cli.flags import Flag, FlagSet, HelpWanted
from agent.cli.http import HttpError, Url, fetch
from agent.errors import ConfigError, FatalError

ORDER_TIMEOUT = 10.0  # seconds
PORT = Flag("status-port", 15020, "the agent's status port (statusPort in the proxy config)")


def url(port: int, path: str) -> Url:
    """ConfigError if `port` cannot be one."""
    if not 0 < port < 65536:
        raise ConfigError(f"--status-port {port} is not a port")
    return Url(f"http://localhost:{port}{path}")


def post(port: int, path: str, timeout: float) -> None:
    """One order to the agent. FatalError (one sentence) if it was not taken within `timeout` seconds."""
    target = url(port, path)
    try:
        status, answer = fetch("POST", target, b"", timeout)
    except HttpError as e:
        raise FatalError(
            f"the agent was not reached: {e}; it runs in this pod's network or not at all, --status-port says where"
        ) from None
    if status != 200:
        detail = answer.decode("utf-8", "replace").strip()
        raise FatalError(
            f"what listens on {target.authority} answered {path} with status {status}{': ' + detail if detail else ''}"
        )


def order(flags: FlagSet, argv: Sequence[str], path: str, done: str) -> int:
    """A command that is one order: parse, post to `path`, print `done`; returns 0. FatalError (1): nobody took it."""
    try:
        args = flags.parse(argv)
    except HelpWanted as wanted:
        print(wanted)
        return 0
    no_words(flags.usage.rpartition(" ")[2], args.words)
    post(args["status-port"], path, ORDER_TIMEOUT)
    print(done)
    return 0


def get_json(port: int, path: str, timeout: float = 10.0) -> Any:
    """What the agent answers to a question. FatalError (one sentence) if it does not."""
    import json

    target = url(port, path)
    try:
        status, answer = fetch("GET", target, b"", timeout)
        if status == 200:
            return json.loads(answer)
    except HttpError as e:
        raise FatalError(
            f"the agent was not reached: {e}; it runs in this pod's network or not at all, --status-port says where"
        ) from None
    except ValueError:
        raise FatalError(f"what listens on {target.authority} is no agent: its answer to {path} is not JSON") from None
    raise FatalError(f"what listens on {target.authority} answered {path} with status {status}")


def no_words(command: str, words: tuple[str, ...]) -> None:
    """ConfigError if a command that takes only flags was given anything else."""
    if words:
        raise ConfigError(f"{command} takes no arguments, but was given {words[0]!r}")
