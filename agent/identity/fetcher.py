"""Tokens that nobody mounts: the identity token of a Google Compute Engine machine (CREDENTIAL_FETCHER_TYPE)."""

import asyncio
import os
import random
import time
from urllib.parse import quote

from agent import logs
from agent import peer as peers
from agent.backoff import Backoff
from agent.config import MachineTokenConfig
from agent.errors import AttemptError

log = logs.scope("citadelclient")

PERIOD = 300.0  # seconds between two looks at the token
RETRY = Backoff(initial=1.0, cap=60.0, factor=2.0, jitter=0.2)  # while there is none
MARGIN = 1500.0  # a token that expires within these seconds is replaced
TIMEOUT = 5.0
MAX_SIZE = 64 * 1024
PATH = "/computeMetadata/v1/instance/service-accounts/default/identity?audience={}&format=full"


class MachineToken:
    """Keeps the token file filled with the machine's token; everybody else reads it there."""

    def __init__(self, config: MachineTokenConfig) -> None:
        self._host = config.host
        self._audience = config.audience
        self._target = PATH.format(quote(config.audience, safe=""))
        self._path = config.path
        self._lock = asyncio.Lock()

    def fresh(self, now: float) -> bool:
        """The file holds a token that is for our audience and lives long enough: not one that somebody else left."""
        try:
            token = peers.read_token(self._path, now)
        except AttemptError:
            return False
        expiry = peers.jwt_expiry(token)
        return peers.jwt_claims(token).get("aud") == self._audience and expiry is not None and expiry - now > MARGIN

    async def start(self) -> None:
        """Nothing is bound."""

    async def refresh(self) -> None:
        """Fetch and write a new token if the present one is about to expire. Raises AttemptError(`token`)."""
        async with self._lock:
            if not self.fresh(time.time()):
                await asyncio.to_thread(self._replace)

    async def run(self) -> None:
        """Look every five minutes, until cancelled; a failure is logged, and found again by whoever needs the token."""
        failures = 0
        while True:
            try:
                await self.refresh()
                failures = 0
            except AttemptError as e:
                log.warning("%s", e)
                failures += 1
            await asyncio.sleep(RETRY.delay(failures - 1, random.random()) if failures else PERIOD)

    def _replace(self) -> None:
        token = self._fetch()
        temporary = f"{self._path}.tmp.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path) or ".", mode=0o750, exist_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "wb") as f:
                f.write(token)
            os.replace(temporary, self._path)
        except OSError as e:
            raise AttemptError("token", f"cannot write the machine's token to {self._path}: {e.strerror or e}") from e

    def _fetch(self) -> bytes:
        import http.client  # four milliseconds that only some platforms need

        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT)
        try:
            connection.request("GET", self._target, headers={"Metadata-Flavor": "Google"})
            answer = connection.getresponse()
            body = answer.read(MAX_SIZE + 1).strip()
        except (OSError, http.client.HTTPException) as e:
            reason = getattr(e, "strerror", None) or e or type(e).__name__
            raise AttemptError("token", f"the metadata server {self._host} gives no token: {reason}") from e
        finally:
            connection.close()
        if answer.status != 200 or not body or len(body) > MAX_SIZE:
            what = f"status {answer.status}" if answer.status != 200 else f"{len(body)} bytes"
            raise AttemptError("token", f"the metadata server {self._host} gives no token: it answers with {what}")
        return body
