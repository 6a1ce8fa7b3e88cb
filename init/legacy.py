"""The legacy backend for hosts without iptables' commands: python-iptables in the place of save and restore.

libxtables ends the whole process on some errors, writes rules to standard output, and remembers tables across network
namespaces. So it lives in a process of its own: `python -m init.legacy save 4` and `... restore 4 LOCK SECONDS` read
and write what iptables-legacy-save and iptables-legacy-restore --noflush do.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from init.errors import InitError
from init.restore import RestoreBackend, Tools, legacy_tables
from init.rules import Chain, Rule, RuleSet, Table, parse_rule, render, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOCK = "/run/xtables.lock"
LOCKED = 4  # the exit code of iptables for a lock that is not to be had
PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
}
INVERTED = {"-i": 0x01, "-o": 0x02, "-s": 0x08, "-d": 0x10, "-p": 0x40}  # IPT_INV_*, the same in both families
IFNAMSIZ = 16


class PythonBackend(RestoreBackend):
    """Legacy tables through python-iptables."""

    def _run(self, argv: list[str], text: str = "", extra: float = 0.0) -> str:
        program = [sys.executable, "-m", "init.legacy", *argv]
        return self.tools.run(program, text, extra, variables(self.tools.libraries), name="python-iptables")

    def save(self, family: int) -> str:
        return self._run(["save", str(family)])

    def load(self, family: int, text: str) -> None:
        wait = self.tools.lock_wait
        self._run(["restore", str(family), self.tools.lock_file or LOCK, str(wait)], text, extra=wait)


def backend(tools: Tools) -> PythonBackend:
    """Raises InitError when python-iptables is not installed."""
    if find_spec("iptc") is None:
        raise InitError(
            "no command writes legacy tables here and python-iptables, which could, is not installed: install iptables"
            " or the extra remora[legacy]"
        )
    return PythonBackend("legacy", tools, {})


def variables(given: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The environment of the child beyond its path. Without folders python-iptables asks ldconfig and a compiler for
    them, a dozen processes in all, and minimal images have neither."""
    spec = find_spec("iptc")
    wrapper = os.path.dirname(os.path.dirname(spec.origin)) if spec and spec.origin else ""
    settings = {
        "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        "SETUPTOOLS_USE_DISTUTILS": "stdlib",  # the other one takes longer to import than all the rest
        "XTABLES_LIBDIR": extensions() or "",
        **dict(given),
    }
    settings["IPTABLES_LIBDIR"] = f"{settings.get('IPTABLES_LIBDIR', '')}:{wrapper}".strip(":")
    return [(name, value) for name, value in settings.items() if value]


def extensions() -> str | None:
    """The folder of libxtables' extensions in the usual places."""
    for base in ("/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib"):
        folders = [base, *(f"{base}/{name}" for name in (os.listdir(base) if os.path.isdir(base) else ()))]
        for folder in folders:
            if os.path.exists(f"{folder}/xtables/libxt_tcp.so") or os.path.exists(f"{folder}/xtables/libxt_owner.so"):
                return f"{folder}/xtables"
    return None


def library() -> Any:
    """python-iptables with three repairs. What an extension says is read from a file: from its pipe it would wait for
    ever when an extension has nothing to say, and would cut at 1024 bytes. A rule is checked once, when its words are
    known (see `encode`). A jump is looked up in its own table: looking in the others would create them."""
    import iptc

    said = os.memfd_create("said")
    os.dup2(said, 1)

    def saved(module: Any, ip: Any) -> bytes | None:
        if not module._module or not module._module.save:
            return None
        os.ftruncate(said, 0)
        os.lseek(said, 0, os.SEEK_SET)
        module._xt.save(module._module, ip, module._ptr)
        return os.pread(said, 1 << 16, 0)

    iptc.ip4tc.IPTCModule._get_saved_buf = saved
    iptc.ip4tc.IPTCModule._update_parameters = lambda module: None
    for kind in (iptc.Rule, iptc.Rule6):
        kind.tables = property(lambda rule: [rule.chain.table])
        kind.final_check = lambda rule: None
    return iptc


def open_table(family: int, name: str) -> Any:
    """The table as it is now in this namespace. Nothing is committed unless asked."""
    iptc = library()
    return (iptc.Table if family == 4 else iptc.Table6)(name, autocommit=False)


def words_of(module: Any, ip: Any) -> list[str]:
    text = module._get_saved_buf(ip)
    return split(text.decode(errors="replace").strip()) if text else []


def decode(rule: Any, family: int) -> Rule:
    """A rule of python-iptables as iptables-save would spell it."""
    ip = rule.get_ip()
    not_ = {flag: "! " if ip.invflags & bit else "" for flag, bit in INVERTED.items()}

    def address(text: str, flag: str) -> str:
        host, _, mask = text.lstrip("!").partition("/")
        bits = sum(b.bit_count() for b in socket.inet_aton(mask)) if "." in mask else int(mask)
        return f"{not_[flag]}{host}/{bits}" if bits or not_[flag] else ""

    def interface(name: bytes, mask: bytes, flag: str) -> str:
        return f"{not_[flag]}{name.decode()}{'+' if len(mask) == len(name) else ''}" if mask else ""

    target = rule.target
    standard = target._module.name == b"standard"
    return Rule(
        target=target.standard_target if standard else target.name,
        options=() if standard else tuple(words_of(target, ip)),
        source=address(rule.get_src(), "-s"),
        destination=address(rule.get_dst(), "-d"),
        inside=interface(ip.iniface, ip.iniface_mask, "-i"),
        outside=interface(ip.outiface, ip.outiface_mask, "-o"),
        protocol=not_["-p"] + PROTOCOLS.get(ip.proto, str(ip.proto)) if ip.proto else "",
        extra=("-f",) if family == 4 and ip.flags & 1 else (),
        matches=tuple((m.name, *words_of(m, ip)) for m in rule.matches),
        goto=bool(target.goto),
    )


def encode(rule: Rule, chain: Any, family: int) -> Any:
    """The rule for a chain of python-iptables. Raises ValueError for what it cannot hold."""
    import iptc

    if rule.extra:
        raise ValueError(f"{rule.text()!r} has parts that python-iptables cannot write")
    made = (iptc.Rule if family == 4 else iptc.Rule6)(None, chain)
    ip = made.get_ip()
    if rule.source:
        made.src = rule.source.replace("! ", "!")
    if rule.destination:
        made.dst = rule.destination.replace("! ", "!")
    if rule.protocol:
        made.protocol = rule.protocol.replace("! ", "!")
    if rule.inside:
        ip.iniface, ip.iniface_mask = interface_bytes(rule.inside)
    if rule.outside:
        ip.outiface, ip.outiface_mask = interface_bytes(rule.outside)
    for flag, value in (("-i", rule.inside), ("-o", rule.outside)):
        if value.startswith("! "):
            ip.invflags |= INVERTED[flag]
    for name, *words in rule.matches:
        match = iptc.Match(made, name=name)
        made.add_match(match)
        configure(match, words)
        match.final_check()
    made.target = iptc.Target(made, name=rule.target, goto=rule.goto)
    configure(made.target, list(rule.options))
    if rule.options:
        made.target.final_check()
    return made


def interface_bytes(name: str) -> tuple[bytes, bytes]:
    """Name and mask; the mask covers the terminating zero unless a + says that more may follow. (The setter of
    python-iptables makes an IPv6 mask of single bits, which matches other interfaces too.)"""
    plain = name.removeprefix("! ")
    stem = plain.removesuffix("+").encode()
    return stem, b"\xff" * (len(stem) + (stem.decode() == plain))


def options_of(words: list[str]) -> Iterator[tuple[str, str]]:
    """(name, value) of `! --name value ...`; a value that begins with ! is inverted."""
    rest = list(words)
    while rest:
        inverted = rest[0] == "!"
        name = rest.pop(1 if inverted else 0)
        if inverted:
            rest.pop(0)
        values = []
        while rest and rest[0] != "!" and not rest[0].startswith("--"):
            values.append(rest.pop(0).strip('"'))
        yield name.removeprefix("--"), ("!" if inverted else "") + " ".join(values)


def configure(module: Any, words: list[str]) -> None:
    for name, value in options_of(words):
        module.parse(name, value)


def read(family: int) -> RuleSet:
    """Every legacy table that exists."""
    tables = []
    for name in legacy_tables(family):
        table = open_table(family, name)
        chains = []
        for chain in table.chains:
            policy = chain.get_policy().name if chain.is_builtin() else "-"
            chains.append(Chain(chain.name, policy, tuple(decode(r, family) for r in chain.rules)))
        tables.append(Table(name, tuple(chains)))
        table.close()
    return RuleSet(tuple(tables))


def load(family: int, lines: list[str]) -> None:
    """Do what a restore text says, table by table. Raises ValueError with the line that failed."""
    table: Any = None
    for number, line in enumerate(lines, 1):
        try:
            if line.startswith("*"):
                table = open_table(family, line[1:])
            elif line == "COMMIT":
                table.commit()
                table.close()
            elif line and not line.startswith("#"):
                edit(table, line, family)
        except Exception as e:  # python-iptables raises its own errors and nearly all of Python's
            raise ValueError(f"line {number} failed: {e}") from e


def edit(table: Any, line: str, family: int) -> None:
    import iptc

    verb, *rest = split(line)
    if verb.startswith(":"):
        name = verb[1:]
        if table.is_chain(name):
            table.flush_entries(name)
        else:
            table.create_chain(name)
        return
    chain = iptc.Chain(table, rest[0])
    if verb == "-X":
        chain.delete()
    elif verb == "-A":
        chain.append_rule(encode(parse_rule(rest[1:]), chain, family))
    elif verb == "-I":
        chain.insert_rule(encode(parse_rule(rest[2:]), chain, family), int(rest[1]) - 1)
    elif verb == "-D":
        wanted = parse_rule(rest[1:])
        found = next((r for r in chain.rules if decode(r, family) == wanted), None)
        if found is None:
            raise ValueError("no such rule")
        chain.delete_rule(found)
    else:
        raise ValueError("not understood")


def lock(path: str, seconds: float) -> int | None:
    """The xtables lock, as a descriptor to keep; None when another program held it all the time."""
    import fcntl
    import time

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)


def main(argv: list[str]) -> int:
    """`save FAMILY` or `restore FAMILY LOCK SECONDS`."""
    family, out = int(argv[1]), os.dup(1)
    try:
        if argv[0] == "save":
            os.write(out, render(read(family)).encode())
            return 0
        if lock(argv[2], float(argv[3])) is None:
            print("Another app is currently holding the xtables lock", file=sys.stderr)
            return LOCKED
        load(family, sys.stdin.read().splitlines())
    except OSError as e:
        print(f"Fatal: can't open lock file {argv[2]}: {e.strerror}" if len(argv) > 2 else str(e), file=sys.stderr)
        return LOCKED
    except Exception as e:  # noqa: BLE001  (the end of this process: whatever happened is told to the one who asked)
        print(str(e).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
