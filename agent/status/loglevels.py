"""`/logging` of the status port: log levels of the running agent, changed for a while, back by themselves."""

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import parse_qs

from agent import logs
from agent.status.http import Request, Response

log = logs.scope("default")

DEFAULT, LONGEST = 300.0, 3600.0  # seconds


class LogLevels:
    """Owns the levels of this process; `configured` are those to which everything returns."""

    def __init__(self, configured: Mapping[str, str]) -> None:
        self._configured = dict(configured)
        self._now = dict(configured)
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, request: Request) -> Response:
        """GET tells the levels; POST `?level=scope:level,...&seconds=N` changes them, `?level=reset` takes it back."""
        if not request.local:
            return Response(403, b"Only requests from localhost are allowed\n")
        if request.method not in ("GET", "POST"):
            return Response(405, b"Method not allowed\n", headers={"allow": "GET, POST"})
        if request.method == "POST":
            query = parse_qs(request.query)
            try:
                self._order(query.get("level", [""])[-1], query.get("seconds", [""])[-1])
            except ValueError as error:
                return Response(400, f"{error}\n".encode())
        return Response(200, self._text().encode(), "application/json")

    def _order(self, text: str, seconds: str) -> None:
        if not text:
            raise ValueError("level must be given, as in level=debug or level=xdsproxy:debug; or reset")
        if text == "reset":
            self.reset()
            return
        levels = logs.parse_levels(text)
        try:
            duration = float(seconds) if seconds else DEFAULT
        except ValueError:
            duration = 0.0
        if not 0 < duration <= LONGEST:
            raise ValueError(f"seconds must be between 0 and {LONGEST:g}, not {seconds!r}")
        self.change(levels, duration)

    def change(self, levels: Mapping[str, str], seconds: float) -> None:
        """Lay `levels` over the configured ones for `seconds`; an earlier change ends with this one."""
        self._cancel()
        # `all` would hide what is asked for now.
        base = {k: v for k, v in self._configured.items() if k != "all"} if "all" in self._configured else {}
        self._now = {**(base or self._configured), **levels}
        if base and "default" not in levels and "all" not in levels:
            self._now["default"] = self._configured["all"]
        shown = ",".join(f"{name}:{level}" for name, level in sorted(levels.items()))
        logs.set_levels({"default": "info"})
        log.info("Log levels are %s for %g s.", shown, seconds)
        logs.set_levels(self._now)
        self._timer = asyncio.get_running_loop().call_later(seconds, self.reset)

    def reset(self) -> None:
        """Back to what was configured."""
        self._cancel()
        if self._now == self._configured:
            return
        self._now = dict(self._configured)
        logs.set_levels({"default": "info"})
        log.info("Log levels are as configured again.")
        logs.set_levels(self._configured)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _text(self) -> str:
        left = 0.0
        if self._timer is not None:
            left = max(0.0, self._timer.when() - asyncio.get_running_loop().time())
        return json.dumps({"levels": self._now, "configured": self._configured, "seconds_left": round(left, 1)}) + "\n"
