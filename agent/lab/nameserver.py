"""The name server in the /etc/resolv.conf of a lab's pods, the part of the cluster's DNS: it knows the control plane.

Services of the mesh are unknown here on purpose: they resolve through the agent's own DNS or not at all.
Run as `python -m agent.lab.nameserver ADDRESS NAME=IP...`; UDP and port 53 only.
"""

import socket
import struct
import sys
from collections.abc import Mapping

NOERROR, FORMERR, NXDOMAIN = 0, 1, 3
A = 1


def read_question(packet: bytes) -> tuple[str, int, int]:
    """(name in lower case without the last dot, type, end offset) of the first question. Raises ValueError."""
    if len(packet) < 12 or packet[2] & 0x80 or struct.unpack_from("!H", packet, 4)[0] < 1:
        raise ValueError("not a query")
    labels, at = [], 12
    while True:
        if at >= len(packet):
            raise ValueError("name is cut off")
        length = packet[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(packet):
            raise ValueError("bad label")
        labels.append(packet[at : at + length].decode("ascii", errors="replace").lower())
        at += length
    if at + 4 > len(packet):
        raise ValueError("question is cut off")
    return ".".join(labels), struct.unpack_from("!H", packet, at)[0], at + 4


def answer(packet: bytes, hosts: Mapping[str, str]) -> bytes | None:
    """The reply to one query; None when it deserves none."""
    if len(packet) < 12:
        return None
    try:
        name, kind, end = read_question(packet)
    except ValueError:
        return packet[:2] + struct.pack("!HHHHH", 0x8080 | FORMERR, 0, 0, 0, 0)
    ip = hosts.get(name)
    records = [socket.inet_aton(ip)] if ip and kind == A else []
    flags = 0x8480 | (packet[2] & 1) << 8 | (NOERROR if ip else NXDOMAIN)
    reply = packet[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + packet[12:end]
    for record in records:
        reply += struct.pack("!HHHIH", 0xC00C, A, 1, 30, len(record)) + record
    return reply


def main(argv: list[str]) -> int:
    address, *pairs = argv
    hosts = dict(pair.split("=", 1) for pair in pairs)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        print(f"name server on {address}:53 for {', '.join(hosts)}", flush=True)
        while True:
            packet, peer = server.recvfrom(4096)
            if (reply := answer(packet, hosts)) is not None:
                server.sendto(reply, peer)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
