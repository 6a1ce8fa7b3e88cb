"""Which credential to show the CA: a token, the certificate in use, or a provisioned one. What worked is remembered."""

from collections.abc import Collection
from enum import Enum

from agent.record import record, replace


class Kind(Enum):
    TOKEN = "token"  # together with the provisioned certificate if there is a valid one, as istio's agent does
    TOKEN_ALONE = "token alone"  # without it: the CA may not believe the certificate and end the connection for it
    CERTIFICATE = "certificate"  # the workload certificate in use, over mTLS, without a token
    PROVISIONED = "provisioned"  # the certificate of PROV_CERT alone, over mTLS
    NONE = "none"  # nothing is usable; a CA that knows us by other means may still answer


# When nothing is known: the first that is usable.
ORDER = (Kind.TOKEN, Kind.TOKEN_ALONE, Kind.CERTIFICATE, Kind.PROVISIONED)
# What is shown with the provisioned certificate, and with the token: such credentials stand or fall together.
WITH_PROVISIONED = frozenset({Kind.TOKEN, Kind.PROVISIONED})
WITH_TOKEN = frozenset({Kind.TOKEN, Kind.TOKEN_ALONE})


def found(token: bool, own: bool, provisioned: bool) -> frozenset[Kind]:
    """The credentials that can be shown where these are there: a token, our certificate, a provisioned one."""
    there = {
        Kind.TOKEN: token,
        Kind.TOKEN_ALONE: token and provisioned,
        Kind.CERTIFICATE: own,
        Kind.PROVISIONED: provisioned,
    }
    return frozenset(kind for kind, is_there in there.items() if is_there)


@record
class Credentials:
    """What worked last, and what the CA rejected since."""

    preferred: Kind = Kind.TOKEN
    rejected: frozenset[Kind] = frozenset()

    def choose(self, usable: Collection[Kind]) -> Kind:
        """The credential for the next attempt: what worked last, unless it is unusable or was just rejected."""
        there = [kind for kind in ORDER if kind in usable]
        if not there:
            return Kind.NONE
        fresh = [kind for kind in there if kind not in self.rejected] or there
        return self.preferred if self.preferred in fresh else fresh[0]

    def accepted(self, kind: Kind) -> "Credentials":
        """The CA issued a certificate for it."""
        return Credentials(preferred=self.preferred if kind is Kind.NONE else kind)

    def refused(self, kind: Kind, usable: Collection[Kind], certificate: bool = False) -> "Credentials":
        """The CA said that it does not believe or permit it; `certificate`: it was the client certificate, in TLS.

        When all usable ones were refused, all are tried again.
        """
        group = WITH_PROVISIONED if certificate else WITH_TOKEN
        rejected = self.rejected | (group if kind in group else {kind})
        return replace(self, rejected=frozenset() if rejected.issuperset(usable) else rejected)


def advice(kind: Kind, token_file: str, cert_file: str, certificate: bool = False) -> str:
    """What to look at when the CA refuses a credential, or the `certificate` that came with it; one phrase."""
    if certificate and kind is Kind.TOKEN:
        kind = Kind.PROVISIONED
    match kind:
        case Kind.TOKEN | Kind.TOKEN_ALONE:
            return f"check that {token_file} is for this CA and names the right service account"
        case Kind.CERTIFICATE:
            return "check that the CA trusts the roots of the certificate in use, and give it a token to fall back on"
        case Kind.PROVISIONED:
            return f"check that {cert_file} was issued by a CA that this one trusts"
        case Kind.NONE:
            return f"nothing was shown to it: put a valid token into {token_file}"
