import pytest

from agent.config import KeyProvider
from agent.protos import secret_pb2
from agent.sds import resources


def test_a_pair_is_inline() -> None:
    secret = secret_pb2.Secret.FromString(resources.key_pair("x", b"chain", b"key"))
    assert secret.name == "x"
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"chain"
    assert secret.tls_certificate.private_key.inline_bytes == b"key"
    assert not secret.tls_certificate.HasField("private_key_provider")


@pytest.mark.parametrize("name", ["cryptomb", "qat"])
def test_the_key_goes_to_the_provider(name: str) -> None:
    raw = resources.key_pair("x", b"chain", b"key", KeyProvider(name, 1_000_200_000, True))
    tls = secret_pb2.Secret.FromString(raw).tls_certificate
    assert not tls.HasField("private_key")
    provider = tls.private_key_provider
    assert (provider.provider_name, provider.fallback) == (name, True)
    assert f".{name}.v3alpha." in provider.typed_config.type_url
    config = secret_pb2.KeyMethodConfig.FromString(provider.typed_config.value)
    assert config.private_key.inline_bytes == b"key"
    assert config.poll_delay.ToNanoseconds() == 1_000_200_000


@pytest.mark.parametrize("crl", ["", "/crl.pem"])
def test_trust_with_and_without_a_revocation_list(crl: str) -> None:
    context = secret_pb2.Secret.FromString(resources.trust("ROOTCA", b"roots", crl)).validation_context
    assert context.trusted_ca.inline_bytes == b"roots"
    assert context.HasField("crl") == bool(crl)
    assert context.crl.filename == crl


@pytest.mark.parametrize(
    ("name", "pair", "root"),
    [
        ("default", None, None),
        ("ROOTCA", None, None),
        ("file-cert:a~b", ("a", "b"), None),
        ("file-cert:~", ("", ""), None),
        ("file-cert:a", None, None),
        ("file-cert:a~b~c", None, None),
        ("file-root:a", None, "a"),
        ("file-root:", None, ""),
        ("file-root:a~b", None, None),
    ],
)
def test_file_names(name: str, pair: tuple[str, str] | None, root: str | None) -> None:
    assert resources.file_pair(name) == pair
    assert resources.file_root(name) == root
