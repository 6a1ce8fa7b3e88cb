"""`remora-init explain`: asks this machine what its rules do to a packet, and says it."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from init import config as configuration
from init import netlink
from init.errors import InitError, UsageError
from init.explain import Packet, Verdict, explain, packed
from init.record import record, replace
from init.rules import RuleSet
from init.settings import InitConfig

FLAGS = ("uid", "gid", "dest", "proto", "in-interface", "source")
USAGE = """\
Usage: remora-init explain --uid U [--gid G] --dest ADDRESS:PORT [--proto tcp|udp] [--source ADDRESS]
       remora-init explain --in-interface NIC|--source ADDRESS --dest ADDRESS:PORT [--proto tcp|udp]

What the rules in the kernel do to the first packet of a connection: of a user of this pod, or of somebody outside.
--force-iptables-binary and --native-nftables choose whose rules to read, as everywhere.
"""


@record
class Question:
    """The packet, and the words that name it."""

    packet: Packet
    text: str


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the rules that a packet meets, and its fate in one sentence."""
    given, rest = split_flags(argv)
    config = configuration.parse([*rest, "--log_output_level=none"], environ)
    if config.help:
        print(USAGE, end="")
        return 0
    question = asked(given)
    verdict = answer(in_place(config), question.packet)
    print(f"packet: {question.text}")
    for step in verdict.steps:
        print(f"{step.table} {step.chain}: {step.text}")
    for step in verdict.unsure:
        print(f"taken not to match, its conditions are not understood: {step.table} {step.chain}: {step.text}")
    print(sentence(verdict, question.packet))
    return 0


def split_flags(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The flags of this verb, and all others."""
    given: dict[str, str] = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in FLAGS:
            rest.append(word)
        elif equals:
            given[name] = value
        elif words:
            given[name] = words.pop(0)
        else:
            raise UsageError(f"the flag {word} needs a value")
    return given, rest


def asked(given: Mapping[str, str]) -> Question:
    """The packet that the flags describe, completed by what this machine's routes say."""
    proto = given.get("proto", "tcp")
    if proto not in ("tcp", "udp"):
        raise UsageError(f"--proto is {proto!r} but must be tcp or udp")
    host, colon, port = given.get("dest", "").rpartition(":")
    if not colon:
        raise UsageError("--dest ADDRESS:PORT is needed")
    host = host.removeprefix("[").removesuffix("]")
    destination, number = address("--dest", host), configuration.port("--dest", port)
    source = given.get("source", "")
    base = Packet(destination, number, proto, address("--source", source) if source else b"", local=is_local(host))
    if source and len(base.source) != len(destination):
        raise UsageError(f"--source {source} and --dest {host} are addresses of different families")
    if "uid" in given:
        return outgoing(given, base, host, source)
    nic = given.get("in-interface", "")
    if not nic and not source:
        raise UsageError("--uid says who in this pod sends; --in-interface or --source say that it comes from outside")
    nic = nic or way_to(source)[0]
    text = f"{proto} from {source or 'an unknown address'} outside, in through {nic}, to {host}:{number}"
    return Question(replace(base, inside=nic), text)


def outgoing(given: Mapping[str, str], base: Packet, host: str, source: str) -> Question:
    files = configuration.real_host()
    uid = int(configuration.identity("--uid", given["uid"], "/etc/passwd", files).partition("-")[0])
    group = given.get("gid") or primary_group(uid, files)
    gid = int(configuration.identity("--gid", group, "/etc/group", files).partition("-")[0])
    nic, chosen = way_to(host)
    source = source or chosen
    text = f"{base.protocol} from uid {uid} gid {gid} at {source}, out through {nic}, to {host}:{base.port}"
    return Question(replace(base, uid=uid, gid=gid, outside=nic, source=packed(source)), text)


def primary_group(uid: int, host: configuration.Host) -> str:
    """The group of a user from /etc/passwd; one that is not in there is taken to be alone in a group of its own."""
    for line in (host.file("/etc/passwd") or "").splitlines():
        parts = line.split(":")
        if len(parts) > 3 and parts[2] == str(uid):
            return parts[3]
    return str(uid)


def address(name: str, text: str) -> bytes:
    try:
        return packed(text)
    except ValueError:
        raise UsageError(f"{name} has {text!r}, which is not an address") from None


def is_local(host: str) -> bool:
    return host.startswith("127.") or packed(host) in [packed(a) for _, a in netlink.addresses()]


def way_to(host: str) -> tuple[str, str]:
    """(interface, own address) by which packets to an address leave. Nothing is sent."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect((host, 9))
        except OSError as e:
            raise InitError(f"there is no way to {host}: {e.strerror}") from None
        source: str = s.getsockname()[0].partition("%")[0]
    if is_local(host):
        return "lo", source
    index = next((i for i, a in netlink.addresses() if a == source), netlink.LO)
    return socket.if_indextoname(index), source


def in_place(config: InitConfig) -> list[Mapping[int, RuleSet]]:
    """The rules in the kernel by family, of the backend that holds ours and of others that do too."""
    from init import apply

    choice = apply.look(config).choice
    return [choice.have, *(place.have for place in choice.stale)]


def answer(rules: Sequence[Mapping[int, RuleSet]], packet: Packet) -> Verdict:
    """The verdict of the rules in place: the kernel asks every backend, the first that does something decides."""
    family = 4 if len(packet.destination) == 4 else 6
    verdict = explain(RuleSet(), packet)
    for have in rules:
        verdict = explain(have.get(family) or have.get(0) or RuleSet(), packet)
        if verdict.kind != "direct":
            break
    return verdict


def sentence(verdict: Verdict, packet: Packet) -> str:
    host = socket.inet_ntop(socket.AF_INET if len(packet.destination) == 4 else socket.AF_INET6, packet.destination)
    meant = f"{host}:{packet.port}"
    if verdict.kind == "redirected":
        return f"redirected to port {verdict.port}, where {meant} is known as the original destination"
    if verdict.kind == "tproxied":
        return f"TPROXYed to port {verdict.port}, with its addresses as they are"
    if verdict.kind == "dropped":
        return f"dropped by {verdict.detail}"
    if verdict.kind == "rewritten":
        return f"sent on to {verdict.detail or 'another address'} by a rule that is not ours"
    if verdict.kind == "forwarded":
        return f"not for this pod: forwarded to {meant} or dropped, as routing decides"
    return f"direct: it goes to {meant} as it is"
