"""What resolv.conf(5) says to a proxy, and which addresses a listen address means in its light."""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

DEFAULT_ADDRESS = "localhost:15053"


class ResolvConf(NamedTuple):
    """Nameservers as numeric addresses; search domains lower-case without final dot."""

    servers: tuple[str, ...]
    search: tuple[str, ...]


def parse(text: str) -> ResolvConf:
    """Read a resolv.conf. The last `search` or `domain` line wins; nameservers that are not addresses are left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.lstrip()[:1] in ("#", ";"):
            continue
        match line.split():
            case ["nameserver", address, *_] if is_v6(address) is not None and address not in servers:
                servers.append(address)
            case ["search", *domains]:
                search = tuple(d.strip(".").lower() for d in domains if d.strip("."))
            case ["domain", domain, *_]:
                search = tuple(d for d in (domain.strip(".").lower(),) if d)
    return ResolvConf(tuple(servers), search)


def is_v6(address: str) -> bool | None:
    """Whether a numeric address is IPv6; None if it is not a numeric address."""
    try:
        return isinstance(ip_address(address), IPv6Address)
    except ValueError:
        return None


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` taken apart; empty means the default. ValueError if it is none of them."""
    host, colon, port = (address or DEFAULT_ADDRESS).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if is_v6(host) is not True:
            raise ValueError(f"{address!r} is not an address with a port")
    elif ":" in host:
        raise ValueError(f"{address!r} is not an address with a port")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} has no usable port")
    return host, int(port)


def listen_hosts(host: str, servers: Sequence[str]) -> list[str]:
    """Where to listen: `localhost` follows the families of the nameservers, anything else is itself."""
    if host != "localhost":
        return [host]
    families = {is_v6(server) for server in servers}
    return [ip for ip, v6 in (("127.0.0.1", False), ("::1", True)) if v6 in families] or ["127.0.0.1"]
