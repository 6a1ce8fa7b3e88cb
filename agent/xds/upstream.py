"""The control plane's side of one Envoy stream: a connection of its own, endpoints in turn, frames both ways."""

import asyncio
from collections.abc import Awaitable, Callable

from agent import logs, peer
from agent.config import PeerConfig, XdsConfig
from agent.errors import AttemptError
from agent.record import replace
from agent.rpc.call import ClientCall
from agent.rpc.client import Link
from agent.rpc.status import RpcError
from agent.text import scrub
from agent.xds.dial import Dialler
from agent.xds.ending import AGENT, Ending
from agent.xds.endpoints import Candidate
from agent.xds.outbox import Outbox
from agent.xds.wire import EnvelopeError, Flavour, Frame

log = logs.scope("xdsproxy")

HURRY = 1.5  # seconds that a connection may take while there is another endpoint to try


class Upstream:
    """One conversation with the control plane; `deliver` takes each response and is waited for before the next."""

    def __init__(
        self,
        config: XdsConfig,
        dialler: Dialler,
        flavour: Flavour,
        outbox: Outbox,
        deliver: Callable[[Frame], Awaitable[None]],
        connected: Callable[[str], None],
    ) -> None:
        self._config = config
        self._dialler = dialler
        self._flavour = flavour
        self._outbox = outbox
        self._deliver = deliver
        self._connected = connected
        self._answered = False
        self._link: Link | None = None
        self._reading: float | None = None  # since when the control plane is waited for; None while Envoy is
        self._writing: float | None = None  # since when it has not taken a request

    async def run(self) -> Ending:
        """Talk to the first endpoint that answers until it ends; UNAVAILABLE before an answer leads to the next one."""
        candidates = await self._dialler.order()
        ending = _unreachable(self._dialler.error or "no address is configured")
        while candidates:
            candidate = candidates.pop(0)
            ending = await self._attempt(candidate, last=not candidates)
            if ending.code != "UNAVAILABLE":
                break
            self._dialler.failed(candidate, ending.message)
            if self._answered:
                break
            self._outbox.rewind()
            if candidates:
                log.info("%s did not answer (%s), the next endpoint is tried", candidate.address, ending)
        return ending

    async def _attempt(self, candidate: Candidate, last: bool) -> Ending:
        self._reading = self._writing = None
        self._link = None
        async with asyncio.TaskGroup() as group:
            plane = self._config.plane
            plane = replace(plane, server_name=candidate.name, proxy=plane.proxy if candidate.proxied else None)
            talk = group.create_task(
                self._talk(group, candidate, plane), name=f"xds responses from {candidate.address}"
            )
            try:
                place = peer.place(plane, candidate.address)
                return await self._beginning(talk, place, last) or await self._rest(talk)
            finally:
                talk.cancel()

    async def _talk(self, group: asyncio.TaskGroup, candidate: Candidate, plane: PeerConfig) -> Ending:
        """Dial, converse until the stream ends, and hang up."""
        try:
            pair, token = self._dialler.identify(plane)
            async with await peer.open_link(plane, candidate.address, pair) as self._link:
                call = self._link.call(self._flavour.value, peer.metadata(plane, token))
                writer = group.create_task(self._write(call), name=f"xds requests to {candidate.address}")
                try:
                    return await self._read(call, candidate)
                finally:
                    writer.cancel()
                    call.cancel()
        except AttemptError as e:
            return _unreachable(str(e))
        except RpcError as e:
            if not e.heard:
                return _unreachable(peer.explain(plane, candidate.address, e))
            return Ending(e.code.name, scrub(e.message))  # it goes to Envoy, to logs and to whoever asks
        except EnvelopeError:
            return Ending("INTERNAL", f"{candidate.address} sent bytes that are not a discovery response", by=AGENT)

    async def _beginning(self, reader: asyncio.Task[Ending], place: str, last: bool) -> Ending | None:
        """Why this endpoint is left before it has answered, None if it is not."""
        config = self._config
        # A look at the end of the budget tells a connection that hangs from a control plane that has nothing to say.
        budget = config.dial_timeout if last else min(config.dial_timeout, HURRY)
        await asyncio.wait({reader}, timeout=budget)
        if reader.done() or self._answered:
            return None
        if self._link is None or not self._link.heard:
            return _unreachable(f"{place} took no connection within {budget:g} s")
        if not last:
            await asyncio.wait({reader}, timeout=config.first_response - budget)
            # Without another endpoint a silent one is better than none, and there may be nothing to say.
            if not (reader.done() or self._answered) and self._outbox.unanswered:
                return _unreachable(f"{place} gave no response within {config.first_response:g} s")
        return None

    async def _rest(self, reader: asyncio.Task[Ending]) -> Ending:
        """Wait for the end, or for the watchdog: keepalive only shows that the other end's kernel and library live."""
        config, clock = self._config, asyncio.get_running_loop().time
        limits = [limit for limit in (config.send_timeout, config.idle_timeout) if limit]
        while limits:
            await asyncio.wait({reader}, timeout=min(limits) / 4)
            if reader.done():
                break
            now = clock()
            if self._reading is None:  # Envoy is waited for: that is nobody's fault up there
                continue
            # A control plane that could not send for a while had no time to read either.
            stuck = self._writing is not None and now - max(self._writing, self._reading) > config.send_timeout
            if config.send_timeout and stuck:
                return _stuck(f"the control plane has taken no request for {config.send_timeout:g} s")
            if config.idle_timeout and now - self._reading > config.idle_timeout:
                return _stuck(f"the control plane has said nothing for {config.idle_timeout:g} s")
        return await reader

    async def _read(self, call: ClientCall, candidate: Candidate) -> Ending:
        clock = asyncio.get_running_loop().time
        while True:
            self._reading = clock()
            frame = await call.read_view()
            if frame is None:
                return Ending()
            self._reading = None
            if not self._answered:
                self._answered = True
                self._outbox.settle()
                self._dialler.answered(candidate)
                self._connected(candidate.address)
            await self._deliver(frame)
            # Not to be held while waiting for the next one, which may take hours.
            del frame

    async def _write(self, call: ClientCall) -> None:
        clock = asyncio.get_running_loop().time
        self._outbox.direct = call.send_at_once
        try:
            while True:
                frame = await self._outbox.get()
                self._writing = clock()
                await call.write(frame)
                self._writing = None
                del frame
        except RpcError as e:
            # The reader learns how the call ended and says so.
            log.debug("no more requests can be sent: %s", e)
        finally:
            self._outbox.direct = None


def _unreachable(reason: str) -> Ending:
    return Ending("UNAVAILABLE", f"the control plane cannot be reached: {reason}", by=AGENT)


def _stuck(reason: str) -> Ending:
    return Ending("UNAVAILABLE", reason, by=AGENT)
