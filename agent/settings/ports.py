"""The ports that the agent and its Envoy will bind: whether two of them are one, and whether they are free."""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.config import AgentConfig
from agent.dns import listen, resolv
from agent.record import record

ANY = ("0.0.0.0", "::")


@record
class Port:
    """`owner` says whose it is and which setting moves it; `host` is an address, ANY's for every one."""

    owner: str
    host: str
    number: int
    udp: bool = False


def wanted(config: AgentConfig, bootstrap: Mapping[str, Any]) -> Iterator[Port]:
    """What `config` and Envoy's bootstrap bind. FatalError (one sentence): the DNS address or resolv.conf won't do.

    Envoy's listeners that the control plane sends, and those of a customConfigFile, are not known before the start.
    """
    if config.status.port:
        yield Port("the status port (statusPort)", "::", config.status.port)
    if config.dns.enabled and (place := listen.place(config.dns)).port:
        for host in resolv.listen_hosts(place.host, place.resolv.servers):
            for udp in (False, True):
                yield Port("the DNS proxy (DNS_PROXY_ADDR)", host or "::", place.port, udp)
    admin = _addresses(_at(bootstrap, "admin"))
    yield from (Port("Envoy's admin port (proxyAdminPort)", host, number) for host, number in admin)
    listeners = _at(_at(bootstrap, "static_resources"), "listeners")
    for one in listeners if isinstance(listeners, list) else ():
        for host, number in _addresses(one):
            yield Port(f"Envoy's listener {_at(one, 'name')}", host, number)


def _at(value: Any, key: str) -> Any:
    """A custom bootstrap may hold anything; Envoy is the one to judge it."""
    return value.get(key) if isinstance(value, Mapping) else None


def _addresses(holder: Any) -> Iterator[tuple[str, int]]:
    more = _at(holder, "additional_addresses")
    for one in (holder, *(more if isinstance(more, list) else ())):
        found = _at(_at(one, "address"), "socket_address")
        host, number = _at(found, "address"), _at(found, "port_value")
        if isinstance(host, str) and isinstance(number, int):
            yield host, number


def faults(ports: list[Port], refusal: Callable[[Port], str]) -> Iterator[str]:
    """One sentence for each pair that wants the same port and each port that `refusal` has a reason against."""
    for i, port in enumerate(ports):
        if not 0 < port.number < 65536:
            yield f"{port.owner} cannot be {port.number}: ports go from 1 to 65535"
            continue
        others = {p.owner: p for p in ports[:i] if p.owner != port.owner and _collide(p, port)}
        for other in others:
            yield f"{other} and {port.owner} are both {port.number}: move one of them"
        if not others and (reason := refusal(port)):
            kind = "udp" if port.udp else "tcp"
            hint = f" (`ss -Hlnp{kind[0]} sport = :{port.number}` names who has it)" if reason == TAKEN else ""
            yield f"{port.owner} cannot be {kind} {port.number}: {reason}{hint}"


def _collide(a: Port, b: Port) -> bool:
    return a.udp == b.udp and a.number == b.number and (a.host == b.host or a.host in ANY or b.host in ANY)


TAKEN = os.strerror(errno.EADDRINUSE)


def refusal(port: Port) -> str:
    """Why the kernel would not give `port` to this process now, "" if it would. Nobody else notices the question."""
    try:
        family, _, _, _, address = socket.getaddrinfo(port.host, port.number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM if port.udp else socket.SOCK_STREAM) as sock:
            if not port.udp:  # bound, but never listening: it takes the port from nobody
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(port.host not in ANY))
            sock.bind(address)
    except OSError as error:
        if port.host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
            return refusal(Port(port.owner, "0.0.0.0", port.number, port.udp))  # a kernel without IPv6
        return error.strerror or str(error)
    return ""
