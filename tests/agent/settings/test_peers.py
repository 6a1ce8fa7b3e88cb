"""Who is trusted, what is shown to whom, and when there is no CA at all."""

from collections.abc import Mapping
from typing import Any

import pytest

from agent.config import HttpProxy, PeerConfig
from agent.errors import ConfigError, FatalError
from tests.fakes.configs import ROOT, make

CERTS = {f"./etc/certs/{n}.pem": b"x" for n in ("cert-chain", "key", "root-cert")}
SPIFFE = {f"./var/run/secrets/workload-spiffe-credentials/{n}.pem": b"x" for n in ("cert-chain", "key", "root-cert")}


def ca(**kwargs: Any) -> PeerConfig:
    identity = make(**kwargs).identity
    assert identity is not None
    return identity.ca


def test_a_plain_pod() -> None:
    c = make(env={"XDS_HEADER_a": "1=2", "CA_HEADER_b": "3", "CA_HEADER_": "no", "GRPC_KEEPALIVE_INTERVAL": "5s"})
    assert c.identity is not None
    for peer in (c.xds.plane, c.identity.ca):
        assert peer.addresses == ("istiod.istio-system.svc:15012",)
        assert (peer.root_file, peer.server_name, peer.plaintext) == (ROOT, "istiod.istio-system.svc", False)
        assert (peer.key_file, peer.cert_file, peer.cluster_id, peer.keepalive_interval) == ("", "", "Kubernetes", 5.0)
    assert c.xds.plane.headers == {"a": "1=2"}
    assert c.identity.ca.headers == {"b": "3"}


@pytest.mark.parametrize(
    ("address", "san", "name"),
    [
        ("h:1", None, "h"),
        ("localhost:1", None, "istiod.istio-system.svc"),
        ("[fd00::1]:1", None, "fd00::1"),
        ("h:1", "san", "san"),
    ],
)
def test_verified_name(address: str, san: str | None, name: str) -> None:
    assert make(proxy={"discoveryAddress": address}, env={"ISTIOD_SAN": san}).xds.plane.server_name == name


@pytest.mark.parametrize(
    ("env", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "x"}, None),
        ({"HTTPS_PROXY": "", "https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://p:1"}, HttpProxy("p", 1)),
        ({"https_proxy": "p:1", "no_proxy": "x,y"}, HttpProxy("p", 1, exceptions="x,y")),
        ({"HTTPS_PROXY": "p:1", "https_proxy": "q:2", "NO_PROXY": "a", "no_proxy": "b"}, HttpProxy("p", 1, "", "a")),
        ({"HTTPS_PROXY": "", "https_proxy": "q:2", "NO_PROXY": "", "no_proxy": "b"}, HttpProxy("q", 2, "", "b")),
        ({"HTTPS_PROXY": "http://u:p@p:1"}, HttpProxy("p", 1, "Basic dTpw")),
    ],
)
def test_the_http_proxy(env: Mapping[str, str], proxy: HttpProxy | None) -> None:
    c = make(env=env)
    assert c.identity is not None
    assert (c.xds.plane.proxy, c.identity.ca.proxy, c.warnings) == (proxy, proxy, ())
    assert "dTpw" not in repr(c)


def test_a_proxy_that_cannot_be_used_is_a_warning() -> None:
    c = make(env={"HTTPS_PROXY": "http://u:sesame@p:port"})
    assert c.xds.plane.proxy is None
    assert c.warnings == ("HTTPS_PROXY is ignored: it must be [http://][USER:PASSWORD@]HOST[:PORT]",)
    c = make(env={"HTTPS_PROXY": "https://p:1"})
    assert c.xds.plane.proxy == HttpProxy("p", 1)
    assert c.warnings == ("the proxy of HTTPS_PROXY is spoken to as if its URL began with http://, as grpc-go does",)


def test_the_san_override_is_not_for_a_ca_elsewhere() -> None:
    assert ca(env={"ISTIOD_SAN": "san"}).server_name == "san"
    assert ca(env={"ISTIOD_SAN": "san", "CA_ADDR": "ca:1"}).server_name == "ca"


def test_plaintext() -> None:
    c = make(proxy={"controlPlaneAuthPolicy": "NONE", "discoveryAddress": "h:15010"}, files={ROOT: None})
    assert c.identity is not None
    assert (c.xds.plane.plaintext, c.identity.ca.plaintext) == (True, True)
    assert any("without encryption" in w for w in c.warnings)


@pytest.mark.parametrize(
    ("env", "files", "plane", "authority"),
    [
        ({"XDS_ROOT_CA": "SYSTEM", "CA_ROOT_CA": "SYSTEM"}, {ROOT: None}, "", ""),
        ({"XDS_ROOT_CA": "x.pem", "CA_ROOT_CA": "c.pem"}, {"x.pem": b"", "c.pem": b""}, "x.pem", "c.pem"),
        ({}, {"./etc/certs/root-cert.pem": b""}, "./etc/certs/root-cert.pem", ROOT),
        (
            {"PILOT_CERT_PROVIDER": "custom"},
            {"./etc/certs/root-cert.pem": b""},
            "./etc/certs/root-cert.pem",
            "./etc/certs/root-cert.pem",
        ),
        ({"PROV_CERT": "p"}, {"p/root-cert.pem": b""}, "p/root-cert.pem", "p/root-cert.pem"),
    ],
)
def test_roots(env: Mapping[str, str], files: Mapping[str, bytes | None], plane: str, authority: str) -> None:
    c = make(env=env, files=files)
    assert c.identity is not None
    assert (c.xds.plane.root_file, c.identity.ca.root_file) == (plane, authority)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"XDS_ROOT_CA": "none.pem"}, "XDS_ROOT_CA: root certificate file none.pem does not exist"),
        ({"CA_ROOT_CA": "none.pem"}, "CA_ROOT_CA"),
        ({"PILOT_CERT_PROVIDER": "none"}, "PILOT_CERT_PROVIDER=none"),
        ({"PILOT_CERT_PROVIDER": "custom"}, "PILOT_CERT_PROVIDER=custom"),
        ({"FILE_MOUNTED_CERTS": "true"}, "ISTIO_META_TLS_CLIENT_ROOT_CERT"),
        ({"FILE_MOUNTED_CERTS": "true", "PROV_CERT": "p"}, "exclude each other"),
        ({"CA_PROVIDER": "Other"}, "CA_PROVIDER 'Other'"),
        ({"CA_PROVIDER": "GkeWorkloadCertificate"}, "does not exist"),
        ({"CREDENTIAL_FETCHER_TYPE": "Other"}, "CREDENTIAL_FETCHER_TYPE"),
        ({"WORKLOAD_IDENTITY_SOCKET_FILE": "a/b"}, "bare file name"),
        ({"WORKLOAD_IDENTITY_SOCKET_FILE": ""}, "bare file name"),
        ({"WORKLOAD_IDENTITY_SOCKET_FILE": "spire"}, "no SDS server answers"),
        ({"ECC_SIGNATURE_ALGORITHM": "RSA"}, "ECC_SIGNATURE_ALGORITHM"),
        ({"CA_ADDR": "nowhere"}, "CA_ADDR 'nowhere'"),
    ],
)
def test_refusals(env: Mapping[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(env=env)
    assert said in str(caught.value)


def test_a_missing_root_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"root-cert\.pem does not exist"):
        make(files={ROOT: None})


def test_provisioned_directory_must_exist() -> None:
    with pytest.raises(FatalError, match=r"nosuch/root-cert\.pem does not exist"):
        make(env={"PROV_CERT": "nosuch"})


def test_provisioned_pair_is_shown_to_both() -> None:
    c = make(env={"PROV_CERT": "p"}, files={"p/root-cert.pem": b""})
    assert c.identity is not None
    for peer in (c.xds.plane, c.identity.ca):
        assert (peer.key_file, peer.cert_file) == ("p/key.pem", "p/cert-chain.pem")


def test_file_mounted() -> None:
    metadata = {f"ISTIO_META_TLS_CLIENT_{k}": f"/{k}" for k in ("KEY", "CERT_CHAIN", "ROOT_CERT")}
    c = make(env={"FILE_MOUNTED_CERTS": "1"}, proxy={"proxyMetadata": metadata}, files={"/ROOT_CERT": b""})
    assert c.identity is None
    plane = c.xds.plane
    assert (plane.key_file, plane.cert_file, plane.root_file) == ("/KEY", "/CERT_CHAIN", "/ROOT_CERT")


def test_mounted_certificates_make_the_ca_needless() -> None:
    c = make(files=CERTS)
    assert c.identity is None
    assert c.sds.cert_file == "./etc/certs/cert-chain.pem"
    assert c.xds.plane.key_file == ""
    assert not c.sds.ca
    some = dict(list(CERTS.items())[:2])
    assert make(files=some).identity is not None


@pytest.mark.parametrize("empty", CERTS)
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_mounted_file_stands_in_for_no_ca(empty: str, content: bytes) -> None:
    c = make(files={**CERTS, empty: content})
    assert c.identity is not None
    assert c.sds.ca
    assert c.sds.cert_file == "./etc/certs/cert-chain.pem"  # it may be filled


def test_without_a_ca_the_secret_server_knows() -> None:
    metadata = {"ISTIO_META_TLS_CLIENT_ROOT_CERT": ROOT}
    env = {"FILE_MOUNTED_CERTS": "1", "OUTPUT_CERTS": "./etc/certs"}
    c = make(env=env, proxy={"proxyMetadata": metadata})
    assert (c.identity, c.sds.ca, c.sds.cert_file) == (None, False, "")
    assert make().sds.ca


@pytest.mark.parametrize("output", ["./etc/certs", "etc/certs/", "etc/../etc/certs"])
def test_our_own_output_is_not_mounted(output: str) -> None:
    c = make(env={"PROV_CERT": output, "OUTPUT_CERTS": output}, files={**CERTS, f"{output}/root-cert.pem": b""})
    assert c.identity is not None
    assert c.sds.output_dir == output
    assert c.sds.cert_file == ""


def test_workload_credentials_directory() -> None:
    metadata = {"ISTIO_META_TLS_CLIENT_ROOT_CERT": ROOT}
    c = make(files=SPIFFE, proxy={"proxyMetadata": metadata})
    assert c.identity is None
    assert c.sds.key_file == "./var/run/secrets/workload-spiffe-credentials/key.pem"


def test_external_sds() -> None:
    socket = "./var/run/secrets/workload-spiffe-uds/spire"
    c = make(env={"WORKLOAD_IDENTITY_SOCKET_FILE": "spire"}, sockets=[socket])
    assert c.identity is None
    assert (c.sds.external, c.sds.external_socket) == (True, socket)
    assert c.sds.socket_path == "./var/run/secrets/credential-uds/files-socket"
    assert c.bootstrap.external_sds
    assert make(sockets=["./var/run/secrets/credential-uds/socket"]).bootstrap.credential_socket


def test_keys_and_lifetimes() -> None:
    identity = make(
        env={
            "SECRET_TTL": "1h",
            "SECRET_GRACE_PERIOD_RATIO": "0.25",
            "SECRET_GRACE_PERIOD_RATIO_JITTER": "x",
            "WORKLOAD_RSA_KEY_SIZE": "4096",
            "ECC_SIGNATURE_ALGORITHM": "ECDSA",
            "ECC_CURVE": "P384",
            "PKCS8_KEY": "true",
            "ISTIO_META_CERT_SIGNER": "s",
            "TRUST_DOMAIN": "",
        }
    ).identity
    assert identity is not None
    assert (identity.ttl, identity.grace_ratio, identity.grace_jitter, identity.rsa_key_size) == (
        3600,
        0.25,
        0.01,
        4096,
    )
    assert (identity.ecdsa, identity.curve, identity.pkcs8, identity.cert_signer) == (True, "P384", True, "s")
    assert identity.spiffe_id == "spiffe:///ns/demo/sa/app"


def test_tokens_that_nobody_mounts() -> None:
    plain = make(env={"TRUST_DOMAIN": "td"})
    assert plain.identity is not None
    assert (plain.machine_token, plain.identity.ca.token, plain.identity.root_overlap) == (None, "", True)
    gce = {"CREDENTIAL_FETCHER_TYPE": "GoogleComputeEngine", "TRUST_DOMAIN": "td"}
    for host, used in (("", "169.254.169.254"), ("metadata:8080", "metadata:8080")):
        machine = make(env=gce | {"GCE_METADATA_HOST": host}).machine_token
        assert machine is not None
        assert (machine.host, machine.audience) == (used, "td")
    with pytest.raises(ConfigError, match="GCE_METADATA_HOST 'host:abc' is not usable"):
        make(env=gce | {"GCE_METADATA_HOST": "host:abc"})
    # Who mounts certificates still shows a token to the control plane.
    assert make(env=gce, files=CERTS).machine_token is not None
    mock = make(env={"CREDENTIAL_FETCHER_TYPE": "Mock", "CA_HEADER_X": "hidden", "ROOT_OVERLAP": "false"})
    assert mock.identity is not None
    assert (mock.identity.ca.token, mock.xds.plane.token) == ("test_token", "test_token")
    assert not mock.identity.root_overlap
    assert "test_token" not in repr(mock)
    assert "hidden" not in repr(mock)


def test_what_is_served_is_written_to_the_output_directory_wherever_it_comes_from() -> None:
    files = {f"./etc/certs/{n}.pem": b"x" for n in ("cert-chain", "key", "root-cert")}
    c = make(env={"OUTPUT_CERTS": "/out", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, files=files)
    assert c.identity is None
    assert (c.sds.output_dir, c.sds.output_mode, c.sds.cert_file) == ("/out", 0o644, "./etc/certs/cert-chain.pem")
    # Nothing reads its own output.
    c = make(env={"OUTPUT_CERTS": "./etc/certs"}, files=files)
    assert c.identity is not None
    assert (c.sds.output_dir, c.sds.output_mode, c.sds.cert_file) == ("./etc/certs", 0o600, "")


def test_several_endpoints_each_with_its_own_name() -> None:
    c = make(proxy={"discoveryAddress": "srv+_xds._tcp.example, a:15012,b:15012"})
    assert c.xds.plane.addresses == ("srv+_xds._tcp.example", "a:15012", "b:15012")
    assert c.xds.plane.server_name == ""
    assert c.identity is not None
    assert (c.identity.ca.addresses, c.identity.ca.server_name) == (("a:15012", "b:15012"), "")
    assert make(proxy={"discoveryAddress": "a:1,b:1"}, env={"ISTIOD_SAN": "x"}).xds.plane.server_name == "x"


def test_srv_records_do_not_say_where_the_ca_is() -> None:
    with pytest.raises(ConfigError, match="CA_ADDR must be set"):
        make(proxy={"discoveryAddress": "srv+x"})
    assert ca(proxy={"discoveryAddress": "srv+x"}, env={"CA_ADDR": "ca:15012"}).addresses == ("ca:15012",)


@pytest.mark.parametrize(
    ("addresses", "used", "plaintext"),
    [
        ("a:15010", ("a:15010",), True),
        ("a:15010,b:15010", ("a:15010", "b:15010"), True),
        ("a:15010,b:15012", ("b:15012",), False),
    ],
)
def test_of_several_cas_none_is_asked_in_the_clear_while_another_need_not_be(
    addresses: str, used: tuple[str, ...], plaintext: bool
) -> None:
    identity = make(proxy={"discoveryAddress": addresses}).identity
    assert identity is not None
    assert (identity.ca.addresses, identity.ca.plaintext) == (used, plaintext)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"WORKLOAD_RSA_KEY_SIZE": "1024"}, "WORKLOAD_RSA_KEY_SIZE is 1024; an RSA key needs 2048 to 16384 bits"),
        ({"WORKLOAD_RSA_KEY_SIZE": "65536"}, "WORKLOAD_RSA_KEY_SIZE is 65536; an RSA key needs 2048 to 16384 bits"),
        ({"TRUST_DOMAIN": "dömäne"}, "must be ASCII; the identity would be 'spiffe://dömäne/ns/demo/sa/app'"),
        (
            {"CA_ADDR": "https://ca:443"},
            "CA_ADDR 'https://ca:443' is not usable: it must be host:port without a scheme",
        ),
    ],
)
def test_what_could_never_get_a_certificate_is_refused_before_envoy_runs(env: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as e:
        make(env=env)
    assert sentence in str(e.value)


def test_the_size_of_keys_that_are_not_made_does_not_matter() -> None:
    assert make(env={"WORKLOAD_RSA_KEY_SIZE": "1024", "ECC_SIGNATURE_ALGORITHM": "ECDSA"}).identity is not None


def test_the_compliance_policy_holds_for_our_own_connections() -> None:
    c = make(env={"COMPLIANCE_POLICY": "pqc"})
    assert c.identity is not None
    assert (c.identity.ca.policy, c.xds.plane.policy) == ("pqc", "pqc")


def test_workload_credentials_do_without_the_provisioned_ones() -> None:
    metadata = {"ISTIO_META_TLS_CLIENT_ROOT_CERT": ROOT}
    c = make(env={"PROV_CERT": "./prov"}, files=SPIFFE, proxy={"proxyMetadata": metadata})
    assert c.identity is None
    with pytest.raises(ConfigError, match="exclude each other"):
        make(env={"PROV_CERT": "./prov", "FILE_MOUNTED_CERTS": "true"})
