"""Bearer tokens: `lab.<namespace>.<service account>.<secret>`. The text names an identity, the secret proves it."""

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a caller proved to be."""

    namespace: str
    service_account: str

    def spiffe(self, trust_domain: str) -> str:
        return f"spiffe://{trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def compose(identity: Identity, secret: str) -> str:
    """The text of a token; `secret` has no dot, a namespace neither, so that both ends are unambiguous."""
    return f"lab.{identity.namespace}.{identity.service_account}.{secret}"


def parse(token: str) -> Identity:
    """The identity that a token claims. Raises ValueError."""
    scheme, _, rest = token.partition(".")
    namespace, _, rest = rest.partition(".")
    account, _, secret = rest.rpartition(".")
    if scheme != "lab" or not namespace or not account or not secret:
        raise ValueError("the token is not of the form lab.<namespace>.<service account>.<secret>")
    return Identity(namespace, account)


def authenticate(metadata: Iterable[tuple[str, str | bytes]], issued: Sequence[str]) -> Identity:
    """The identity behind the `authorization` header of a call. Raises ValueError with a sentence for the caller."""
    headers = [value for key, value in metadata if key.lower() == "authorization"]
    if not headers:
        raise ValueError("the call carries no authorization header")
    header = headers[0] if isinstance(headers[0], str) else headers[0].decode("utf-8", "replace")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise ValueError("the authorization header is not a bearer token")
    # Compared in constant time, as text that is not ASCII would be refused by compare_digest.
    presented = token.strip().encode("utf-8", "replace")
    matches = [known for known in issued if hmac.compare_digest(known.encode(), presented)]
    if not matches:
        raise ValueError("the token was not issued by this lab, or has been withdrawn")
    return parse(matches[0])


def from_spiffe(uri: str, trust_domain: str) -> Identity:
    """The identity in a workload certificate of this trust domain. Raises ValueError."""
    prefix = f"spiffe://{trust_domain}/ns/"
    namespace, marker, account = uri.removeprefix(prefix).partition("/sa/")
    if not uri.startswith(prefix) or not marker or not namespace or not account or "/" in namespace + account:
        raise ValueError(f"{uri!r} is no workload identity of trust domain {trust_domain}")
    return Identity(namespace, account)
