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
from functools import lru_cache
from typing import Any

from agent import logs, pem
from agent.config import HttpProxy, PeerConfig
from agent.errors import AttemptError
from agent.rpc.client import Link, connect
from agent.rpc.dial import DialError, Why
from agent.rpc.sending import Limits
from agent.rpc.status import RpcError
from agent.settings.proxyconfig import server_name, split_address
from agent.text import scrub
from agent.version import VERSION

log = logs.scope("citadelclient")

USER_AGENT = f"remora-agent/{VERSION}"
# What a call has anyway, and what HTTP/2 forbids (RFC 9113 section 8.2.2).
RESERVED = frozenset(
    {
        "content-type",
        "te",
        "user-agent",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    }
)
LIMITS = Limits(window=1 << 20, views=True)
# What istio leaves of TLS 1.2 under COMPLIANCE_POLICY=fips-140-2
FIPS_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}" for cipher in ("AES256-GCM-SHA384", "AES128-GCM-SHA256") for key in ("ECDSA", "RSA")
)
# OpenSSL's names of the alerts
_CERTIFICATE_ALERTS = "ALERT_([A-Z]+_)?CERTIFICATE|ALERT_UNKNOWN_CA|ALERT_ACCESS_DENIED|ALERT_DECRYPT_ERROR"

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


async def open_link(peer: PeerConfig, address: str, client_pair: tuple[bytes, bytes] | None = None) -> Link:
    """A new, unshared connection to `address` (host:port). How long it may take is the caller's to bound.

    `client_pair` (key PEM, chain PEM) is shown to the server: `read_client_pair` gives the configured one.
    Raises AttemptError(`root_file` | `client_certificate`) with one sentence before anything is dialled, and DialError.
    """
    context = None if peer.plaintext else client_context(peer, client_pair)
    host, port = split_address(address)
    name = peer.server_name or server_name(address)
    return await connect(
        host,
        port,
        context,
        name,
        # As in grpc-go, a name to expect that is not the host's becomes :authority as well.
        authority=name if context is not None and name != host else address,
        user_agent=USER_AGENT,
        limits=LIMITS,
        keepalive=(peer.keepalive_interval, peer.keepalive_timeout),
        proxy=proxy_for(peer, address),
    )


def proxy_for(peer: PeerConfig, address: str) -> HttpProxy | None:
    """The HTTP proxy through which `address` (host:port) is dialled, if any."""
    if peer.proxy is None:
        return None
    from agent import httpproxy

    return peer.proxy if httpproxy.applies(peer.proxy, *split_address(address)) else None


def place(peer: PeerConfig, address: str) -> str:
    """`address` for people, with the way that leads there."""
    proxy = proxy_for(peer, address)
    return f"{address} (through the proxy {proxy.host}:{proxy.port})" if proxy else address


def client_context(peer: PeerConfig, client_pair: tuple[bytes, bytes] | None = None) -> ssl.SSLContext:
    """TLS as the peer's policy has it, HTTP/2 only, with the roots that are in their file now."""
    path, roots = read_roots(peer.root_file)
    if client_pair is not None:
        context = roots_context(path, roots, peer.policy)
        _show(context, *client_pair)
        return context
    return _bare_context(path, roots, peer.policy)


@lru_cache(maxsize=2)
def _bare_context(path: str, roots: bytes, policy: str) -> ssl.SSLContext:
    # The operating system's roots take 20 ms to load, for every connection anew.
    return roots_context(path, roots, policy)


def _show(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    """Present this certificate. OpenSSL's Python face reads files only: this one exists in our memory alone."""
    fd = os.memfd_create("client certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as f:
            f.write(key.rstrip() + b"\n" + chain)
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=_no_password)
    except (OSError, ValueError) as e:
        raise AttemptError("client_certificate", f"the client certificate cannot be used: {_reason(e)}") from e
    finally:
        os.close(fd)


def _no_password() -> str:
    raise ValueError("its key is encrypted")


def os_bundle() -> str:
    """Path of the operating system's roots, or "" if it has none."""
    return next((path for path in OS_BUNDLES if os.path.isfile(path)), "")


def read_roots(root_file: str) -> tuple[str, bytes]:
    """(path, content) of the roots, "" = the operating system's. Raises AttemptError(`root_file`)."""
    path = root_file or os_bundle()
    if not path:
        raise AttemptError(
            "root_file", "the operating system has no bundle of root certificates; name a root file instead"
        )
    try:
        with open(path, "rb") as f:
            return path, f.read()
    except OSError as e:
        raise AttemptError("root_file", f"cannot read the root certificates {path}: {e.strerror or e}") from e


def roots_context(path: str, data: bytes, policy: str = "") -> ssl.SSLContext:
    """A client's TLS context that trusts the parsable certificates of `data`, which came from `path`.

    `policy` is COMPLIANCE_POLICY; TLS 1.2 or later without one. Raises AttemptError(`root_file`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whatever is in the file is trusted, an intermediate as well
    context.set_alpn_protocols(["h2"])
    if policy == "fips-140-2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(FIPS_CIPHERS)
    elif policy == "pqc":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    # One bad block would make OpenSSL drop what follows: each is judged alone.
    if not [block for block in pem.certificates(data) if _parses(context, block)]:
        raise AttemptError(
            "root_file", f"{path} holds no PEM certificate; it must hold the root of the server's certificate"
        )
    return context


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

    from agent.roots import UNREADABLE

    try:
        with open(peer.cert_file, "rb") as f:
            chain = f.read()
        leaf = x509.load_pem_x509_certificate(chain)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as e:
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
    except (OSError, *UNREADABLE) as e:
        sentence = f"the key {peer.key_file} of the client certificate {peer.cert_file} cannot be used: {_reason(e)}"
        raise AttemptError("client_certificate", sentence) from e
    return key, chain


def _reason(e: Exception) -> str:
    return e.strerror if isinstance(e, OSError) and e.strerror else str(e).partition("\n")[0] or type(e).__name__


def metadata(peer: PeerConfig, token: str) -> list[tuple[str, str]]:
    """Call metadata: `clusterid`, the configured headers, and `authorization` with `token`, "" = none."""
    pairs: list[tuple[str, str]] = [("clusterid", peer.cluster_id)]
    for name, value in peer.headers.items():
        key = name.lower()
        if not re.fullmatch(r"[a-z0-9_.-]+", key) or not (value.isascii() and value.isprintable()):
            log.warning("the header %s is not sent: gRPC allows printable ASCII only", name)
        elif key in RESERVED or key.startswith("grpc-"):
            log.warning("the header %s is not sent: it is gRPC's own", name)
        elif key.endswith("-bin"):
            pairs.append((key, base64.b64encode(value.encode()).decode().rstrip("=")))
        else:
            pairs.append((key, value))
    if token:
        pairs.append(("authorization", f"Bearer {token}"))
    return pairs


def current_token(peer: PeerConfig) -> str:
    """The token to show now, "" if the file is empty. Raises AttemptError(`token` | `token_expired`)."""
    return peer.token or read_token(peer.token_file)


def token_state(peer: PeerConfig, now: float | None = None) -> tuple[float | None, str]:
    """(when the token expires or expired, why it must not be sent); (None, "") = it does not say, and is sent."""
    try:
        token = peer.token or _token(peer.token_file)
    except AttemptError as e:
        return None, str(e)
    return jwt_expiry(token), str(_refusal(token, peer.token_file, now) or "")


def read_token(path: str, now: float | None = None) -> str:
    """The stripped token of the file, "" if it is empty. Raises AttemptError(`token` | `token_expired`)."""
    token = _token(path)
    if refusal := _refusal(token, path, now):
        raise refusal
    return token


def _token(path: str) -> str:
    """What the file holds, whether it may be sent or not. Raises AttemptError(`token`)."""
    try:
        with open(path, "rb") as f:
            token = f.read().strip().decode("ascii")
    except OSError as e:
        raise AttemptError("token", f"cannot read the token {path}: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise AttemptError("token", f"the token {path} is not sent: it holds bytes that are not ASCII") from e
    if not token.isprintable():
        raise AttemptError("token", f"the token {path} is not sent: it holds control characters")
    return token


def _refusal(token: str, path: str, now: float | None) -> AttemptError | None:
    expiry = jwt_expiry(token)
    late = (time.time() if now is None else now) - expiry if expiry is not None else -1.0
    if late < 0:
        return None
    return AttemptError("token_expired", f"the token {path} expired {late:.0f} s ago; whoever writes it must renew it")


def jwt_expiry(token: str) -> float | None:
    """`exp` of a JWT in epoch seconds; None for an opaque token or a JWT without it."""
    exp = jwt_claims(token).get("exp")
    return float(exp) if isinstance(exp, int | float) and not isinstance(exp, bool) and abs(exp) < 1e15 else None


def jwt_claims(token: str) -> dict[str, Any]:
    """What a JWT says of itself, {} for an opaque token. No signature is checked."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def about_certificate(error: RpcError) -> bool:
    """The server ended TLS because of our certificate, or for want of one (alerts of RFC 8446 section 6)."""
    return not error.heard and bool(re.search(_CERTIFICATE_ALERTS, error.message))


def explain(peer: PeerConfig, address: str, error: RpcError) -> str:
    """One sentence for a connection that was not made or did not last: what, to whom, and what to look at."""
    text = " ".join(scrub(error.message).split())
    why = error.why if isinstance(error, DialError) else None
    name = peer.server_name or server_name(address)
    if why is not Why.PROXY:
        address = place(peer, address)
    if why is Why.NAME:
        return f"{address} shows a certificate that is not for {name}; correct the address or the name to expect"
    if why is Why.EXPIRED:
        return f"the certificate of {address} (or one of its issuers) has expired"
    if why is Why.NOT_YET_VALID:
        return f"the certificate of {address} is not valid yet; compare the clocks of both machines"
    if why is Why.UNTRUSTED:
        roots = peer.root_file or os_bundle() or "the operating system's roots"
        return f"the certificate of {address} does not chain to the roots in {roots}; its own root belongs there"
    if about_certificate(error):
        wanted = "demands a client certificate" if "REQUIRED" in text else "does not accept the client certificate"
        return f"{address} {wanted} ({text})"
    if why is Why.NOT_TLS:
        return f"{address} does not speak TLS"
    if why is Why.LOOKUP:
        return f"the name of {address} cannot be resolved"
    if why is Why.REFUSED:
        return f"{address} refuses connections"
    return f"{address}: {text or 'no details'}"
