"""Recorded conversations of a real Envoy with a real istiod, as frames."""

import gzip
import json
import struct
from pathlib import Path

import pytest

from agent.xds.wire import Flavour

KINDS = ("delta", "delta-reconnect", "sotw", "sotw-reconnect")
DATA = Path(__file__).parent / "data"

every_tape = pytest.mark.parametrize("kind", KINDS)


def flavour(kind: str) -> Flavour:
    return Flavour.DELTA if kind.startswith("delta") else Flavour.SOTW


def load(kind: str) -> list[tuple[dict, bytes]]:
    """(index entry, frame) of every message, in the order in which the control plane saw them."""
    raw = gzip.decompress((DATA / f"{kind}.bin.gz").read_bytes())
    frames, at = [], 0
    for entry in json.loads((DATA / f"{kind}.json").read_text())["messages"]:
        (size,) = struct.unpack_from(">I", raw, at)
        frames.append((entry, raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return frames
