"""Network namespaces without a name: each belongs to one thread and is gone when that thread ends."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from init.rules import RuleSet, canonical, parse, render

T = TypeVar("T")
NEWNET = 0x40000000
ORIGINAL_DST = 80
SAVES = [f"{stem}-{kind}-save" for kind in ("nft", "legacy") for stem in ("iptables", "ip6tables")]
_libc = ctypes.CDLL(None, use_errno=True)


def sh(command: str, ok: bool = True) -> str:
    """Output of one command; commands of a test are trusted words."""
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or not ok, f"{command}: {done.stderr}"
    return done.stdout


def _enter() -> None:
    if _libc.unshare(NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


class Namespace:
    """A private network. `call` runs a function in it; sockets made there stay in it, wherever they are used."""

    def __init__(self, *commands: str) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_enter)
        self.fd = self.call(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        self.sh("ip link set lo up", *commands)

    def call(self, function: Callable[[], T]) -> T:
        return self._thread.submit(function).result(60)

    def sh(self, *commands: str) -> str:
        return self.call(lambda: "".join(sh(c) for c in commands))

    def close(self) -> None:
        os.close(self.fd)
        self._thread.shutdown()

    def socket(self, family: int, kind: int, uid: int = 0, gid: int = 0) -> socket.socket:
        """A socket that belongs to a user: owner matches look at who made it."""

        def make() -> socket.socket:
            _libc.setfsgid(gid)
            _libc.setfsuid(uid)
            try:
                return socket.socket(family, kind)
            finally:
                _libc.setfsuid(0)
                _libc.setfsgid(0)

        return self.call(make)

    def listen(self, port: int, host: str = "::", transparent: bool = False) -> socket.socket:
        s = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if transparent:
            s.setsockopt(socket.IPPROTO_IP, 19, 1)
        s.bind((host, port))
        s.listen(64)
        s.settimeout(5)
        return s

    def connect(self, host: str, port: int, uid: int = 0, gid: int = 0, source: str = "") -> socket.socket:
        s = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, uid, gid)
        s.settimeout(5)
        if source:
            s.bind((source, 0))
        s.connect((host, port))
        return s


def original_destination(s: socket.socket) -> tuple[str, int] | None:
    """Where an accepted connection was meant to go; None when that is where it went."""
    here: tuple[str, int] = (s.getsockname()[0].removeprefix("::ffff:"), s.getsockname()[1])
    try:
        if ":" in here[0]:
            raw = s.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, 28)
            meant = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        else:
            raw = s.getsockopt(socket.IPPROTO_IP, ORIGINAL_DST, 16)
            meant = socket.inet_ntop(socket.AF_INET, raw[4:8])
    except OSError:
        return None
    found = meant, struct.unpack_from("!H", raw, 2)[0]
    return None if found == here else found


def as_user(uid: int, capabilities: int, function: Callable[[], int]) -> int:
    """Exit code of `function` in a child process of that user that keeps only these capabilities, as ambient ones."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        _libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        header = struct.pack("=II", 0x20080522, 0)
        data = struct.pack("=IIIIII", *([capabilities & 0xFFFFFFFF] * 3), 0, 0, 0)
        if _libc.capset(header, data) == 0:
            for n in range(32):
                if capabilities >> n & 1:
                    _libc.prctl(47, 2, n, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
            code = function()
    finally:
        os._exit(code)


def used(rules: RuleSet) -> RuleSet:
    tables = [type(t)(t.name, tuple(c for c in t.chains if c.rules or c.policy == "-")) for t in rules.tables]
    return canonical(RuleSet(tuple(t for t in tables if t.chains)))


def native_rules() -> list[str]:
    """Every table of family inet, without counters."""
    names = [line.split()[2] for line in sh("nft list tables inet").splitlines()]
    return [line for name in sorted(names) for line in sh(f"nft -s -n list table inet {name}").splitlines()]


def snapshot() -> list[str]:
    """Every rule of all backends and families, policy routing and the addresses of lo, as text."""
    lines = [line for save in SAVES for line in render(used(parse(sh(save)))).splitlines()] + native_rules()
    for family in "46":
        rules = sh(f"ip -{family} rule show").splitlines()
        lines += sorted(re.sub(r"^\d+:\s+", f"IPv{family} rule ", r) for r in rules)  # priorities follow history
        routes = sh(f"ip -{family} route show table all").splitlines()
        lines += [r for r in routes if " table " in r and " table local " not in r]
    return lines + re.findall(r"inet6? \S+", sh("ip addr show dev lo"))
