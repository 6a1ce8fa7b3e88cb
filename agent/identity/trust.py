"""Which roots Envoy trusts: those of the CA's answers and those that the control plane sends."""

from agent.record import record, replace
from agent.roots import merge_roots

# A CA that answers with other roots every time must not make the bundle grow without end.
MAX_FORMER = 4


@record
class Trust:
    """All values are PEM. Former roots stay until the certificate that came with them has expired: other workloads
    still show certificates of that age, and a root that goes at once would cut them off.
    """

    issued: bytes = b""  # the roots of the CA's last answer, merged
    former: tuple[tuple[bytes, float], ...] = ()  # earlier ones, and the epoch second at which each goes
    bundle: tuple[str, ...] = ()  # the control plane's trust bundle

    def answered(self, roots: bytes, until: float) -> "Trust":
        """The CA answered with `roots`; if they are others, the present ones stay until then."""
        if roots == self.issued:
            return self
        former = tuple(entry for entry in self.former if entry[0] not in (roots, self.issued))
        if self.issued:
            former = (*former, (self.issued, until))[-MAX_FORMER:]
        return replace(self, issued=roots, former=former)

    def at(self, now: float) -> "Trust":
        """Without the former roots whose time is over."""
        left = tuple(entry for entry in self.former if entry[1] > now)
        return self if len(left) == len(self.former) else replace(self, former=left)

    def next_end(self) -> float | None:
        """When the next former roots go, epoch seconds."""
        return min((until for _, until in self.former), default=None)

    def merged(self) -> bytes:
        """One bundle: each certificate once, sorted."""
        if not (self.former or self.bundle):
            return self.issued  # which is so already
        return merge_roots(self.issued, *(r for r, _ in self.former), *(b.encode() for b in self.bundle))

    def origin(self, root: bytes) -> tuple[str, float | None]:
        """Why a certificate of `merged` (PEM) is trusted: (current | former | bundle, until when, None = for good)."""
        if root in merge_roots(self.issued):
            return "current", None
        if any(root in merge_roots(one.encode()) for one in self.bundle):
            return "bundle", None
        return "former", max((until for roots, until in self.former if root in merge_roots(roots)), default=None)
