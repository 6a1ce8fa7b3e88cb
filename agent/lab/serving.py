"""What the control plane and the CA of the lab share: address, TLS, files, tokens, the end of the process."""

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from agent import logs, uds
from agent.errors import ConfigError, FatalError
from agent.rpc.call import ServerCall

log = logs.scope("lab")


def listen(address: str) -> socket.socket:
    """A non-blocking listener on `host:port` or `unix:PATH`. Raises ConfigError and FatalError."""
    if address.startswith("unix:"):
        return uds.listen(address.removeprefix("unix:"))
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=host == "::")
    except OSError as error:
        why = "the address is taken" if error.errno == errno.EADDRINUSE else error.strerror
        raise FatalError(f"cannot listen on {address}: {why}") from None
    listener.setblocking(False)
    return listener


def split_address(text: str) -> tuple[str, int]:
    """`0.0.0.0:15013`, `[::]:15013` or `:15013` to host and port. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen {text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def tls(cert: Path, key: Path, client_root: Path | None = None) -> ssl.SSLContext:
    """A server's side; with `client_root` clients may show a certificate, and need not. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(cert, key)
        if client_root is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(client_root)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use the server certificate {cert}: {error}") from None
    return context


def metadata(call: ServerCall) -> list[tuple[str, str]]:
    """What the client sent along with its call, names in lower case."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in call.headers.items()]


def read(path: Path, what: str) -> bytes:
    """The content of a configured file. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {what} {path}: {error.strerror}") from None


def issued_in(folder: Path) -> Callable[[], Sequence[str]]:
    """The tokens in the files of a folder, re-read at every call; a missing folder holds none."""

    def tokens() -> Sequence[str]:
        try:
            files = sorted(folder.iterdir())
        except OSError as error:
            log.error(f"cannot read the token folder {folder}: {error.strerror}")
            return []
        found = []
        for file in files:
            with contextlib.suppress(OSError, UnicodeDecodeError):  # withdrawn meanwhile, or no token at all
                found.append(file.read_text().strip())
        return [token for token in found if token]

    return tokens


async def until_signal(
    *services: Callable[[], Coroutine[Any, Any, None]], on_hangup: Callable[[], None] | None = None
) -> None:
    """Run the services' coroutines until SIGTERM or SIGINT; SIGHUP calls `on_hangup`."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if on_hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(service(), name=service.__qualname__) for service in services]
        await stop.wait()
        log.info("stopping")
        for task in running:
            task.cancel()
