"""MeshConfig beside its defaultConfig: the agent uses none of it, and refuses what istio's agent refuses. Pure.

The fields are those of istio.mesh.v1alpha1.MeshConfig; one that is not listed here is tolerated, whatever it holds.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent.durations import proto_nanos
from agent.errors import ConfigError
from agent.settings.protojson import (
    BOOL,
    DURATION,
    INT,
    ONE_OF_STR,
    STR,
    STRUCT,
    UINT,
    WRAPPED_BOOL,
    WRAPPED_INT,
    enum,
    list_of,
    map_of,
    message,
    unknown,
)
from agent.settings.proxyschema import KEEPALIVE, OPENCENSUS_CONTEXT, STACKDRIVER, TLS

STRINGS = list_of(STR)
SERVICE = {"service": STR, "port": UINT}
TRACER = {**SERVICE, "maxTagLength": UINT}
GRPC_LOG = {**SERVICE, "logName": STR, "filterStateObjectsToLog": STRINGS}
LOG_FORMAT = message(text=STR, labels=STRUCT)
AUTHORIZER = {
    **SERVICE,
    "timeout": DURATION,
    "failOpen": BOOL,
    "clearRouteCache": BOOL,
    "statusOnError": STR,
    "includeRequestBodyInCheck": message(maxRequestBytes=UINT, allowPartialMessage=BOOL, packAsBytes=BOOL),
}
HTTP_SERVICE = message(path=STR, timeout=DURATION, headers=list_of(message(name=STR, value=STR, envName=STR)))
TLS_CONFIG = message(minProtocolVersion=enum("TLS_AUTO TLSV1_2 TLSV1_3"), ecdhCurves=STRINGS, cipherSuites=STRINGS)
EXTENSION_PROVIDER = message(
    name=STR,
    envoyExtAuthzHttp=message(
        **AUTHORIZER,
        pathPrefix=STR,
        includeHeadersInCheck=STRINGS,
        includeRequestHeadersInCheck=STRINGS,
        includeAdditionalHeadersInCheck=map_of(STR),
        headersToUpstreamOnAllow=STRINGS,
        headersToDownstreamOnDeny=STRINGS,
        headersToDownstreamOnAllow=STRINGS,
    ),
    envoyExtAuthzGrpc=message(**AUTHORIZER),
    zipkin=message(**TRACER, enable64bitTraceId=BOOL),
    lightstep=message(**TRACER, accessToken=STR),
    datadog=message(**TRACER),
    stackdriver=message(**STACKDRIVER, maxTagLength=UINT, logging=message(labels=map_of(STR))),
    opencensus=message(**TRACER, context=list_of(OPENCENSUS_CONTEXT)),
    skywalking=message(**SERVICE, accessToken=STR),
    opentelemetry=message(
        **TRACER, http=HTTP_SERVICE, resourceDetectors=message(environment=message(), dynatrace=message())
    ),
    prometheus=message(),
    envoyFileAccessLog=message(path=STR, logFormat=LOG_FORMAT),
    envoyHttpAls=message(
        **GRPC_LOG,
        additionalRequestHeadersToLog=STRINGS,
        additionalResponseHeadersToLog=STRINGS,
        additionalResponseTrailersToLog=STRINGS,
    ),
    envoyTcpAls=message(**GRPC_LOG),
    envoyOtelAls=message(**SERVICE, logName=STR, logFormat=LOG_FORMAT),
)
LOCALITY = message(
    distribute=list_of(message(**{"from": STR, "to": map_of(UINT)})),
    failover=list_of(message(**{"from": STR, "to": STR})),
    failoverPriority=STRINGS,
    enabled=WRAPPED_BOOL,
)
MESH_CONFIG = message(
    proxyListenPort=WRAPPED_INT,
    proxyInboundListenPort=INT,
    proxyHttpPort=INT,
    connectTimeout=DURATION,
    protocolDetectionTimeout=DURATION,
    tcpKeepalive=KEEPALIVE,
    ingressClass=STR,
    ingressService=STR,
    ingressControllerMode=enum("UNSPECIFIED OFF DEFAULT STRICT"),
    ingressSelector=STR,
    enableTracing=BOOL,
    accessLogFile=STR,
    accessLogFormat=STR,
    accessLogEncoding=enum("TEXT JSON"),
    enableEnvoyAccessLogService=BOOL,
    disableEnvoyListenerLog=BOOL,
    outboundTrafficPolicy=message(mode=enum("REGISTRY_ONLY ALLOW_ANY")),
    inboundTrafficPolicy=message(mode=enum("PASSTHROUGH LOCALHOST")),
    configSources=list_of(message(address=STR, tlsSettings=TLS, subscribedResources=list_of(enum("SERVICE_REGISTRY")))),
    enableAutoMtls=WRAPPED_BOOL,
    trustDomain=ONE_OF_STR,
    trustDomainAliases=STRINGS,
    caCertificates=list_of(message(pem=STR, spiffeBundleUrl=STR, certSigners=STRINGS, trustDomains=STRINGS)),
    defaultServiceExportTo=STRINGS,
    defaultVirtualServiceExportTo=STRINGS,
    defaultDestinationRuleExportTo=STRINGS,
    rootNamespace=STR,
    localityLbSetting=LOCALITY,
    dnsRefreshRate=DURATION,
    h2UpgradePolicy=enum("DO_NOT_UPGRADE UPGRADE"),
    inboundClusterStatName=STR,
    outboundClusterStatName=STR,
    certificates=list_of(message(secretName=STR, dnsNames=STRINGS)),
    serviceSettings=list_of(message(settings=message(clusterLocal=BOOL), hosts=STRINGS)),
    enablePrometheusMerge=WRAPPED_BOOL,
    verifyCertificateAtClient=WRAPPED_BOOL,
    ca=message(address=STR, tlsSettings=TLS, requestTimeout=DURATION, istiodSide=BOOL),
    extensionProviders=list_of(EXTENSION_PROVIDER),
    defaultProviders=message(tracing=STRINGS, metrics=STRINGS, accessLogging=STRINGS),
    discoverySelectors=list_of(
        message(matchLabels=map_of(STR), matchExpressions=list_of(message(key=STR, operator=STR, values=STRINGS)))
    ),
    pathNormalization=message(normalization=enum("DEFAULT NONE BASE MERGE_SLASHES DECODE_AND_MERGE_SLASHES")),
    defaultHttpRetryPolicy=message(
        attempts=INT,
        perTryTimeout=DURATION,
        retryOn=STR,
        retryRemoteLocalities=WRAPPED_BOOL,
        retryIgnorePreviousHosts=WRAPPED_BOOL,
        backoff=DURATION,
    ),
    meshMTLS=TLS_CONFIG,
    tlsDefaults=TLS_CONFIG,
    compliancePolicy=STR,
)

MILLISECOND, HOUR = 10**6, 3600 * 10**9  # nanoseconds
LABEL = "[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
DOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*\.?")
FIRST_OF_HOST = re.compile(rf"\*|(\*-?)?{LABEL}")


def check(fields: dict[str, Any], source: str) -> list[str]:
    """Names of the unknown ones among `fields`. Raises ConfigError, one sentence, for what istio's agent refuses."""
    try:
        mesh = MESH_CONFIG[0](fields, "")
    except ValueError as e:
        raise ConfigError(f"{source}: {e}") from None
    for fault in _faults(mesh):
        raise ConfigError(f"{source}: {fault}")
    return unknown(fields, MESH_CONFIG)


def _faults(mesh: Mapping[str, Any]) -> Iterator[str]:
    if not 0 < (port := mesh.get("proxyListenPort", 15001)) < 65536:
        yield f"proxyListenPort must be a port between 1 and 65535, not {port}"
    connect = mesh.get("connectTimeout", "10s")
    if not MILLISECOND <= proto_nanos(connect) <= HOUR or proto_nanos(connect) % MILLISECOND:
        yield f"connectTimeout must be whole milliseconds between 1ms and 1h, not {connect}"
    detection = mesh.get("protocolDetectionTimeout", "0s")
    if proto_nanos(detection) % MILLISECOND:
        yield f"protocolDetectionTimeout must be whole milliseconds, not {detection}"
    for name, domain in (
        ("trustDomain", mesh.get("trustDomain", "cluster.local")),
        *((f"trustDomainAliases[{i}]", alias) for i, alias in enumerate(mesh.get("trustDomainAliases", ()))),
    ):
        if not DOMAIN.fullmatch(domain):
            yield f"{name} {domain!r} must be made of DNS labels"
    for i, service in enumerate(mesh.get("serviceSettings", ())):
        for host in service.get("hosts", ()):
            if not _is_host(host):
                yield f"serviceSettings[{i}] has the host {host!r}, which is no DNS name with or without `*.`"
    if mesh.get("meshMTLS", {}).get("ecdhCurves"):
        yield "meshMTLS.ecdhCurves has no effect and is refused: use tlsDefaults"
    yield from _locality(mesh.get("localityLbSetting", {}))


def _is_host(text: str) -> bool:
    """A DNS name whose first label may be, or begin with, a star."""
    first, _, others = text.partition(".")
    last = others.rpartition(".")[2]
    return (
        len(text) < 256
        and FIRST_OF_HOST.fullmatch(first) is not None
        and (not others or (DOMAIN.fullmatch(others) is not None and not last.isdigit()))
    )


def _locality(setting: Mapping[str, Any]) -> Iterator[str]:
    distribute, failover = setting.get("distribute", ()), setting.get("failover", ())
    if distribute and failover:
        yield "localityLbSetting may have distribute or failover, not both"
    for i, one in enumerate(distribute):
        weights = one.get("to", {}).values()
        if not all(0 < weight <= 100 for weight in weights) or sum(weights) != 100:
            yield f"localityLbSetting.distribute[{i}] must have weights from 1 to 100 whose sum is 100"
    for i, one in enumerate(failover):
        pair = one.get("from", ""), one.get("to", "")
        if pair[0] == pair[1] or any(c in region for region in pair for c in "/*"):
            yield f"localityLbSetting.failover[{i}] must name two different regions"
