"""Which remora this is, and which istio it claims to be."""

VERSION = "0.1.0"
# The control plane reads `major.minor[.patch]` and switches features by it; this is the release whose agent we match.
ISTIO_VERSION = "1.30.0"
