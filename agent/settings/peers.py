"""How to reach the control plane and the CA: addresses, names, roots, client certificates (spec/agent.md 2.3, 2.6)."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from agent.config import HttpProxy, IdentityConfig, KeyProvider, MachineTokenConfig, NodeConfig, PeerConfig, SdsConfig
from agent.durations import proto_nanos
from agent.errors import ConfigError, FatalError
from agent.record import record, replace
from agent.settings.environment import Environment
from agent.settings.proxyconfig import ISTIOD, SRV, plane_addresses, server_name, split_address

CONFIGMAP_ROOT = "./var/run/secrets/istio/root-cert.pem"
CERTS_DIR = "./etc/certs"
SPIFFE_DIR = "./var/run/secrets/workload-spiffe-credentials"
SOCKET_DIR = "./var/run/secrets/workload-spiffe-uds"
FILES_SOCKET = "./var/run/secrets/credential-uds/files-socket"
CREDENTIAL_SOCKET = "./var/run/secrets/credential-uds/socket"
GCE, METADATA_HOST = "GoogleComputeEngine", "169.254.169.254"
MOCK_TOKEN = "test_token"
PLAINTEXT = ":15010"  # istiod's port without TLS
MIN_RSA, MAX_RSA = 2048, 16384  # bits; OpenSSL uses no longer ones

Read = Callable[[str], bytes | None]
Probe = Callable[[str], bool]


@record
class Files:
    """One certificate chain, its key and the roots that go with it."""

    cert: str
    key: str
    root: str

    def __iter__(self) -> Any:
        return iter((self.cert, self.key, self.root))


def _triple(directory: str, gke: bool = False) -> Files:
    names = ("certificates", "private_key", "ca_certificates") if gke else ("cert-chain", "key", "root-cert")
    return Files(*(f"{directory}/{name}.pem" for name in names))


class Trust:
    """Decides, from the environment and the files that exist at start, who is trusted and what is shown to whom."""

    def __init__(self, env: Environment, proxy: Mapping[str, Any], node: NodeConfig, read: Read, probe: Probe) -> None:
        self.env = env
        self.proxy = proxy
        self.node = node
        self.read = read
        self.provisioned = env.text("PROV_CERT")
        self.output = env.text("OUTPUT_CERTS")
        self.file_mounted = env.flag("FILE_MOUNTED_CERTS", False)
        if self.provisioned and self.file_mounted:
            raise ConfigError("PROV_CERT and FILE_MOUNTED_CERTS exclude each other: unset one of them")
        self.provider = env.text("PILOT_CERT_PROVIDER", "istiod")
        self.plaintext = "controlPlaneAuthPolicy" not in proxy  # NONE, the default of the message, is not printed
        self.http_proxy = _http_proxy(env)
        self.mounted = _triple(CERTS_DIR)
        self._choose_mounted()
        self.socket_file = env.text("WORKLOAD_IDENTITY_SOCKET_FILE", "socket")
        self.external_sds = self._external_sds(probe)
        self.credential_socket = probe(CREDENTIAL_SOCKET)

    def _exists(self, path: str) -> bool:
        return self._content(path) is not None

    def _filled(self, path: str) -> bool:
        """There is something in the file: an empty one may be filled later, and stands in for no CA until then."""
        return bool((self._content(path) or b"").strip())

    def _content(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except OSError as e:
            raise ConfigError(f"cannot read {path}: {e.strerror or e}; make it readable for the agent's user") from None

    def _choose_mounted(self) -> None:
        ca_provider = self.env.text("CA_PROVIDER", "Citadel")
        if ca_provider not in ("", "Citadel", "GkeWorkloadCertificate"):
            raise ConfigError(f"CA_PROVIDER {ca_provider!r} is not supported: use Citadel or GkeWorkloadCertificate")
        gke = ca_provider == "GkeWorkloadCertificate"
        files = _triple(SPIFFE_DIR, gke)
        missing = [path for path in files if not self._exists(path)]
        if gke and (missing or self.provisioned):
            reason = f"{missing[0]} does not exist" if missing else "PROV_CERT is set"
            raise ConfigError(f"CA_PROVIDER=GkeWorkloadCertificate cannot be used: {reason}")
        if not missing:
            self.mounted, self.file_mounted = files, True

    def _external_sds(self, probe: Probe) -> bool:
        name = self.socket_file
        if not name or "/" in name or name in (".", ".."):
            raise ConfigError(f"WORKLOAD_IDENTITY_SOCKET_FILE must be a bare file name, not {name!r}")
        alive = probe(f"{SOCKET_DIR}/{name}")
        if not alive and name != "socket":
            raise ConfigError(
                f"no SDS server answers on {SOCKET_DIR}/{name}: start it first or unset WORKLOAD_IDENTITY_SOCKET_FILE"
            )
        return alive

    def _serves_mounted(self) -> bool:
        """Whether mounted files stand in for the CA. Our own output must not, or it would never be renewed."""
        return not self.output or _clean(self.output) != _clean(self.mounted.cert.rpartition("/")[0])

    def plane(self) -> PeerConfig:
        """The control plane."""
        addresses = plane_addresses(self.proxy["discoveryAddress"])
        # Where there are several hosts, or SRV records will name them, each is verified by its own name.
        own_name = "" if len(addresses) > 1 or addresses[0].startswith(SRV) else server_name(addresses[0])
        key, cert = "", ""
        if self.provisioned:
            key, cert = f"{self.provisioned}/key.pem", f"{self.provisioned}/cert-chain.pem"
        elif self.file_mounted:
            metadata = self.proxy.get("proxyMetadata", {})
            key = metadata.get("ISTIO_META_TLS_CLIENT_KEY", "")
            cert = metadata.get("ISTIO_META_TLS_CLIENT_CERT_CHAIN", "")
        return PeerConfig(
            addresses=addresses,
            plaintext=self.plaintext,
            root_file="" if self.plaintext else self._plane_root(),
            server_name=self.env.text("ISTIOD_SAN") or own_name,
            key_file=key,
            cert_file=cert,
            headers=_headers(self.env.values, "XDS_HEADER_"),
            **self._common(),
        )

    def certificate_authority(self) -> PeerConfig | None:
        """The CA, or None when certificates come from files or from an external SDS server."""
        if self.file_mounted or self.external_sds:
            return None
        if self._serves_mounted() and all(self._filled(path) for path in self.mounted):
            return None
        explicit = self.env.text("CA_ADDR")
        addresses = (explicit,) if explicit else self._plane_addresses()
        for address in addresses:
            try:
                split_address(address)
            except ValueError as e:
                raise ConfigError(f"CA_ADDR {address!r} is not usable: {e}, such as {ISTIOD}:15012") from None
        # Of several addresses none is dialled in the clear while another need not be.
        addresses = tuple(a for a in addresses if not a.endswith(PLAINTEXT)) or addresses
        plaintext = addresses[0].endswith(PLAINTEXT)
        if plaintext:
            self.env.warn(f"the CA at {' or '.join(addresses)} is reached without encryption: use port 15012")
        # The name override was made for the control plane: a CA elsewhere has its own name.
        override = "" if explicit else self.env.text("ISTIOD_SAN")
        return PeerConfig(
            addresses=addresses,
            plaintext=plaintext,
            root_file="" if plaintext else self._ca_root(),
            # Each of several hosts is verified by its own name.
            server_name=override or (server_name(addresses[0]) if len(addresses) == 1 else ""),
            key_file=f"{self.provisioned}/key.pem" if self.provisioned else "",
            cert_file=f"{self.provisioned}/cert-chain.pem" if self.provisioned else "",
            headers=_headers(self.env.values, "CA_HEADER_"),
            **self._common(),
        )

    def _plane_addresses(self) -> tuple[str, ...]:
        """Where the CA is unless somebody says otherwise: with the control plane."""
        found = tuple(a for a in plane_addresses(self.proxy["discoveryAddress"]) if not a.startswith(SRV))
        if not found:
            raise ConfigError("CA_ADDR must be set to host:port: discoveryAddress has SRV records only")
        return found

    def _common(self) -> dict[str, Any]:
        return {
            "token": MOCK_TOKEN if self.env.text("CREDENTIAL_FETCHER_TYPE") == "Mock" else "",
            "cluster_id": self.node.cluster_id,
            "keepalive_interval": self.env.seconds("GRPC_KEEPALIVE_INTERVAL", 30.0),
            "keepalive_timeout": self.env.seconds("GRPC_KEEPALIVE_TIMEOUT", 10.0),
            "proxy": self.http_proxy,
            "policy": self.env.text("COMPLIANCE_POLICY"),
        }

    def _plane_root(self) -> str:
        explicit = self.env.text("XDS_ROOT_CA")
        if explicit == "SYSTEM":
            return ""
        if explicit:
            return self._required(explicit, "XDS_ROOT_CA")
        if self._exists(f"{CERTS_DIR}/root-cert.pem"):
            return f"{CERTS_DIR}/root-cert.pem"
        if self.provisioned:
            return f"{self.provisioned}/root-cert.pem"  # on a VM it may appear later
        if self.file_mounted:
            path = self.proxy.get("proxyMetadata", {}).get("ISTIO_META_TLS_CLIENT_ROOT_CERT", "")
            return self._required(path, "proxyMetadata ISTIO_META_TLS_CLIENT_ROOT_CERT")
        return self._default_root("the control plane")

    def _ca_root(self) -> str:
        explicit = self.env.text("CA_ROOT_CA")
        if explicit == "SYSTEM":
            return ""
        if explicit:
            return self._required(explicit, "CA_ROOT_CA")
        if self.provider == "custom":
            return self._required(f"{CERTS_DIR}/root-cert.pem", "PILOT_CERT_PROVIDER=custom")
        if self.provisioned:
            path = f"{self.provisioned}/root-cert.pem"
            if not self._exists(path):
                raise FatalError(f"PROV_CERT: {path} does not exist: put the root certificate of the CA there")
            return path
        return self._default_root("the CA")

    def _default_root(self, peer: str) -> str:
        if self.provider == "none":
            raise ConfigError(f"PILOT_CERT_PROVIDER=none leaves {peer} without a root certificate: name one")
        return self._required(CONFIGMAP_ROOT, f"the root certificate of {peer}")

    def _required(self, path: str, what: str) -> str:
        if not path or not self._exists(path):
            raise ConfigError(f"{what}: root certificate file {path or '(not set)'} does not exist: mount it there")
        return path

    def identity(self) -> IdentityConfig | None:
        """The section of the certificate manager, or None if there is nothing for it to do."""
        ca = self.certificate_authority()
        if ca is None:
            return None
        algorithm = self.env.text("ECC_SIGNATURE_ALGORITHM")
        if algorithm not in ("", "ECDSA"):
            raise ConfigError(f"ECC_SIGNATURE_ALGORITHM {algorithm!r} is not supported: use ECDSA or leave it empty")
        size = self.env.number("WORKLOAD_RSA_KEY_SIZE", MIN_RSA)
        if not MIN_RSA <= size <= MAX_RSA and algorithm != "ECDSA":
            raise ConfigError(f"WORKLOAD_RSA_KEY_SIZE is {size}; an RSA key needs {MIN_RSA} to {MAX_RSA} bits")
        if not self.node.spiffe_id.isascii():
            message = "TRUST_DOMAIN, POD_NAMESPACE and SERVICE_ACCOUNT must be ASCII; the identity would be "
            raise ConfigError(message + repr(self.node.spiffe_id))
        defaults = IdentityConfig(spiffe_id=self.node.spiffe_id, ca=ca)
        return replace(
            defaults,
            ttl=self.env.seconds("SECRET_TTL", defaults.ttl),
            grace_ratio=self.env.real("SECRET_GRACE_PERIOD_RATIO", defaults.grace_ratio),
            grace_jitter=self.env.real("SECRET_GRACE_PERIOD_RATIO_JITTER", defaults.grace_jitter),
            rsa_key_size=size,
            ecdsa=algorithm == "ECDSA",
            curve="P384" if self.env.text("ECC_CURVE", "P256") == "P384" else "P256",
            pkcs8=self.env.flag("PKCS8_KEY", False),
            cert_signer=self.env.text("ISTIO_META_CERT_SIGNER"),
            root_overlap=self.env.flag("ROOT_OVERLAP", True),
        )

    def machine_token(self) -> MachineTokenConfig | None:
        """Where the token for CA and control plane is fetched, None if somebody mounts it."""
        fetcher = self.env.text("CREDENTIAL_FETCHER_TYPE", "JWT")
        if fetcher not in ("", "JWT", GCE, "Mock"):
            known = "JWT, GoogleComputeEngine or Mock"
            raise ConfigError(f"CREDENTIAL_FETCHER_TYPE {fetcher!r} is not supported: use {known}")
        if fetcher != GCE:
            return None
        host = self.env.text("GCE_METADATA_HOST") or METADATA_HOST
        try:
            split_address(host if ":" in host.rpartition("]")[2] else f"{host}:80")
        except ValueError as e:
            raise ConfigError(f"GCE_METADATA_HOST {host!r} is not usable: {e}") from None
        return MachineTokenConfig(host, self.node.trust_domain)

    def sds(self, ca: bool) -> SdsConfig:
        """The section of the SDS server; `ca`: there is one."""
        mounted = self.mounted if self._serves_mounted() else Files("", "", "")
        return SdsConfig(
            socket_path=FILES_SOCKET if self.external_sds else f"{SOCKET_DIR}/{self.socket_file}",
            crl_enabled=self.env.flag("PILOT_ENABLE_CA_CRL", True),
            external=self.external_sds,
            external_socket=f"{SOCKET_DIR}/{self.socket_file}" if self.external_sds else "",
            ca=ca,
            cert_file=mounted.cert,
            key_file=mounted.key,
            root_file=mounted.root,
            debounce=self.env.seconds("FILE_DEBOUNCE_DURATION", 0.1),
            output_dir=self.output,
            output_mode=0o644 if self.env.text("KUBERNETES_SERVICE_HOST") else 0o600,
            key_provider=self._key_provider(),
        )

    def _key_provider(self) -> KeyProvider | None:
        for name, provider in self.proxy.get("privateKeyProvider", {}).items():
            return KeyProvider(name, proto_nanos(provider.get("pollDelay", "0s")), bool(provider.get("fallback")))
        return None


def _http_proxy(env: Environment) -> HttpProxy | None:
    """The one that grpc-go uses, with TLS and without: HTTP_PROXY is for other things."""
    text = env.text("HTTPS_PROXY") or env.text("https_proxy")
    exceptions = env.text("NO_PROXY") or env.text("no_proxy")
    if not text:
        return None
    from agent import httpproxy

    if "://" in text and not text.strip().lower().startswith("http://"):
        env.warn("the proxy of HTTPS_PROXY is spoken to as if its URL began with http://, as grpc-go does")
    try:
        return httpproxy.parse(text, exceptions)
    except ValueError as e:
        env.warn(f"HTTPS_PROXY is ignored: {e}")
        return None


def _headers(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: value for name, value in environ.items() if name.startswith(prefix) and name != prefix}


def _clean(path: str) -> str:
    return os.path.realpath(path)
