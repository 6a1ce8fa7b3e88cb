"""What the commands share that speak with the running agent: calls to the agent's status port on this machine."""

from collections.abc import Sequence
from typing import Any

from agent.cli.flags import Flag, FlagSet, Parsed
from agent.cli.http import HttpError, Url, fetch
from agent.errors import ConfigError, FatalError

ORDER_TIMEOUT = 10.0  # seconds
PORT = Flag("status-port", 15020, "the agent's status port (statusPort in the proxy config)")


def url(port: int, path: str) -> Url:
    """ConfigError if `port` cannot be one."""
    if not 0 < port < 65536:
        raise ConfigError(f"--status-port {port} is not a port")
    return Url(f"http://localhost:{port}{path}")


def call(method: str, port: int, path: str, timeout: float = ORDER_TIMEOUT) -> tuple[int, str]:
    """(status, body) of the agent's answer. FatalError (one sentence) if there is none within `timeout` seconds."""
    try:
        status, answer = fetch(method, url(port, path), b"", timeout)
    except HttpError as e:
        raise FatalError(
            f"the agent was not reached: {e}; it runs in this pod's network or not at all, --status-port says where"
        ) from None
    return status, answer.decode("utf-8", "replace")


def post(port: int, path: str, timeout: float) -> None:
    """One order to the agent. FatalError (one sentence) if it was not taken within `timeout` seconds."""
    status, answer = call("POST", port, path, timeout)
    if status != 200:
        detail = f": {answer.strip()}" if answer.strip() else ""
        raise FatalError(f"what listens on {url(port, path).authority} answered {path} with status {status}{detail}")


def order(flags: FlagSet, argv: Sequence[str], path: str, done: str) -> int:
    """A command that is one order: parse, post to `path`, print `done`; returns 0. FatalError (1): nobody took it."""
    args = _parse(flags, argv)
    post(args["status-port"], path, ORDER_TIMEOUT)
    print(done)
    return 0


def question(flags: FlagSet, argv: Sequence[str], path: str) -> tuple[Parsed, Any]:
    """A command that is one question: its flags, and what the agent answers at `path`. FatalError (1): it does not."""
    args = _parse(flags, argv)
    return args, get_json(args["status-port"], path)


def get_json(port: int, path: str) -> Any:
    """What the agent answers to a question. FatalError (one sentence) if it does not."""
    import json

    status, answer = call("GET", port, path)
    server = url(port, path).authority
    if status != 200:
        raise FatalError(f"what listens on {server} answered {path} with status {status}")
    try:
        return json.loads(answer)
    except ValueError:
        raise FatalError(f"what listens on {server} is no agent: its answer to {path} is not JSON") from None


def _parse(flags: FlagSet, argv: Sequence[str]) -> Parsed:
    """ConfigError if a command that takes only flags was given anything else."""
    args = flags.parse(argv)
    if args.words:
        name = flags.usage.rpartition(" ")[2]
        raise ConfigError(f"{name} takes no arguments, but was given {args.words[0]!r}")
    return args
