"""One YAML file that describes a mesh: frozen model, and a parser whose errors are one sentence each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import yaml

from agent.errors import ConfigError
from agent.lab.fields import DOMAIN, LABEL, Invalid, Table, kind

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_TTL = 10 * 365 * 86400.0  # as long as the lab's root


class Mtls(Enum):
    """What inbound listeners accept and what clients send."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual IP and port for the workloads naming it. Callers' proxies add `headers` to every response.

    Several ports of a service are several rows with the same name.
    """

    name: str
    namespace: str
    vip: str
    port: int
    target_port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """`b.demo.svc.cluster.local`: the DNS suffix is not the trust domain."""
        return f"{self.name}.{self.namespace}.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Workload:
    """One pod. `service` is the name of a service in the same namespace, or empty for a pure client."""

    name: str
    namespace: str
    service_account: str
    ip: str
    service: str = ""


@dataclass(frozen=True, slots=True)
class Mesh:
    trust_domain: str = "cluster.local"
    mtls: Mtls = Mtls.STRICT
    ttl: float | None = None  # seconds; upper bound on what the lab CA issues
    access_log: str = ""  # path that Envoy's listeners log to; "" = no access log
    services: tuple[Service, ...] = ()
    workloads: tuple[Workload, ...] = ()

    def spiffe(self, workload: Workload) -> str:
        return f"spiffe://{self.trust_domain}/ns/{workload.namespace}/sa/{workload.service_account}"

    def members(self, service: Service) -> tuple[Workload, ...]:
        """The workloads behind a service, in file order."""
        return tuple(w for w in self.workloads if w.service == service.name and w.namespace == service.namespace)

    def services_of(self, workload: Workload) -> tuple[Service, ...]:
        return tuple(s for s in self.services if s.name == workload.service and s.namespace == workload.namespace)


def parse(text: str, source: str = "mesh file") -> Mesh:
    """YAML text to a mesh. Raises ConfigError whose sentence names `source` and the offending key."""
    try:
        document = yaml.safe_load(text)
        return _mesh({} if document is None else document)
    except yaml.YAMLError as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{source} is not valid YAML{where}: {problem}") from None
    except Invalid as error:
        raise ConfigError(f"{source}: {error}") from None
    except (ValueError, RecursionError, OverflowError) as error:  # PyYAML's own constructors (dates, numbers, nesting)
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def parse_bytes(content: bytes, source: str = "mesh file") -> Mesh:
    """As `parse`, from UTF-8."""
    try:
        return parse(content.decode(), source)
    except UnicodeDecodeError:
        raise ConfigError(f"{source} is not UTF-8 text") from None


def duration(text: object) -> float:
    """Go's spelling (`24h`, `1m30s`, `500ms`) or a plain number of seconds. Raises ValueError."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        seconds = float(text)
    else:
        parts = _DURATION.findall(str(text))
        if not parts or "".join(number + unit for number, unit in parts) != str(text):
            raise ValueError(f"{text!r} is not a duration such as 30s, 10m or 24h")
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= MAX_TTL:
        raise ValueError(f"{text!r} is not between 0 and ten years")
    return seconds


def _mesh(document: object) -> Mesh:
    top = Table(document, "")
    certificates = top.table("certificates")
    ttl = certificates.take("ttl")
    try:
        seconds = None if ttl is None else duration(ttl)
    except ValueError as error:
        raise Invalid(f"certificates.ttl: {error}") from None
    certificates.finish()
    mesh = Mesh(
        trust_domain=top.text("trust_domain", DOMAIN.fullmatch, "a lower-case domain name", "cluster.local"),
        mtls=Mtls(top.text("mtls", Mtls.__members__.__contains__, "STRICT, PERMISSIVE or DISABLE", "STRICT")),
        ttl=seconds,
        access_log=top.text("access_log", _is_text, "a path", ""),
        services=tuple(_service(row) for row in top.rows("services")),
        workloads=tuple(_workload(row) for row in top.rows("workloads")),
    )
    top.finish()
    _check(mesh)
    return mesh


def _is_text(text: str) -> bool:
    return text.isprintable()


def _service(row: Table) -> Service:
    port = row.port("port")
    service = Service(
        name=row.label("name"),
        namespace=row.label("namespace", "default"),
        vip=row.address("vip"),
        port=port,
        target_port=row.port("target_port", port),
        headers=_headers(row.take("headers", {}), row.path("headers")),
    )
    row.finish()
    return service


def _headers(value: object, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise Invalid(f"{where} must be a mapping of header names to texts, not {kind(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name) or name.lower() == "host":
            raise Invalid(f"{where}: {name!r} is not a response header name")
        if not isinstance(text, str) or not text.isprintable() or "%" in text:
            raise Invalid(f"{where}.{name} must be a printable text without '%', not {text!r}")
    return dict(value)


def _workload(row: Table) -> Workload:
    name = row.label("name")
    workload = Workload(
        name=name,
        namespace=row.label("namespace", "default"),
        service_account=row.text("service_account", DOMAIN.fullmatch, "a service account name", "default"),
        ip=row.address("ip"),
        service=row.text("service", lambda text: not text or LABEL.fullmatch(text), "the name of a service", ""),
    )
    row.finish()
    return workload


def _check(mesh: Mesh) -> None:
    """Rules between rows: unique names and addresses, services that exist."""
    _unique("services", [f"{s.host}:{s.port}" for s in mesh.services], "service port")
    _unique("services", [f"{s.vip}_{s.port}" for s in mesh.services], "address and port")
    _unique("workloads", [f"{w.name}.{w.namespace}" for w in mesh.workloads], "workload")
    _unique("workloads", [w.ip for w in mesh.workloads], "address")
    known = {(s.name, s.namespace) for s in mesh.services}
    for at, workload in enumerate(mesh.workloads):
        if workload.service and (workload.service, workload.namespace) not in known:
            raise Invalid(
                f"workloads[{at}].service names {workload.service!r}, "
                f"which is no service of namespace {workload.namespace}"
            )


def _unique(table: str, keys: list[str], what: str) -> None:
    seen: dict[str, int] = {}
    for at, key in enumerate(keys):
        if key in seen:
            raise Invalid(f"{table}[{at}] repeats the {what} {key} of {table}[{seen[key]}]")
        seen[key] = at
