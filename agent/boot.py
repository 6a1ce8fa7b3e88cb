"""The first milliseconds: everything that Envoy needs to start, before asyncio and the services are imported."""

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from agent import atomicfile, logs, secrecy, uds
from agent.config import AgentConfig
from agent.envoy import args, bootstrap, launch
from agent.errors import FatalError
from agent.signals import EarlySignals

log = logs.scope("default")


class Boot:
    """What exists when the event loop starts. `undo` takes it all back if the loop never gets that far."""

    def __init__(self, config: AgentConfig, signals: EarlySignals, spawn: Callable[[], launch.Envoy]) -> None:
        self.config, self.signals, self.spawn = config, signals, spawn
        self.status_socket: socket.socket | None = None
        self.xds_socket: socket.socket | None = None  # Envoy dials both as soon as it runs; who connects waits there
        self.sds_socket: socket.socket | None = None
        self.envoy: launch.Envoy | None = None
        self.rendered: list[str] = []  # files that we wrote and will remove

    def undo(self) -> None:
        """End Envoy and remove what was written; safe to call more than once and after the loop has done it."""
        envoy, self.envoy = self.envoy, None
        if envoy is not None and envoy.pidfd >= 0:
            envoy.kill()
            envoy.reap(10.0)
        if self.status_socket is not None:
            self.status_socket.close()
        for listener in (self.xds_socket, self.sds_socket):
            if listener is not None:
                uds.close(listener)
        for path in self.rendered:
            with suppress(FileNotFoundError):
                os.unlink(path)


def boot(config: AgentConfig, signals: EarlySignals) -> Boot:
    """Bind the status port and Envoy's sockets, write its bootstrap, start it.

    Raises FatalError with nothing left behind.
    """
    # `spawn` is what the supervisor calls again after a crash, with the same bootstrap.
    result = Boot(
        config,
        signals,
        lambda: launch.spawn(config.envoy, args.envoy_args(config), args.envoy_environ(config)),
    )
    try:
        if config.status.port:
            from agent.status.bind import bind

            result.status_socket = bind(config.status.port)
        result.xds_socket = uds.listen(config.xds.socket_path)
        if config.envoy.enabled:
            result.sds_socket = uds.listen(config.sds.socket_path)
            result.rendered = write_bootstrap(config)
            result.envoy = result.spawn()
        if config.proxyless.bootstrap:
            from agent import proxyless

            proxyless.write(config, log.debug)  # Envoy's bootstrap has warned of the same metadata
        if not secrecy.hide_memory():  # there were no secrets before
            log.warning(
                "this process's memory cannot be hidden from others of its user and from core dumps "
                "(PR_SET_DUMPABLE is refused, perhaps by a seccomp profile); it will hold private keys"
            )
    except BaseException:
        result.undo()
        raise
    return result


def write_bootstrap(config: AgentConfig) -> list[str]:
    """Render and write the bootstrap and what it refers to, for Envoy's user only; returns their paths."""
    if config.envoy.custom_config_file:
        return []
    text = json.dumps(bootstrap.render(config, log.warning), ensure_ascii=False)
    files = {**bootstrap.side_files(config), args.config_file(config): text}
    written: list[str] = []
    try:
        os.makedirs(config.envoy.config_dir, mode=0o700, exist_ok=True)
        for path, content in files.items():
            atomicfile.write(path, content, 0o600, config.envoy.run_as)
            written.append(path)
    except OSError as error:
        for path in written:
            os.unlink(path)
        raise FatalError(
            f"Envoy's bootstrap cannot be written to {config.envoy.config_dir}: {error.strerror}; "
            "make the directory writable for this user or set configPath"
        ) from error
    return written
