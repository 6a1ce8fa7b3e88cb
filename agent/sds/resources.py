"""Secrets as Envoy's messages. Pure: PEM in, serialized tls.v3.Secret out."""

from agent.config import KeyProvider
from agent.protos import secret_pb2

ROOT = "ROOTCA"
_PROVIDERS = "type.googleapis.com/envoy.extensions.private_key_providers"
PROVIDER_TYPES = {
    "cryptomb": f"{_PROVIDERS}.cryptomb.v3alpha.CryptoMbPrivateKeyMethodConfig",
    "qat": f"{_PROVIDERS}.qat.v3alpha.QatPrivateKeyMethodConfig",
}


def key_pair(name: str, chain: bytes, key: bytes, provider: KeyProvider | None = None) -> bytes:
    """A tls_certificate secret with both parts inline, the key inside the provider's configuration if there is one."""
    secret = secret_pb2.Secret(name=name)
    tls = secret.tls_certificate
    tls.certificate_chain.inline_bytes = chain
    if provider is None:
        tls.private_key.inline_bytes = key
        return secret.SerializeToString()
    config = secret_pb2.KeyMethodConfig()
    config.private_key.inline_bytes = key
    config.poll_delay.FromNanoseconds(provider.poll_delay_nanos)
    tls.private_key_provider.provider_name = provider.name
    tls.private_key_provider.fallback = provider.fallback
    tls.private_key_provider.typed_config.type_url = PROVIDER_TYPES[provider.name]
    tls.private_key_provider.typed_config.value = config.SerializeToString()
    return secret.SerializeToString()


def trust(name: str, roots: bytes, crl_file: str) -> bytes:
    """A validation_context secret; `crl_file` is read by Envoy, "" = none."""
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = roots
    if crl_file:
        secret.validation_context.crl.filename = crl_file
    return secret.SerializeToString()


def is_trust(name: str) -> bool:
    """The name stands for roots, not for a certificate with its key."""
    return name == ROOT or file_root(name) is not None


def file_pair(name: str) -> tuple[str, str] | None:
    """(certificate file, key file) of `file-cert:<certificate>~<key>`; None for any other name."""
    rest = name.removeprefix("file-cert:")
    parts = rest.split("~")
    return (parts[0], parts[1]) if rest != name and len(parts) == 2 else None


def file_root(name: str) -> str | None:
    """The path of `file-root:<path>` (may be empty or `system`); None for any other name."""
    rest = name.removeprefix("file-root:")
    return rest if rest != name and "~" not in rest else None
