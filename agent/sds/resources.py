"""Secrets as Envoy's messages. Pure: PEM in, serialized tls.v3.Secret out."""

from agent.protos import secret_pb2

ROOT = "ROOTCA"


def key_pair(name: str, chain: bytes, key: bytes) -> bytes:
    """A tls_certificate secret with both parts inline."""
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain
    secret.tls_certificate.private_key.inline_bytes = key
    return secret.SerializeToString()


def trust(name: str, roots: bytes, crl_file: str) -> bytes:
    """A validation_context secret; `crl_file` is read by Envoy, "" = none."""
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = roots
    if crl_file:
        secret.validation_context.crl.filename = crl_file
    return secret.SerializeToString()


def file_pair(name: str) -> tuple[str, str] | None:
    """(certificate file, key file) of `file-cert:<certificate>~<key>`; None for any other name."""
    rest = name.removeprefix("file-cert:")
    parts = rest.split("~")
    return (parts[0], parts[1]) if rest != name and len(parts) == 2 else None


def file_root(name: str) -> str | None:
    """The path of `file-root:<path>` (may be empty or `system`); None for any other name."""
    rest = name.removeprefix("file-root:")
    return rest if rest != name and "~" not in rest else None
