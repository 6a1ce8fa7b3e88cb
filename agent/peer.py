"""One gRPC connection to the control plane or the CA: files re-read for every connection, failures in one sentence.

TLS as istio's agent does it (name, roots, optional client certificate), plus two refusals of our own: roots that cannot
verify anybody and tokens that cannot be accepted are never used.
"""

import base64
import binascii
import json
import logging
import os
import re
import ssl
import time

import grpc
import grpc.aio

from agent import logs, pem
from agent.config import PeerConfig
from agent.errors import AttemptError

log = logs.scope("citadelclient")

# Where distributions keep the roots of the operating system; the first that exists is used.
OS_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates",
)


async def open_channel(
    peer: PeerConfig, address: str, client_pair: tuple[bytes, bytes] | None = None
) -> grpc.aio.Channel:
    """A new, unshared channel to `address` (host:port); connecting starts with the first call.

    `client_pair` (key PEM, chain PEM) is shown to the server instead of the configured client certificate.
    Raises AttemptError(`root_file` | `client_certificate`) with one sentence.
    """
    options = _options(peer)
    target = address if address.startswith(("unix:", "dns:")) else f"dns:///{address}"
    if peer.plaintext:
        return grpc.aio.insecure_channel(target, options=options)
    roots = read_roots(peer.root_file)
    key, chain = client_pair or read_client_pair(peer) or (None, None)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots, private_key=key, certificate_chain=chain)
    if peer.server_name and peer.server_name != host_of(address):
        # It also becomes :authority, as in grpc-go; C-core refuses calls whose authority is not the verified name.
        options.append(("grpc.ssl_target_name_override", peer.server_name))
    return grpc.aio.secure_channel(target, credentials, options=options)


def _options(peer: PeerConfig) -> list[tuple[str, int | str]]:
    return [
        ("grpc.use_local_subchannel_pool", 1),  # a new connection per channel, never a shared one with old credentials
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # A fixed window: the estimate grows to tens of MB on a busy machine, all of which a slow reader makes us hold.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1 << 20),
        ("grpc.keepalive_time_ms", int(peer.keepalive_interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(peer.keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def host_of(address: str) -> str:
    """The host part of host:port, without the brackets of an IPv6 literal."""
    return address.rpartition(":")[0].strip("[]")


def os_bundle() -> str:
    """Path of the operating system's roots, or "" if it has none."""
    return next((path for path in OS_BUNDLES if os.path.isfile(path)), "")


def read_roots(root_file: str) -> bytes:
    """The parsable certificates of `root_file` ("" = the operating system's), PEM. Raises AttemptError(`root_file`)."""
    path = root_file or os_bundle()
    if not path:
        raise AttemptError(
            "root_file", "the operating system has no bundle of root certificates; name a root file instead"
        )
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as e:
        raise AttemptError("root_file", f"cannot read the root certificates {path}: {e.strerror or e}") from e
    # One bad block would make the TLS library drop the whole bundle.
    # OpenSSL judges through the ssl module, which is loaded anyway: importing x509 would delay the first connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blocks = [block for block in pem.certificates(data) if _parses(context, block)]
    if not blocks:
        raise AttemptError(
            "root_file", f"{path} holds no PEM certificate; it must hold the root of the server's certificate"
        )
    return b"\n".join(blocks) + b"\n"


def _parses(context: ssl.SSLContext, block: bytes) -> bool:
    try:
        context.load_verify_locations(cadata=block.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def read_client_pair(peer: PeerConfig, level: int = logging.WARNING) -> tuple[bytes, bytes] | None:
    """(key PEM, chain PEM) if both files are configured and the certificate parses and has not expired, else None.

    A missing file is silent (the first boot of a VM); an expired or unparsable certificate is told at `level`: the
    token alone is used. Raises AttemptError(`client_certificate`) if a valid one's key is unreadable or another's.
    """
    if not (peer.key_file and peer.cert_file):
        return None
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        with open(peer.cert_file, "rb") as f:
            chain = f.read()
        leaf = x509.load_pem_x509_certificate(chain)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        log.log(level, "the client certificate %s is not used: %s", peer.cert_file, _reason(e))
        return None
    if leaf.not_valid_after_utc.timestamp() <= time.time():
        expired = leaf.not_valid_after_utc
        log.log(level, "the client certificate %s is not used: it expired on %s", peer.cert_file, expired)
        return None
    try:
        with open(peer.key_file, "rb") as f:
            key = f.read()
        loaded = serialization.load_pem_private_key(key, None, unsafe_skip_rsa_key_validation=True)
        if loaded.public_key() != leaf.public_key():
            raise ValueError("it is not the key of the certificate")
    except (OSError, ValueError, TypeError) as e:
        sentence = f"the key {peer.key_file} of the client certificate {peer.cert_file} cannot be used: {_reason(e)}"
        raise AttemptError("client_certificate", sentence) from e
    return key, chain


def _reason(e: Exception) -> str:
    return e.strerror if isinstance(e, OSError) and e.strerror else str(e).partition("\n")[0] or type(e).__name__


def metadata(peer: PeerConfig, token: str | None = None) -> list[tuple[str, str | bytes]]:
    """Call metadata: `clusterid`, the configured headers, and `authorization` from the token file, which is read now.

    A token handed in replaces the file's; "" sends none. A missing or expired token: a warning, no header.
    """
    pairs: list[tuple[str, str | bytes]] = [("clusterid", peer.cluster_id)]
    for name, value in peer.headers.items():
        key = name.lower()
        if not re.fullmatch(r"[a-z0-9_.-]+", key) or not (value.isascii() and value.isprintable()):
            log.warning("the header %s is not sent: gRPC allows printable ASCII only", name)
        else:
            pairs.append((key, value.encode() if key.endswith("-bin") else value))
    if token is None:
        try:
            token = current_token(peer)
        except AttemptError as e:
            log.warning("%s; continuing without a token", e)
            token = ""
    if token:
        pairs.append(("authorization", f"Bearer {token}"))
    return pairs


def current_token(peer: PeerConfig) -> str:
    """The token to show now, "" if the file is empty. Raises AttemptError(`token` | `token_expired`)."""
    return peer.token or read_token(peer.token_file)


def read_token(path: str, now: float | None = None) -> str:
    """The stripped token of the file, "" if it is empty. Raises AttemptError(`token` | `token_expired`)."""
    try:
        with open(path, "rb") as f:
            token = f.read().strip().decode("ascii")
    except OSError as e:
        raise AttemptError("token", f"cannot read the token {path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise AttemptError("token", f"the token {path} is not sent: it holds bytes that are not ASCII") from e
    if not token.isprintable():
        raise AttemptError("token", f"the token {path} is not sent: it holds control characters")
    expiry = jwt_expiry(token)
    late = (time.time() if now is None else now) - expiry if expiry is not None else -1.0
    if late >= 0:
        raise AttemptError(
            "token_expired", f"the token {path} expired {late:.0f} s ago; whoever writes it must renew it"
        )
    return token


def jwt_expiry(token: str) -> float | None:
    """`exp` of a JWT in epoch seconds; None for an opaque token or a JWT without it. No signature is checked."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    exp = claims.get("exp") if isinstance(claims, dict) else None
    return float(exp) if isinstance(exp, int | float) and not isinstance(exp, bool) and abs(exp) < 1e15 else None


def explain(peer: PeerConfig, address: str, details: str) -> str:
    """One sentence for the details of a failed call or connection: what, to whom, and what to look at."""
    text = " ".join(details.split())
    roots = peer.root_file or os_bundle() or "the operating system's roots"
    if "Hostname Verification" in text:
        name = peer.server_name or host_of(address)
        return f"{address} shows a certificate that is not for {name}; correct the address or the name to expect"
    if "certificate has expired" in text:
        return f"the certificate of {address} (or one of its issuers) has expired"
    if "certificate is not yet valid" in text:
        return f"the certificate of {address} is not valid yet; compare the clocks of both machines"
    # BAD_SIGNATURE: a root of the same name with another key.
    if "CERTIFICATE_VERIFY_FAILED" in text or "BAD_SIGNATURE" in text:
        return f"the certificate of {address} does not chain to the roots in {roots}; its own root belongs there"
    if "WRONG_VERSION_NUMBER" in text:
        return f"{address} does not speak TLS"
    if "lookup failed" in text or "DNS resolution failed" in text or "errors resolving" in text:
        return f"the name of {address} cannot be resolved"
    if "Connection refused" in text:
        return f"{address} refuses connections"
    return f"{address}: {text.rpartition('last error: ')[2] or 'no details'}"
