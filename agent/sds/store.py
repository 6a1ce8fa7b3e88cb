"""What can be served under each name now: the workload certificate, the roots, and mounted files."""

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

from agent.config import SdsConfig
from agent.latest import Latest
from agent.model import Secret
from agent.record import replace
from agent.sds import files, resources

# Encoded secrets that are kept so that a push to many streams is encoded once.
MEMO = 64


NO_CA = "there is no CA"


class Store:
    """Looks names up. `file-...:` names are files; ROOTCA and every other name are the configured files if they are
    there, else the certificate from the CA: every name that is not ROOTCA gets it, labelled with that name.

    `bundle`: the control plane's trust bundle, PEM. It joins a ROOTCA that comes from files; the CA's has it already.
    """

    def __init__(
        self, config: SdsConfig, secret: Latest[Secret | None], bundle: Latest[tuple[str, ...]] | None = None
    ) -> None:
        self._config = config
        self._secret = secret
        self._bundle: Latest[tuple[str, ...]] = Latest(()) if bundle is None else bundle
        self._pair = (config.cert_file, config.key_file) if config.cert_file and config.key_file else None
        self._root = (config.root_file,) if config.root_file else None
        self.files = files.FileSecrets()
        self._seen: Secret | None = None  # the secret that the two digests belong to
        self._chain_digest = self._roots_digest = ""
        self._answers = itertools.count(1)
        self._memo: dict[object, bytes] = {}
        self._crl_seen = self._revocations()

    def _paths(self, name: str) -> tuple[str, ...] | None:
        """The files that may hold a name."""
        if found := files.paths(name):
            return found
        return self._root if name == resources.ROOT else self._pair

    def subscribe(self, name: str) -> None:
        """A stream is interested in `name` from now on."""
        if found := self._paths(name):
            elsewhere = self._config.ca or self._config.external
            self.files.track(name, found, quiet=elsewhere and not files.paths(name))

    def unsubscribe(self, name: str) -> None:
        """The counterpart of `subscribe`."""
        self.files.untrack(name)

    def refresh(self, thorough: bool = False) -> bool:
        """Read the subscribed files again; true if something changed."""
        seen, self._crl_seen = self._crl_seen, self._revocations()
        return self.files.refresh(thorough) or seen != self._crl_seen

    def paths(self) -> list[str]:
        """The files whose changes `refresh` can see."""
        return [*self.files.paths(), *([self._config.crl_file] if self._config.crl_enabled else [])]

    def _revocations(self) -> bool:
        """There is a revocation list that Envoy shall read."""
        return self._config.crl_enabled and os.path.exists(self._config.crl_file)

    def version(self, name: str) -> str | None:
        """An opaque string that changes with the content; None while there is nothing to serve."""
        found = self._content(name)
        return f"{found}+crl" if found and resources.is_trust(name) and self._revocations() else found

    def _content(self, name: str) -> str | None:
        if content := self.files.get(name):
            return f"{content.version}+{self._bundle.version}" if self._joined(name) else content.version
        secret = self._secret.value
        if secret is None or files.paths(name):
            return None
        if self._seen is not secret:
            self._seen = secret
            self._chain_digest, self._roots_digest = _digest(secret.chain), _digest(secret.roots)
        return self._roots_digest if name == resources.ROOT else self._chain_digest

    def _joined(self, name: str) -> bool:
        """The control plane's bundle joins the roots of that file."""
        return name == resources.ROOT and bool(self._bundle.value)

    def problem(self, name: str) -> str:
        """Why a name cannot be served; "" if it can or if it only has to wait for the CA."""
        if files.paths(name):
            return self.files.problem(name)
        if self._config.external:
            return "another server on this node has it; this one serves files only"
        if self._config.ca:
            return ""
        if self._paths(name) is None:
            return f"{NO_CA}, and no mounted files stand in for it: they must be elsewhere than in OUTPUT_CERTS"
        reason = self.files.problem(name)
        return f"{NO_CA}, and {reason}" if reason else ""

    def hopeless(self, name: str) -> bool:
        """Waiting will not help: the name itself is wrong, or nobody is there who could serve it."""
        if found := files.paths(name):
            return found == ("",)
        return self._config.external or not (self._config.ca or self._paths(name))

    def encoded(self, name: str) -> bytes:
        """The serialized tls.v3.Secret of a name that has a version. Raises LookupError for any other."""
        crl = self._config.crl_file if resources.is_trust(name) and self._revocations() else ""
        return self.once((name, self.version(name), crl), lambda: self._encode(name, crl))

    def once(self, key: object, make: Callable[[], bytes]) -> bytes:
        """`make()` for the first who wants it, the same bytes for all others: a push is encoded once."""
        if (known := self._memo.get(key)) is None:
            if len(self._memo) >= MEMO:
                self._memo.clear()
            known = self._memo[key] = make()
        return known

    def report(self, ca: bool) -> list[dict[str, Any]]:
        """What `remora-agent certs` says beside the CA's certificate: JSON types, never a key. `ca`: there is one."""
        from agent.sds import report  # only people ask for it

        return report.describe(self._config, self.files, ca)

    def stamp(self) -> str:
        """The version of one more answer, as istio's agent writes it: local time and a counter."""
        text = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return f"{text[:-2]}:{text[-2:]}/{next(self._answers)}"

    def forget(self) -> None:
        """Drop encoded secrets: the content changed, and no copies of old keys are kept."""
        self._memo.clear()

    def source(self, name: str) -> files.Content | Secret | None:
        """Where the content of a name comes from now: mounted files, else the CA; None while there is nothing."""
        found = self.files.get(name)
        if found is None:
            return None if files.paths(name) else self._secret.value
        if not self._joined(name):
            return found
        from agent.roots import merge_roots  # x509 again

        return replace(found, roots=merge_roots(found.roots, *(block.encode() for block in self._bundle.value)))

    def _encode(self, name: str, crl_file: str) -> bytes:
        if (source := self.source(name)) is None:
            raise LookupError(name)
        if resources.is_trust(name):
            return resources.trust(name, source.roots, crl_file)
        return resources.key_pair(name, source.chain, source.key, self._config.key_provider)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
