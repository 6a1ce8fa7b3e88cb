"""The fields of istio.mesh.v1alpha1.ProxyConfig as data, and their protobuf JSON spelling.

A kind is a pair (convert, explicit): `convert(value, where)` returns the canonical JSON value or raises ValueError;
`explicit` fields are kept when they hold their default (wrappers, messages, members of a oneof), others are dropped.
"""

from collections.abc import Callable, Mapping
from typing import Any

from agent.durations import proto_nanos, proto_text

Convert = Callable[[Any, str], Any]
Kind = tuple[Convert, bool]

INFINITY = float("inf")


def _wrong(where: str, wanted: str, value: Any) -> ValueError:
    shown = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return ValueError(f"{where} must be {wanted}, not {shown}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string (quote it)", value)
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _integer(low: int, high: int) -> Convert:
    def convert(value: Any, where: str) -> int:
        if isinstance(value, str):
            try:
                value = int(value) if value == value.strip() and "_" not in value else value
            except ValueError:
                pass
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(where, "a whole number", value)
        if not low <= value <= high:
            raise _wrong(where, f"between {low} and {high}", value)
        return value

    return convert


def _double(value: Any, where: str) -> float | int | str:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(where, "a number", value)
    if value != value or value in (INFINITY, -INFINITY):  # JSON has no such numbers, protobuf writes them as text
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _duration(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a duration such as 5s", value)
    try:
        return proto_text(proto_nanos(value))
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None


def _enum(names: str, extra: Mapping[int, str] | None = None) -> Convert:
    numbers = {**dict(enumerate(names.split())), **(extra or {})}
    known = set(numbers.values())

    def convert(value: Any, where: str) -> str | int:
        if isinstance(value, str) and value in known:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return numbers.get(value, value)  # protobuf keeps numbers that it does not know
        raise _wrong(where, f"one of {', '.join(numbers.values())}", value)

    return convert


def _list(item: Kind) -> Kind:
    def convert(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return [item[0](v, f"{where}[{i}]") for i, v in enumerate(value)]

    return convert, False


def _map(item: Kind) -> Kind:
    def convert(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "a mapping", value)
        return {_key(k): item[0](v, f"{where}.{_key(k)}") for k, v in value.items()}

    return convert, False


def _key(key: Any) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def camel(name: str) -> str:
    """protobuf's JSON name of a field that may be written in either spelling."""
    first, *others = name.split("_")
    return first + "".join(o[:1].upper() + o[1:] for o in others)


_FIELDS: dict[Convert, Mapping[str, Kind]] = {}  # of every message, filled while this module is read


def _message(**fields: Kind) -> Kind:
    def convert(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "a mapping", value)
        out = {}
        for key, raw in value.items():
            name = camel(_key(key))
            if raw is None or name not in fields:  # null is unset; unknown fields are tolerated
                continue
            read, explicit = fields[name]
            canonical = read(raw, f"{where}.{name}" if where else name)
            if explicit or not _is_default(read, canonical):
                out[name] = canonical
        return out

    _FIELDS[convert] = fields
    return convert, True


def unknown(value: Any, kind: Kind, where: str = "") -> list[str]:
    """Names of the fields in `value` that a message of this kind does not have; they are ignored, as protobuf does."""
    fields = _FIELDS.get(kind[0])
    if fields is None or not isinstance(value, dict):
        return []
    out: list[str] = []
    for key, inner in value.items():
        name = f"{where}.{_key(key)}" if where else _key(key)
        known = fields.get(camel(_key(key)))
        out += [name] if known is None else unknown(inner, known, name)
    return out


def _is_default(read: Convert, value: Any) -> bool:
    return value in ("", 0, False) or value == [] or value == {} or value in _FIRST.get(read, ())


STR: Kind = (_string, False)
BOOL: Kind = (_boolean, False)
INT: Kind = (_integer(-(2**31), 2**31 - 1), False)
UINT: Kind = (_integer(0, 2**32 - 1), False)
DOUBLE: Kind = (_double, False)
DURATION: Kind = (_duration, True)
WRAPPED_BOOL: Kind = (_boolean, True)
WRAPPED_INT: Kind = (INT[0], True)
WRAPPED_LONG: Kind = (_integer(-(2**63), 2**63 - 1), True)
WRAPPED_UINT: Kind = (UINT[0], True)

_auth = _enum("NONE MUTUAL_TLS", {1000: "INHERIT"})
_interception = _enum("REDIRECT TPROXY NONE")
_tls_mode = _enum("DISABLE SIMPLE MUTUAL ISTIO_MUTUAL")
_client_cert = _enum("UNDEFINED SANITIZE FORWARD_ONLY APPEND_FORWARD SANITIZE_SET ALWAYS_FORWARD_ONLY")
_exchange = _enum("UNDEFINED IN_MESH")
_FIRST: dict[Convert, tuple[str, ...]] = {
    _auth: ("NONE",),
    _interception: ("REDIRECT",),
    _tls_mode: ("DISABLE",),
    _client_cert: ("UNDEFINED",),
    _exchange: ("UNDEFINED",),
}

TLS = _message(
    mode=(_tls_mode, False),
    clientCertificate=STR,
    privateKey=STR,
    caCertificates=STR,
    credentialName=STR,
    subjectAltNames=_list(STR),
    sni=STR,
    insecureSkipVerify=WRAPPED_BOOL,
    caCrl=STR,
)
REMOTE = _message(address=STR, tlsSettings=TLS, tcpKeepalive=_message(probes=UINT, time=DURATION, interval=DURATION))
_NAMED = _message(name=STR, defaultValue=STR)
TRACING = _message(
    zipkin=_message(address=STR),
    lightstep=_message(address=STR, accessToken=STR),
    datadog=_message(address=STR),
    stackdriver=_message(
        debug=BOOL,
        maxNumberOfAttributes=WRAPPED_LONG,
        maxNumberOfAnnotations=WRAPPED_LONG,
        maxNumberOfMessageEvents=WRAPPED_LONG,
    ),
    openCensusAgent=_message(
        address=STR, context=_list((_enum("UNSPECIFIED W3C_TRACE_CONTEXT GRPC_BIN CLOUD_TRACE_CONTEXT B3"), True))
    ),
    customTags=_map(_message(literal=_message(value=STR), environment=_NAMED, header=_NAMED)),
    maxPathTagLength=UINT,
    sampling=DOUBLE,
    tlsSettings=TLS,
    enableIstioTags=WRAPPED_BOOL,
)
_HEADER = _message(name=STR, value=STR)
PROBE = _message(
    initialDelaySeconds=INT,
    timeoutSeconds=INT,
    periodSeconds=INT,
    successThreshold=INT,
    failureThreshold=INT,
    httpGet=_message(path=STR, port=UINT, host=STR, scheme=STR, httpHeaders=_list(_HEADER)),
    tcpSocket=_message(host=STR, port=UINT),
    exec=_message(command=_list(STR)),
    grpc=_message(port=UINT, service=STR),
)
_DISABLED = _message(disabled=WRAPPED_BOOL)
_ENABLED = _message(enabled=WRAPPED_BOOL)
_POLL = _message(pollDelay=DURATION, fallback=WRAPPED_BOOL)
PROXY_CONFIG = _message(
    configPath=STR,
    binaryPath=STR,
    serviceCluster=(_string, True),
    tracingServiceName=(_enum("APP_LABEL_AND_NAMESPACE CANONICAL_NAME_ONLY CANONICAL_NAME_AND_NAMESPACE"), True),
    drainDuration=DURATION,
    discoveryAddress=STR,
    statsdUdpAddress=STR,
    proxyAdminPort=INT,
    controlPlaneAuthPolicy=(_auth, False),
    customConfigFile=STR,
    statNameLength=INT,
    concurrency=WRAPPED_INT,
    proxyBootstrapTemplatePath=STR,
    interceptionMode=(_interception, False),
    tracing=TRACING,
    envoyAccessLogService=REMOTE,
    envoyMetricsService=REMOTE,
    proxyMetadata=_map(STR),
    statusPort=INT,
    extraStatTags=_list(STR),
    gatewayTopology=_message(
        numTrustedProxies=UINT, forwardClientCertDetails=(_client_cert, False), proxyProtocol=_message()
    ),
    terminationDrainDuration=DURATION,
    meshId=STR,
    readinessProbe=PROBE,
    proxyStatsMatcher=_message(inclusionPrefixes=_list(STR), inclusionSuffixes=_list(STR), inclusionRegexps=_list(STR)),
    holdApplicationUntilProxyStarts=WRAPPED_BOOL,
    caCertificatesPem=_list(STR),
    image=_message(imageType=STR),
    runtimeValues=_map(STR),
    privateKeyProvider=_message(cryptomb=_POLL, qat=_POLL),
    proxyHeaders=_message(
        forwardedClientCert=(_client_cert, False),
        setCurrentClientCertDetails=_message(
            subject=WRAPPED_BOOL, cert=WRAPPED_BOOL, chain=WRAPPED_BOOL, dns=WRAPPED_BOOL, uri=WRAPPED_BOOL
        ),
        requestId=_DISABLED,
        server=_message(disabled=WRAPPED_BOOL, value=STR),
        attemptCount=_DISABLED,
        envoyDebugHeaders=_DISABLED,
        metadataExchangeHeaders=_message(mode=(_exchange, False)),
        xForwardedHost=_ENABLED,
        xForwardedPort=_ENABLED,
        preserveHttp1HeaderCase=_ENABLED,
    ),
    fileFlushInterval=DURATION,
    fileFlushMinSizeKb=WRAPPED_UINT,
    statsCompression=WRAPPED_BOOL,
    connectionSettings=_message(globalDownstreamConnectionLimit=WRAPPED_UINT),
)
FIELDS = tuple(_FIELDS[PROXY_CONFIG[0]])
