"""Everything that can be found wrong with a configuration without starting anything."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from agent.cli.flags import Parsed
from agent.config import AgentConfig
from agent.envoy import bootstrap, proxyless
from agent.errors import RemoraError
from agent.record import record
from agent.settings import load as config_load
from agent.settings import ports
from agent.settings.ports import Port


@record
class Report:
    """One sentence each; without problems the agent would start."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(args: Parsed, environ: Mapping[str, str], port_refusal: Callable[[Port], str] = ports.refusal) -> Report:
    """The verdict on `proxy ARGS`: what would stop the start, and what would be ignored.

    `port_refusal(port)` says why a port cannot be had, "" if it can.
    """
    found: list[RemoraError] = []
    warnings: list[str] = []
    try:
        config = config_load.load(args, environ, problems=found)
        warnings += (*config.warnings, *config.notes)
        if not found:
            found += _refusals(config, warnings, port_refusal)
    except RemoraError as error:
        found.append(error)
    return Report(tuple(dict.fromkeys(map(str, found))), tuple(dict.fromkeys(warnings)))


def _refusals(config: AgentConfig, warnings: list[str], port_refusal: Callable[[Port], str]) -> list[RemoraError]:
    """What the start itself would refuse."""
    out: list[RemoraError] = []
    rendered: Mapping[str, Any] = {}
    try:
        if config.envoy.enabled:
            rendered = bootstrap.render(config, warnings.append)
        if config.proxyless.bootstrap:
            proxyless.render(config, lambda _: None)
    except RemoraError as error:
        out.append(error)
    if config.envoy.enabled:
        out += _envoy(config)
    try:
        known = list(ports.wanted(config, {} if config.envoy.custom_config_file else rendered))
        out += map(RemoraError, ports.faults(known, port_refusal))
    except RemoraError as error:
        out.append(error)
    return out


def _envoy(config: AgentConfig) -> list[RemoraError]:
    out = []
    binary, custom = config.envoy.binary, config.envoy.custom_config_file
    if not os.path.isfile(binary):
        out.append(RemoraError(f"the Envoy binary {binary} does not exist: set binaryPath in the proxy config"))
    elif not os.access(binary, os.X_OK):
        out.append(RemoraError(f"the Envoy binary {binary} is not executable for this user"))
    if custom:
        if not os.access(custom, os.R_OK):
            out.append(RemoraError(f"customConfigFile {custom} cannot be read"))
    elif not _writable(_existing(config.envoy.config_dir)):
        out.append(RemoraError(f"configPath {config.envoy.config_dir} is not writable for this user"))
    return out


def _writable(directory: str) -> bool:
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


def _existing(path: str) -> str:
    """The nearest directory above (or at) `path` that exists: there the rest would be made."""
    path = os.path.abspath(path)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path
