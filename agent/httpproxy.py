"""Which peers are reached through the HTTP proxy of the environment: the rules of Go's httpproxy, as in grpc-go."""

import binascii
import re
from typing import TYPE_CHECKING

from agent.config import HttpProxy
from agent.settings.proxyconfig import split_address

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_PORTS = {"http": "80", "https": "443"}  # by scheme, where none is given


def parse(text: str, exceptions: str = "") -> HttpProxy:
    """From `[SCHEME://][USER:PASSWORD@]HOST[:PORT]` and NO_PROXY.

    Raises ValueError with a reason that repeats nothing of the text, which may hold a password.
    """
    scheme, rest = _split_scheme(text.strip())
    credentials, _, place = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")
    if place.endswith("]") or ":" not in place:
        place += ":"
    if place.endswith(":"):
        place += _PORTS.get(scheme.lower(), "80")
    try:
        host, port = split_address(place)
    except ValueError:
        raise ValueError("it must be [http://][USER:PASSWORD@]HOST[:PORT]") from None
    return HttpProxy(host, port, _basic(credentials) if credentials else "", exceptions)


def shown(text: str) -> str:
    """The variable's value without credentials, usable or not."""
    head, rest = text[: text.find("://") + 3] if "://" in text else "", _split_scheme(text)[1]
    return f"{head}(redacted)@{rest.rpartition('@')[2]}" if "@" in rest else text


def applies(proxy: HttpProxy, host: str, port: int) -> bool:
    """Whether `host` is dialled through `proxy`: not if it is this machine, nor if an exception names it."""
    name = ascii_name(host).lower()
    ip = _ip(name.partition("%")[0] if ":" in name else name)
    if name == "localhost" or (ip is not None and ip.is_loopback):
        return False
    return not any(_names(entry.strip().lower(), name, ip, str(port)) for entry in proxy.exceptions.split(","))


def ascii_name(name: str) -> str:
    """The name as DNS has it; what cannot be one stays as it is."""
    if name.isascii():
        return name
    try:
        return ".".join(label.encode("idna").decode() for label in name.split("."))
    except UnicodeError:
        return name


def _split_scheme(text: str) -> tuple[str, str]:
    scheme, found, rest = text.partition("://")
    return (scheme, rest) if found else ("http", text)


def _basic(credentials: str) -> str:
    """`USER[:PASSWORD]`, percent-encoded as in every URL, as the value of a Proxy-Authorization header."""
    from urllib.parse import unquote_to_bytes

    user, _, password = credentials.partition(":")
    plain = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    return f"Basic {binascii.b2a_base64(plain, newline=False).decode()}"


def _names(entry: str, name: str, ip: "IPv4Address | IPv6Address | None", port: str) -> bool:
    """Whether one entry of NO_PROXY means this host (`ip`, if it is an address) and port."""
    if entry in ("", "*"):
        return entry == "*"
    network = _network(entry)
    if network is not None:
        return ip is not None and ip in network
    wanted, only = _split_port(entry)
    if only not in ("", port) or not wanted:
        return False
    known = _ip(wanted)
    if known is not None or ip is not None:
        return known == ip
    # `*.a` is `.a`, the names below `a`; a bare `a` is that name as well.
    suffix = ascii_name(wanted.removeprefix("*") if wanted.startswith("*.") else wanted)
    return name.endswith(suffix) if suffix.startswith(".") else name == suffix or name.endswith("." + suffix)


def _split_port(entry: str) -> tuple[str, str]:
    """Host and port of an entry ("" = every port); an IPv6 address has a port only if it is in brackets."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:\[\]]*)", entry)
    return (found[1] or found[2] or "", found[3]) if found else (entry, "")


def _ip(text: str) -> "IPv4Address | IPv6Address | None":
    """None for a name; an IPv4 address that is written as an IPv6 one is an IPv4 address."""
    if ":" not in text and not text[-1:].isdigit():
        return None
    from ipaddress import IPv6Address, ip_address

    try:
        ip = ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        return None if ip.scope_id else ip.ipv4_mapped or ip
    return ip


def _network(text: str) -> "IPv4Network | IPv6Network | None":
    found = re.fullmatch(r"([^/]+)/0*([0-9]{1,3})", text)
    ip = _ip(found[1]) if found else None
    if found is None or ip is None:
        return None
    from ipaddress import ip_network

    length = int(found[2]) - (96 if ip.version == 4 and ":" in found[1] else 0)
    return ip_network(f"{ip}/{length}", strict=False) if 0 <= length <= ip.max_prefixlen else None
