"""The table of ProxyConfig's fields."""

from agent.settings.proxyschema import FIELDS

# spec/agent.md 1.3, the names of the proto.
SPECIFIED = """
configPath binaryPath serviceCluster drainDuration discoveryAddress statsdUdpAddress proxyAdminPort
controlPlaneAuthPolicy customConfigFile statNameLength concurrency proxyBootstrapTemplatePath interceptionMode tracing
envoyAccessLogService envoyMetricsService proxyMetadata statusPort extraStatTags gatewayTopology
terminationDrainDuration meshId readinessProbe proxyStatsMatcher holdApplicationUntilProxyStarts caCertificatesPem image
tracingServiceName runtimeValues privateKeyProvider proxyHeaders fileFlushInterval fileFlushMinSizeKb statsCompression
connectionSettings
"""


def test_it_has_every_field_of_the_message() -> None:
    assert sorted(FIELDS) == sorted(SPECIFIED.split())
