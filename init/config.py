"""The settings of a run: flags and environment checked and resolved before anything is touched."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

from init import flags
from init.errors import InitError, UsageError, ValidationError
from init.record import record, replace
from init.settings import ALL, LIBRARY_VARIABLES, InitConfig, Ranges

__all__ = ["ALL", "Host", "InitConfig", "InitError", "Ranges", "UsageError", "ValidationError", "parse", "real_host"]

MAX_GROUPS = 64
MAX_ID = 2**32 - 2


@record
class Host:
    """What a run asks the machine: the text of a file (None when unreadable) and the addresses of its interfaces."""

    file: Callable[[str], str | None]
    addresses: Callable[[], Sequence[str]]


def real_host() -> Host:
    """This machine, in the network namespace of this process."""

    def read(path: str) -> str | None:
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return None

    def addresses() -> Sequence[str]:
        from init import netlink

        return [a for _, a in netlink.addresses()]

    return Host(read, addresses)


def parse(argv: Sequence[str], environ: Mapping[str, str], host: Host | None = None) -> InitConfig:
    """Settings from a command line and an environment. Raises UsageError (255) or InitError (1)."""
    values = flags.read(argv, environ)
    host = host or real_host()

    def text(name: str) -> str:
        return str(values[name])

    loopback4 = environ.get("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/32")
    uids, gids = owners(text("proxy-uid"), text("proxy-gid"), environ.get("ENVOY_USER") or "istio-proxy", host)
    groups, groups_exclude = owner_groups(environ, host)
    timeout = values["probe-timeout"]
    probe_port = values["iptables-probe-port"]
    config = InitConfig(
        proxy_port=port("--envoy-port", text("envoy-port")),
        inbound_port=port("--inbound-capture-port", text("inbound-capture-port")),
        tunnel_port=port("--inbound-tunnel-port", text("inbound-tunnel-port")),
        uids=uids,
        gids=gids,
        tproxy=text("istio-inbound-interception-mode") == "TPROXY",
        inbound_ports=port_list("--istio-inbound-ports", text("istio-inbound-ports"), wildcard=True),
        inbound_exclude=port_list("--istio-local-exclude-ports", text("istio-local-exclude-ports")),
        outbound_ports=port_list("--istio-outbound-ports", text("istio-outbound-ports")),
        outbound_exclude=port_list("--istio-local-outbound-ports-exclude", text("istio-local-outbound-ports-exclude")),
        exclude_interfaces=interfaces("--istio-exclude-interfaces", text("istio-exclude-interfaces")),
        virtual_interfaces=interfaces("--kube-virt-interfaces", text("kube-virt-interfaces")),
        include=ranges("--istio-service-cidr", text("istio-service-cidr"), wildcard=True),
        exclude=ranges("--istio-service-exclude-cidr", text("istio-service-exclude-cidr")),
        groups=groups,
        groups_exclude=groups_exclude,
        loopback4=loopback(loopback4),
        mark=number("--istio-inbound-tproxy-mark", text("istio-inbound-tproxy-mark"), 1, 2**32 - 1),
        route_table=number(
            "--istio-inbound-tproxy-route-table", text("istio-inbound-tproxy-route-table"), 1, 2**32 - 1
        ),
        dns=bool(values["redirect-dns"]),
        dns_all=bool(values["redirect-dns"] and values["capture-all-dns"]),
        drop_invalid=bool(values["drop-invalid"]),
        backend=text("force-iptables-binary"),
        native=bool(values["native-nftables"]),
        reconcile=bool(values["reconcile"]),
        force_apply=bool(values["force-apply"]),
        cleanup_only=bool(values["cleanup-only"]),
        skip_apply=bool(values["skip-rule-apply"]),
        dry_run=bool(values["dry-run"]),
        dry_run_file=environ.get("DRY_RUN_FILE_PATH", ""),
        validate=bool(values["run-validation"]),
        probe_port=probe_port if isinstance(probe_port, int) else 0,
        probe_timeout=timeout if isinstance(timeout, float) else 0.0,
        cni_mode=bool(values["cni-mode"]),
        namespace=text("network-namespace"),
        log_level=default_level(text("log_output_level")),
        log_json=bool(values["log_as_json"]),
        help=bool(values["help"]),
        path=environ.get("PATH", ""),
        libraries=tuple((name, environ[name]) for name in LIBRARY_VARIABLES if name in environ),
    )
    if config.backend not in ("", "nft", "legacy"):
        raise InitError(f"--force-iptables-binary is {config.backend!r} but must be nft or legacy")
    if config.route_table in (253, 254, 255):
        raise InitError(f"--istio-inbound-tproxy-route-table {config.route_table} is a table of the system")
    if config.tproxy and config.mark == 1338:
        raise InitError("--istio-inbound-tproxy-mark 1338 is the mark of the proxy's own connections")
    if config.help:
        return config
    return with_host(config, host, dual=bool(values["dual-stack"]))


def with_host(config: InitConfig, host: Host, *, dual: bool) -> InitConfig:
    """Add what depends on the machine: address families and DNS servers."""
    warnings: list[str] = []
    local = [a for a in map(plain, host.addresses()) if not special(a)]
    if not local and not config.cleanup_only:
        raise InitError("no local address was found: only loopback and link-local addresses exist")
    v6 = any(":" in a for a in local) if dual else bool(local) and ":" in local[0]
    if not v6 and (uncovered := [a for a in local if ":" in a]):
        captured = "captured, as native rules hold for both families, but" if config.native else "not captured:"
        warnings.append(f"traffic of the IPv6 address {uncovered[0]} is {captured} --dual-stack is off")
    config = replace(config, v6=v6, host_ip=local[0] if local else "")
    if config.dns and not config.dns_all:
        resolv = host.file("/etc/resolv.conf")
        if resolv is None:
            if not config.cleanup_only:
                raise InitError("/etc/resolv.conf cannot be read, so there is no DNS server to capture")
            resolv = ""
        servers = nameservers(resolv)
        if not servers.v4 and not servers.v6:
            warnings.append("/etc/resolv.conf names no server: DNS is not captured")
        config = replace(config, dns=bool(servers.v4 or servers.v6), dns_servers=servers)
    return replace(config, warnings=tuple(warnings))


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def number(name: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
        return int(text)
    raise InitError(f"{name} is {text!r} but must be a number from {low} to {high}")


def port(name: str, text: str) -> int:
    return number(name, text, 1, 65535)


def port_list(name: str, text: str, *, wildcard: bool = False) -> tuple[str, ...]:
    """Ports and ranges low:high; `*` alone where it is allowed."""
    if wildcard and text.strip() == "*":
        return ALL
    ports = []
    for part in split_list(text):
        low, colon, high = part.partition(":")
        first = port(name, low)
        last = port(name, high) if colon else first
        if last < first:
            raise InitError(f"{name} has the range {part!r}, which ends before it begins")
        ports.append(str(first) if first == last else f"{first}:{last}")
    return tuple(ports)


def interfaces(name: str, text: str) -> tuple[str, ...]:
    found = tuple(split_list(text))
    for nic in found:
        stem = nic.removesuffix("+")
        legal = stem.isascii() and stem.replace(".", "").replace("-", "").replace("_", "").isalnum()
        if not legal or stem.startswith(("-", ".")) or len(nic) > 15:
            raise InitError(f"{name} has {nic!r}, which is not the name of an interface (at most 15 of A-Za-z0-9_.-)")
    return found


def network(text: str) -> tuple[int, str, bool]:
    """(4 or 6, network address/bits, is it loopback) of an address range. Raises ValueError."""
    address, slash, size = text.partition("/")
    if not slash or not size.isascii() or not size.isdigit() or (size != "0" and size.startswith("0")):
        raise ValueError(text)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        raw = socket.inet_pton(family, address)
    except OSError:
        raise ValueError(text) from None
    bits, width = int(size), len(raw) * 8
    if bits > width:
        raise ValueError(text)
    if width == 128 and bits >= 96 and raw[:12] == bytes(10) + b"\xff\xff":
        raw, bits, width, family = raw[12:], bits - 96, 32, socket.AF_INET
    whole = int.from_bytes(raw, "big")
    loop = raw[0] == 127 if width == 32 else whole == 1
    masked = (whole >> (width - bits) << (width - bits)).to_bytes(width // 8, "big")
    return (4 if width == 32 else 6), f"{socket.inet_ntop(family, masked)}/{bits}", loop


def ranges(name: str, text: str, *, wildcard: bool = False) -> Ranges:
    if wildcard and text.strip() == "*":
        return Ranges(all=True)
    found: dict[int, list[str]] = {4: [], 6: []}
    loop = False
    for part in split_list(text):
        try:
            family, canonical, is_loop = network(part)
        except ValueError:
            hint = " or *" if wildcard else ""
            raise InitError(f"{name} has {part!r} but must be address ranges such as 10.0.0.0/8{hint}") from None
        found[family].append(canonical)
        loop = loop or is_loop
    return Ranges(v4=tuple(found[4]), v6=tuple(found[6]), loopback=loop)


def loopback(text: str) -> str:
    try:
        family, canonical, loop = network(text.strip())
    except ValueError:
        family, canonical, loop = 0, "", False
    if family != 4 or not loop or int(canonical.partition("/")[2]) < 8:
        raise InitError(f"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR is {text!r} but must be a range inside 127.0.0.0/8")
    return canonical


def plain(address: str) -> str:
    """An address without zone; an IPv4 address in IPv6 clothes is unwrapped."""
    address = address.partition("%")[0].lower()
    return address.rpartition(":")[2] if address.startswith("::ffff:") and "." in address else address


def special(address: str) -> bool:
    """Loopback, link-local, multicast, unspecified or our own ::6: of no use for deciding what to capture."""
    if ":" not in address:
        return address.startswith(("127.", "169.254.", "0.")) or int(address.partition(".")[0]) >= 224
    return address in ("::1", "::", "::6") or address[:3] in ("fe8", "fe9", "fea", "feb") or address.startswith("ff")


def nameservers(resolv: str) -> Ranges:
    """The servers of a resolv.conf as single-address ranges; what does not parse is skipped."""
    found: dict[int, list[str]] = {4: [], 6: []}
    for line in resolv.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        address = plain(words[1])
        try:
            family, canonical, _ = network(address + ("/128" if ":" in address else "/32"))
        except ValueError:
            continue
        if canonical not in found[family]:
            found[family].append(canonical)
    return Ranges(v4=tuple(found[4]), v6=tuple(found[6]))


def account(path: str, name: str, host: Host) -> str | None:
    """The numeric id of a user or group, from the file alone: a name service may hang, and rules want numbers."""
    for line in (host.file(path) or "").splitlines():
        parts = line.split(":")
        if len(parts) > 2 and parts[0] == name and parts[2].isdigit():
            return parts[2]
    return None


def identity(setting: str, text: str, path: str, host: Host) -> str:
    """A uid or gid: a number, a range of numbers low-high, or a name from the file."""
    low, dash, high = text.partition("-")
    if low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit())):
        first = number(setting, low, 0, MAX_ID)
        last = number(setting, high, 0, MAX_ID) if dash else first
        if last < first:
            raise InitError(f"{setting} has the range {text!r}, which ends before it begins")
        return str(first) if first == last else f"{first}-{last}"
    found = account(path, text, host)
    if found is None:
        raise InitError(f"{setting} names {text!r}, which is neither a number nor known in {path}")
    return found


def owners(uids: str, gids: str, user: str, host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The proxy's uids and gids; without a setting the uid of `user`, else 1337, and the gids follow the uids."""
    uid_list = split_list(uids) or [account("/etc/passwd", user, host) or "1337"]
    gid_list = split_list(gids) or uid_list
    return (
        tuple(identity("--proxy-uid", u, "/etc/passwd", host) for u in uid_list),
        tuple(identity("--proxy-gid", g, "/etc/group", host) for g in gid_list),
    )


def owner_groups(environ: Mapping[str, str], host: Host) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Groups whose traffic is captured (`*` for all) and, only then, groups whose traffic is not."""
    name = "ISTIO_OUTBOUND_OWNER_GROUPS"
    include, exclude = split_list(environ.get(name, "") or "*"), split_list(environ.get(name + "_EXCLUDE", ""))
    if include == ["*"]:
        return ALL, tuple(identity(name + "_EXCLUDE", g, "/etc/group", host) for g in exclude)
    if len(include) > MAX_GROUPS:
        raise InitError(f"{name} has {len(include)} groups, at most {MAX_GROUPS} are possible")
    return tuple(identity(name, g, "/etc/group", host) for g in include), ()


def default_level(text: str) -> str:
    """The level that applies to this program in a list of scope:level."""
    level = "info"
    for part in text.split(","):
        scope, colon, value = part.rpartition(":")
        if not colon or scope in ("default", "all", "iptables"):
            level = value
    return level
