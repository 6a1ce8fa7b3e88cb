"""From the configured addresses to endpoints in the order in which they are tried."""

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable

from agent import logs, lookup, peer
from agent.config import PeerConfig
from agent.errors import AttemptError
from agent.settings.proxyconfig import SRV, server_name, split_address
from agent.xds import srvlookup
from agent.xds.endpoints import Candidate, Endpoints, Standing, redial
from agent.xds.srv import Record

log = logs.scope("xdsproxy")

PATIENCE = 3.0  # seconds for the addresses of one name; without them the name itself is dialled


class Dialler:
    """One per agent: what a stream learns about an endpoint counts for the next one.

    `own` gives our certificate (key PEM, chain PEM), None while there is none that is valid.
    """

    def __init__(
        self,
        plane: PeerConfig,
        own: Callable[[], tuple[bytes, bytes] | None] = lambda: None,
        look_up_srv: Callable[[str], Awaitable[list[Record]]] = srvlookup.look_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plane = plane
        self._own = own
        self._look_up_srv = look_up_srv
        self._clock = clock
        self._endpoints = Endpoints()
        self._last: dict[str, list[Candidate]] = {}  # by configured address: what it meant when that was last known
        self._attempts = 0
        self._away_since: float | None = None
        self.error = ""  # why a name was not resolved

    async def order(self) -> list[Candidate]:
        """Every endpoint, the best first; [] if there is none, and `error` says why."""
        found: list[Candidate] = []
        for place, address in enumerate(self._plane.addresses):
            candidates = await self._meaning(address, place)
            if candidates:
                self._last[address] = candidates
            found += candidates or self._last.get(address, [])
        return self._endpoints.order(found, self._clock(), random.random)

    async def _meaning(self, address: str, place: int) -> list[Candidate]:
        if not address.startswith(SRV):
            return await self._by_name(address, (place, 0), 1)
        try:
            records = await self._look_up_srv(address.removeprefix(SRV))
        except AttemptError as e:
            self.error = str(e)
            log.warning("%s", e)
            return []
        found = []
        for record in records:
            host = f"[{record.target}]" if ":" in record.target else record.target
            found += await self._by_name(f"{host}:{record.port}", (place, record.priority), record.weight)
        return found

    async def _by_name(self, address: str, rank: tuple[int, int], weight: int) -> list[Candidate]:
        """One for each address of the name; the name itself where there is only one, or none to be found."""
        if address.startswith(("unix:", "dns:")):
            return [Candidate(address, self._plane.server_name, rank, weight)]
        host, port = split_address(address)
        name = self._plane.server_name or server_name(address)
        itself = [Candidate(address, name, rank, weight)]
        if peer.proxy_for(self._plane, address) is not None:
            # It resolves the name; here nobody may be able to.
            return [Candidate(address, name, rank, weight, proxied=True)]
        try:
            async with asyncio.timeout(PATIENCE):
                known = await lookup.addresses(host, port)
        except (OSError, TimeoutError) as e:
            log.debug("the addresses of %s are not known: %s", host, e)
            return itself
        if len(known) < 2:
            return itself
        ips = [f"[{where[0]}]" if family is socket.AF_INET6 else str(where[0]) for family, where in known]
        return [Candidate(f"{ip}:{port}", name, rank, weight) for ip in ips]

    def identify(self, plane: PeerConfig) -> tuple[tuple[bytes, bytes] | None, str]:
        """(client certificate, token) to show, the token "" if there is none.

        Where istio's agent has nothing left to show, its token expired or gone, our own certificate tells who we are.
        Raises AttemptError for a configured certificate that cannot be used.
        """
        token, pair = "", None if plane.plaintext else peer.read_client_pair(plane)
        try:
            token = peer.current_token(plane)
            problem = "" if token else f"the token {plane.token_file} is empty"
        except AttemptError as e:
            problem = str(e)
        if not token and pair is None and not plane.plaintext:
            pair = self._own()
        if problem:
            others = "a certificate alone" if pair else "nothing that tells who we are"
            log.warning("%s; the control plane is shown %s", problem, others)
        return pair, token

    def answered(self, candidate: Candidate) -> None:
        """It gave a first response."""
        self._endpoints.answered(candidate.address)
        self._attempts, self._away_since = 0, None

    def failed(self, candidate: Candidate, reason: str) -> None:
        """It could not be reached, broke, or said nothing in time."""
        self._endpoints.failed(candidate.address, reason, self._clock(), random.random())

    def pause(self) -> float:
        """Seconds to wait now that no endpoint was of use; longer the longer the control plane is away."""
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        delay = redial(self._attempts, now - self._away_since, random.random())
        self._attempts += 1
        return delay

    def standings(self) -> list[Standing]:
        return self._endpoints.standings(self._clock())
