"""The host table: istiod's name table, the names it implies, and how a queried name is found in it."""

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from google.protobuf.message import DecodeError

from agent.model import NameInfo
from agent.protos import names_pb2

KUBERNETES = "Kubernetes"


class Addresses(NamedTuple):
    """Packed addresses of one host, in istiod's order."""

    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]


class Match(NamedTuple):
    """A host that was found; `target` is the host's own name when the query reached it through the search domain."""

    addresses: Addresses
    target: str | None


def decode(payload: bytes) -> dict[str, NameInfo]:
    """Read a serialized istio NameTable; ValueError with one sentence if it is not one."""
    try:
        message = names_pb2.NameTable.FromString(payload)
    except DecodeError as error:
        raise ValueError(f"the name table cannot be decoded: {error}") from None
    return {
        host: NameInfo(tuple(info.ips), info.registry, info.shortname, info.namespace, tuple(info.alt_hosts))
        for host, info in message.table.items()
    }


def addresses(ips: tuple[str, ...]) -> Addresses:
    """The valid ones among `ips`, packed, by family."""
    packed = [raw for raw in map(_packed, ips) if raw]
    return Addresses(tuple(p for p in packed if len(p) == 4), tuple(p for p in packed if len(p) == 16))


def _packed(text: str) -> bytes:
    try:
        return ip_address(text).packed
    except ValueError:
        return b""


def cluster_domain(domain: str, namespace: str) -> str:
    """The part of the proxy's `--domain` that all of its cluster shares: without a leading own namespace."""
    domain = domain.strip(".")
    first, _, rest = domain.partition(".")
    return rest if namespace and first == namespace else domain


def aliases(host: str, info: NameInfo, namespace: str, domain: str) -> list[str]:
    """Every name that `host` answers to, without final dots, as given (case too); `domain` is the cluster's.

    Kubernetes hosts of the proxy's own cluster also have their short forms and istiod's alternatives.
    """
    if info.registry != KUBERNETES:
        return [host.removesuffix(".")]
    if host.endswith("."):
        return []  # as istio's agent: istiod never writes such a key
    names = [host]
    if domain and host.lower().endswith("." + domain.lower()):
        if info.shortname and info.namespace:
            qualified = f"{info.shortname}.{info.namespace}"
            names += [qualified, f"{qualified}.{domain.partition('.')[0]}"]
            if info.namespace == namespace:
                names.append(info.shortname)
        names += [name.removesuffix(".") for name in info.alt_hosts]
    return names


class HostTable:
    """Immutable index of a name table for one proxy. `search` is the resolver's first search domain, or empty."""

    __slots__ = ("_hosts", "_suffix", "_wild")

    def __init__(self, table: Mapping[str, NameInfo], namespace: str, domain: str, search: str) -> None:
        shared = cluster_domain(domain, namespace)
        generated: dict[str, Addresses] = {}
        hosts: dict[str, Addresses] = {}
        for host, info in table.items():
            ips = addresses(info.ips)
            if ips.v4 or ips.v6:
                own, *more = aliases(host, info, namespace, shared) or [""]
                hosts[own.lower()] = ips
                for name in more:
                    generated[name.lower()] = ips
        # A real host beats the short form of another one, whatever the order in the message.
        self._hosts = generated | hosts
        self._hosts.pop("", None)
        self._wild = {name[1:]: ips for name, ips in self._hosts.items() if name.startswith("*.")}
        search = search.strip(".").lower()
        self._suffix = "." + search if search else ""

    def __len__(self) -> int:
        return len(self._hosts)

    def find(self, name: str) -> Match | None:
        """The host behind a lower-case name without final dot: exact, then by search domain, then by wildcard."""
        if (found := self._hosts.get(name)) is not None:
            return Match(found, None)
        suffix, target = self._suffix, ""
        if suffix and name.endswith(suffix):
            target = name[: -len(suffix)]
            # Hosts that already end in the search domain are not expanded once more.
            if not target.endswith(suffix) and (found := self._hosts.get(target)) is not None:
                return Match(found, target)
        return self._find_wild(name, target) if self._wild else None

    def _find_wild(self, name: str, target: str) -> Match | None:
        """The longest suffix wins, whether a wildcard has it or gets it from the search domain."""
        at = name.find(".")
        while at >= 0:
            if (found := self._wild.get(name[at:])) is not None:
                return Match(found, None)
            rest = target[at:]
            if rest and not rest.endswith(self._suffix) and (found := self._wild.get(rest)) is not None:
                return Match(found, target)
            at = name.find(".", at + 1)
        return None


def debug_json(table: Mapping[str, NameInfo], namespace: str, domain: str) -> str:
    """The body of /debug/ndsz: the table as received, and each generated name with a final dot."""
    shared = cluster_domain(domain, namespace)
    rows = {host: dict(_fields(info)) for host, info in table.items()}
    for host, info in table.items():
        ips = [ip for ip in info.ips if _packed(ip)]
        if ips:
            for name in aliases(host, info, namespace, shared):
                rows.setdefault(name.lower() + ".", {"ips": ips, "registry": KUBERNETES})
    return json.dumps({"table": rows}, indent=2, sort_keys=True)


def _fields(info: NameInfo) -> Iterator[tuple[str, str | list[str]]]:
    if info.ips:
        yield "ips", list(info.ips)
    for key, value in (("registry", info.registry), ("shortname", info.shortname), ("namespace", info.namespace)):
        if value:
            yield key, value
    if info.alt_hosts:
        yield "alt_hosts", list(info.alt_hosts)
