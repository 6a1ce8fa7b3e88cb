"""What `remora-agent certs` says about certificates that come from files or from somebody else's server."""

import os
import stat
from collections.abc import Iterator
from typing import Any

from agent.config import SdsConfig
from agent.sds import files, resources

Row = dict[str, Any]
PAIR = "default"


def describe(config: SdsConfig, tracked: files.FileSecrets, ca: bool) -> list[Row]:
    """The configured mounted files, whoever asked for them, then every other file that is served. Never a key.

    `ca`: there is one, so that mounted files which are not there are nothing to talk about. JSON types only.
    """
    rows = list(_elsewhere(config))
    mounted = {PAIR: (config.cert_file, config.key_file), resources.ROOT: (config.root_file,)}
    configured = {} if config.external else {name: paths for name, paths in mounted.items() if all(paths)}
    for name in configured:
        rows += _optional(name, configured[name], tracked, required=not ca)
    for name in tracked.names():
        if name in configured:
            continue
        if paths := files.paths(name):
            rows.append(_row(name, paths, tracked.get(name), tracked.problem(name)))
        elif PAIR in configured or name == resources.ROOT:
            paths = mounted[resources.ROOT if name == resources.ROOT else PAIR]
            rows += _optional(name, paths, tracked, required=False)
    return rows


def _optional(name: str, paths: tuple[str, ...], tracked: files.FileSecrets, required: bool) -> Iterator[Row]:
    """The row of files that stand in for the CA, if there is anything to say about them."""
    content, problem = tracked.get(name), tracked.problem(name)
    if content is None:
        try:
            content, problem = files.load(paths), ""
        except files.Unusable as e:
            problem = str(e)
    if content or required:
        yield _row(name, paths, content, problem)
    elif any(map(os.path.exists, paths)):
        yield {**_row(name, paths, None, problem), "served": False}  # the CA's is


def _row(name: str, paths: tuple[str, ...], content: files.Content | None, problem: str) -> Row:
    from agent import certinfo  # x509 takes 23 ms, and the secret server is on the way to every Envoy's readiness

    chain = certinfo.describe(content.chain) if content else []
    return {
        "name": name[:200],
        "source": "files",
        "files": list(paths),
        "served": True,
        "certificate": chain[0] if chain else None,
        "issuers": chain[1:],
        "roots": certinfo.describe(content.roots) if content else [],
        "last_error": problem or None,
    }


def _elsewhere(config: SdsConfig) -> Iterator[Row]:
    """The server of somebody else (SPIRE) that has the workload certificate."""
    if not config.external:
        return
    path = config.external_socket
    try:
        there = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        there = False
    yield {
        "name": PAIR,
        "source": "external",
        "socket": path,
        "there": there,
        "served": True,
        "certificate": None,
        "issuers": [],
        "roots": [],
        "last_error": None if there else f"there is no socket {path}",
    }


def shadow(ca: Row, rows: list[Row]) -> Row:
    """The CA's row, with what of it Envoy is not served because mounted files take its place."""
    taken = {row["name"]: row["files"] for row in rows if row["source"] == "files" and row["served"]}
    pair = taken.get(PAIR)
    return {**ca, "served": pair is None, "shadowed_by": pair, "roots_shadowed_by": taken.get(resources.ROOT)}
