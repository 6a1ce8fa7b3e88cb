"""Which credential to show the CA: the token, or the certificate in use when the token cannot be used or is rejected.

A provisioned client certificate (PROV_CERT) is not a choice: like istio's agent we show it whenever it is valid.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Kind(Enum):
    TOKEN = "token"
    CERTIFICATE = "certificate"  # the workload certificate in use, over mTLS
    NONE = "none"  # neither is usable; a provisioned certificate may still do


@dataclass(frozen=True, slots=True)
class Credentials:
    """What worked last, and what the CA rejected since."""

    preferred: Kind = Kind.TOKEN
    rejected: frozenset[Kind] = frozenset()

    def choose(self, token_usable: bool, certificate_usable: bool) -> Kind:
        """The credential for the next attempt: the preferred one unless it is unusable or was just rejected."""
        usable = [k for k, ok in ((Kind.TOKEN, token_usable), (Kind.CERTIFICATE, certificate_usable)) if ok]
        if not usable:
            return Kind.NONE
        fresh = [k for k in usable if k not in self.rejected] or usable
        return self.preferred if self.preferred in fresh else fresh[0]

    def accepted(self, kind: Kind) -> "Credentials":
        """The CA issued a certificate for it."""
        return Credentials(preferred=self.preferred if kind is Kind.NONE else kind)

    def refused(self, kind: Kind) -> "Credentials":
        """The CA said that it does not believe or permit it. When all were refused, all are tried again."""
        rejected = self.rejected | {kind}
        return replace(self, rejected=frozenset() if {Kind.TOKEN, Kind.CERTIFICATE} <= rejected else rejected)
