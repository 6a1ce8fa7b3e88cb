"""What the commands share that speak with the running agent: calls to the agent's status port on this machine."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agent.cli.flags import Flag, FlagSet, Parsed
from agent.cli.http import HttpError, Url, fetch
from agent.errors import ConfigError, FatalError

ORDER_TIMEOUT = 10.0  # seconds
PORT = Flag("status-port", 15020, "the agent's status port; without it, statusPort of the proxy config is looked for")
LARGEST = 1 << 20  # bytes of a file in which a port is looked for


def url(port: int, path: str) -> Url:
    """ConfigError if `port` cannot be one."""
    if not 0 < port < 65536:
        raise ConfigError(f"--status-port {port} is not a port")
    return Url(f"http://localhost:{port}{path}")


def port_of(args: Parsed, environ: Mapping[str, str]) -> int:
    """The port of the flag, else of the configuration that the agent in this container reads."""
    if PORT.name in args.given:
        return int(args[PORT.name])
    return next(_configured(environ), int(PORT.default))


def _configured(environ: Mapping[str, str]) -> Iterator[int]:
    """Ports, the agent's choice first. A look, not a parse: what is not found is given by the flag."""
    import re  # not for those who give the port

    pods = _read("./etc/istio/pod/annotations")
    own = re.search(r'^status\.sidecar\.istio\.io/port="(\d{1,5})"', pods, re.MULTILINE)
    proxy = re.search(r'^proxy\.istio\.io/config="(.*)"', pods, re.MULTILINE)
    if own:
        yield int(own[1])
    escaped = proxy[1].replace("\\n", "\n") if proxy else ""
    for text in (escaped, environ.get("PROXY_CONFIG", ""), _read("./etc/istio/config/mesh")):
        found = re.search(r"""\bstatus(?:P|_p)ort\\?["']?\s*:\s*\\?["']?(\d{1,5})\b""", text)
        if found:
            yield int(found[1])


def _read(path: str) -> str:
    try:
        # What is no file must not keep a command waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            return f.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""


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


def order(flags: FlagSet, argv: Sequence[str], environ: Mapping[str, str], path: str, done: str) -> int:
    """A command that is one order: parse, post to `path`, print `done`; returns 0. FatalError (1): nobody took it."""
    args = only_flags(flags, argv)
    post(port_of(args, environ), path, ORDER_TIMEOUT)
    print(done)
    return 0


def question(
    flags: FlagSet, argv: Sequence[str], environ: Mapping[str, str], path: str, fits: Callable[[Any], bool]
) -> tuple[Parsed, Any]:
    """A command that is one question: its flags, and what the agent answers. FatalError (1): it does not."""
    args = only_flags(flags, argv)
    return args, get_json(port_of(args, environ), path, fits)


def get_json(port: int, path: str, fits: Callable[[Any], bool]) -> Any:
    """What the agent answers to a question. FatalError (one sentence) if nothing comes, or not what `fits`."""
    import json

    status, answer = call("GET", port, path)
    if status != 200:
        raise FatalError(f"what listens on {url(port, path).authority} answered {path} with status {status}")
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        raise stranger(port, path, "is not JSON") from None
    if not fits(found):
        raise stranger(port, path, "is not what an agent says")
    return found


def rows_of(*keys: str) -> Callable[[Any], bool]:
    """Fits a list of objects that have these keys."""
    return lambda found: isinstance(found, list) and all(isinstance(r, dict) and r.keys() >= {*keys} for r in found)


def object_of(*keys: str) -> Callable[[Any], bool]:
    """Fits one object that has these keys."""
    return lambda found: isinstance(found, dict) and found.keys() >= {*keys}


def stranger(port: int, path: str, why: str) -> FatalError:
    """Somebody else is on the port."""
    place = url(port, path).authority
    return FatalError(f"what listens on {place} is no agent: its answer to {path.partition('?')[0]} {why}")


def only_flags(flags: FlagSet, argv: Sequence[str]) -> Parsed:
    """ConfigError if a command that takes only flags was given anything else."""
    args = flags.parse(argv)
    if args.words:
        name = flags.usage.rpartition(" ")[2]
        raise ConfigError(f"{name} takes no arguments, but was given {args.words[0]!r}")
    return args
