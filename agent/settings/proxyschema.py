"""The fields of istio.mesh.v1alpha1.ProxyConfig as data."""

from agent.settings.protojson import (
    BOOL,
    DOUBLE,
    DURATION,
    INT,
    ONE_OF_STR,
    STR,
    UINT,
    WRAPPED_BOOL,
    WRAPPED_INT,
    WRAPPED_LONG,
    WRAPPED_UINT,
    enum,
    fields_of,
    list_of,
    map_of,
    message,
)

_auth = enum("NONE MUTUAL_TLS", {1000: "INHERIT"})
_interception = enum("REDIRECT TPROXY NONE")
_tls_mode = enum("DISABLE SIMPLE MUTUAL ISTIO_MUTUAL")
_client_cert = enum("UNDEFINED SANITIZE FORWARD_ONLY APPEND_FORWARD SANITIZE_SET ALWAYS_FORWARD_ONLY")
_exchange = enum("UNDEFINED IN_MESH")

TLS = message(
    mode=_tls_mode,
    clientCertificate=STR,
    privateKey=STR,
    caCertificates=STR,
    credentialName=STR,
    subjectAltNames=list_of(STR),
    sni=STR,
    insecureSkipVerify=WRAPPED_BOOL,
    caCrl=STR,
)
KEEPALIVE = message(probes=UINT, time=DURATION, interval=DURATION)
REMOTE = message(address=STR, tlsSettings=TLS, tcpKeepalive=KEEPALIVE)
OPENCENSUS_CONTEXT = enum("UNSPECIFIED W3C_TRACE_CONTEXT GRPC_BIN CLOUD_TRACE_CONTEXT B3")
STACKDRIVER = {
    "debug": BOOL,
    "maxNumberOfAttributes": WRAPPED_LONG,
    "maxNumberOfAnnotations": WRAPPED_LONG,
    "maxNumberOfMessageEvents": WRAPPED_LONG,
}
_NAMED = message(name=STR, defaultValue=STR)
TRACING = message(
    zipkin=message(address=STR),
    lightstep=message(address=STR, accessToken=STR),
    datadog=message(address=STR),
    stackdriver=message(**STACKDRIVER),
    openCensusAgent=message(address=STR, context=list_of(OPENCENSUS_CONTEXT)),
    customTags=map_of(message(literal=message(value=STR), environment=_NAMED, header=_NAMED)),
    maxPathTagLength=UINT,
    sampling=DOUBLE,
    tlsSettings=TLS,
    enableIstioTags=WRAPPED_BOOL,
)
_HEADER = message(name=STR, value=STR)
PROBE = message(
    initialDelaySeconds=INT,
    timeoutSeconds=INT,
    periodSeconds=INT,
    successThreshold=INT,
    failureThreshold=INT,
    httpGet=message(path=STR, port=UINT, host=STR, scheme=STR, httpHeaders=list_of(_HEADER)),
    tcpSocket=message(host=STR, port=UINT),
    exec=message(command=list_of(STR)),
    grpc=message(port=UINT, service=STR),
)
_DISABLED = message(disabled=WRAPPED_BOOL)
_ENABLED = message(enabled=WRAPPED_BOOL)
_POLL = message(pollDelay=DURATION, fallback=WRAPPED_BOOL)
PROXY_CONFIG = message(
    configPath=STR,
    binaryPath=STR,
    serviceCluster=ONE_OF_STR,
    tracingServiceName=enum("APP_LABEL_AND_NAMESPACE CANONICAL_NAME_ONLY CANONICAL_NAME_AND_NAMESPACE", explicit=True),
    drainDuration=DURATION,
    discoveryAddress=STR,
    statsdUdpAddress=STR,
    proxyAdminPort=INT,
    controlPlaneAuthPolicy=_auth,
    customConfigFile=STR,
    statNameLength=INT,
    concurrency=WRAPPED_INT,
    proxyBootstrapTemplatePath=STR,
    interceptionMode=_interception,
    tracing=TRACING,
    envoyAccessLogService=REMOTE,
    envoyMetricsService=REMOTE,
    proxyMetadata=map_of(STR),
    statusPort=INT,
    extraStatTags=list_of(STR),
    gatewayTopology=message(numTrustedProxies=UINT, forwardClientCertDetails=_client_cert, proxyProtocol=message()),
    terminationDrainDuration=DURATION,
    meshId=STR,
    readinessProbe=PROBE,
    proxyStatsMatcher=message(
        inclusionPrefixes=list_of(STR), inclusionSuffixes=list_of(STR), inclusionRegexps=list_of(STR)
    ),
    holdApplicationUntilProxyStarts=WRAPPED_BOOL,
    caCertificatesPem=list_of(STR),
    image=message(imageType=STR),
    runtimeValues=map_of(STR),
    privateKeyProvider=message(cryptomb=_POLL, qat=_POLL),
    proxyHeaders=message(
        forwardedClientCert=_client_cert,
        setCurrentClientCertDetails=message(
            subject=WRAPPED_BOOL, cert=WRAPPED_BOOL, chain=WRAPPED_BOOL, dns=WRAPPED_BOOL, uri=WRAPPED_BOOL
        ),
        requestId=_DISABLED,
        server=message(disabled=WRAPPED_BOOL, value=STR),
        attemptCount=_DISABLED,
        envoyDebugHeaders=_DISABLED,
        metadataExchangeHeaders=message(mode=_exchange),
        xForwardedHost=_ENABLED,
        xForwardedPort=_ENABLED,
        preserveHttp1HeaderCase=_ENABLED,
    ),
    fileFlushInterval=DURATION,
    fileFlushMinSizeKb=WRAPPED_UINT,
    statsCompression=WRAPPED_BOOL,
    connectionSettings=message(globalDownstreamConnectionLimit=WRAPPED_UINT),
)
FIELDS = fields_of(PROXY_CONFIG)
