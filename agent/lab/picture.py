"""The timeline as one SVG drawing; colours and fonts come from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

from agent.lab.timeline import Lane, Mark, MarkKind, Phase, Timeline
from agent.lab.traffic import Request

WIDTH, LEFT, RIGHT = 1400, 132, 24
HEAD, LANE, REQUESTS, FOOT = 54, 44, 132, 34
BADGE = 21  # least distance between two step numbers
FASTEST, SLOWEST = 0.5, 5_000.0  # ms: the range of the request plot's logarithmic scale
STEPS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)  # seconds between ticks


def spread(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Positions in the same order, `least` or more apart, close to the wanted ones, within low..high if they fit."""
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, placed[-1] + least if placed else low))
    for i in range(len(placed) - 1, -1, -1):
        limit = high if i == len(placed) - 1 else placed[i + 1] - least
        placed[i] = min(placed[i], limit)
    return placed


def tick_step(seconds: float, most: int = 14) -> float:
    """A round distance between ticks that gives no more than `most` of them."""
    return next((s for s in STEPS if seconds / s <= most), float(STEPS[-1]))


class Picture:
    """Draws one timeline. `svg()` returns the whole element."""

    def __init__(self, timeline: Timeline) -> None:
        self._t = timeline
        self._lanes = [lane for lane in timeline.lanes if lane.spans or lane.marks]
        self._length = max(timeline.end - timeline.start, 0.001)
        self._bottom = HEAD + LANE * len(self._lanes) + REQUESTS
        self._out: list[str] = []

    def _x(self, moment: float) -> float:
        share = (moment - self._t.start) / self._length
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def _when(self, moment: float) -> str:
        return f"{moment - self._t.start:.3f} s"

    def _add(self, text: str) -> None:
        self._out.append(text)

    def svg(self) -> str:
        height = self._bottom + FOOT
        self._add(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="timeline of the run">')
        self._phases(self._t.phases)
        self._axis()
        for row, lane in enumerate(self._lanes):
            self._lane(lane, HEAD + LANE * row)
        self._requests(self._t.requests, HEAD + LANE * len(self._lanes))
        self._add("</svg>")
        return "\n".join(self._out)

    def _phases(self, phases: Sequence[Phase]) -> None:
        middles = [(self._x(p.start) + self._x(p.end)) / 2 for p in phases]
        for index, (phase, at) in enumerate(zip(phases, spread(middles, BADGE, LEFT, WIDTH - RIGHT), strict=True)):
            x, end = self._x(phase.start), self._x(phase.end)
            kind = "band odd" if index % 2 else "band"
            title = escape(f"{phase.number}. {phase.title} ({phase.end - phase.start:.2f} s): {phase.seen}")
            self._add(f'<g class="step {"ok" if phase.ok else "bad"}"><title>{title}</title>')
            self._add(f'<rect class="{kind}" x="{x:.1f}" y="{HEAD - 8}" width="{max(end - x, 1):.1f}" '
                      f'height="{self._bottom - HEAD + 8}"/>')  # fmt: skip
            if abs(at - middles[index]) > 2 or end - x < BADGE:
                self._add(f'<path class="leader" d="M{at:.1f} 24 L{middles[index]:.1f} {HEAD - 8}"/>')
            self._add(f'<circle class="badge" cx="{at:.1f}" cy="16" r="9.5"/>')
            self._add(f'<text class="number" x="{at:.1f}" y="20">{phase.number}</text>')
            # Narrow bands have their number only; the table below the picture has the words.
            if len(phase.title) * 6.0 < end - x:
                self._add(f'<text class="phase" x="{(x + end) / 2:.1f}" y="39">{escape(phase.title)}</text>')
            self._add("</g>")

    def _axis(self) -> None:
        step = tick_step(self._length)
        for i in range(int(self._length / step) + 1):
            x = self._x(self._t.start + i * step)
            self._add(f'<path class="grid" d="M{x:.1f} {HEAD - 8} V{self._bottom}"/>')
            self._add(f'<text class="tick" x="{x:.1f}" y="{self._bottom + 18}">{i * step:g} s</text>')

    def _lane(self, lane: Lane, top: float) -> None:
        middle = top + LANE / 2
        self._add(f'<text class="name" x="{LEFT - 12}" y="{middle + 4:.0f}">{escape(lane.name)}</text>')
        self._add(f'<path class="rail" d="M{LEFT} {middle:.0f} H{WIDTH - RIGHT}"/>')
        for span in lane.spans:
            x, end = self._x(span.start), self._x(span.end)
            title = escape(
                f"{lane.name}: {span.text or span.state.value}, {self._when(span.start)} to {self._when(span.end)}"
            )
            self._add(f'<rect class="span {span.state.value}" x="{x:.1f}" y="{middle - 8:.0f}" '
                      f'width="{max(end - x, 1.5):.1f}" height="16" rx="3"><title>{title}</title></rect>')  # fmt: skip
        for mark in sorted(lane.marks, key=lambda m: m.kind is not MarkKind.EVENT):
            self._mark(mark, middle)

    def _mark(self, mark: Mark, middle: float) -> None:
        x = self._x(mark.time)
        title = f"<title>{escape(f'{self._when(mark.time)}: {mark.text}')}</title>"
        # Faults at the upper edge, recoveries at the lower one: they are often milliseconds apart.
        if mark.kind is MarkKind.FAULT:
            shape = f'<path d="M{x - 5:.1f} {middle - 11:.0f} l10 10 m0 -10 l-10 10"/>'
        elif mark.kind is MarkKind.GOOD:
            shape = f'<circle cx="{x:.1f}" cy="{middle + 8:.0f}" r="5"/>'
        else:
            shape = f'<path d="M{x:.1f} {middle - 8:.0f} v16"/>'
        label = ""
        if mark.label:
            # Beside the mark, and on its other side where the picture ends.
            left = x + len(mark.label) * 6.2 + 12 > WIDTH - RIGHT
            place = f'x="{x - 9:.1f}" text-anchor="end"' if left else f'x="{x + 9:.1f}"'
            level = middle + (20 if mark.kind is MarkKind.GOOD else -11)
            label = f'<text {place} y="{level:.0f}">{escape(mark.label)}</text>'
        self._add(f'<g class="mark {mark.kind.value}">{title}{shape}{label}</g>')

    def _requests(self, requests: Sequence[Request], top: float) -> None:
        base, room = top + REQUESTS - 10, REQUESTS - 34

        def y(ms: float) -> float:
            share = math.log(min(max(ms, FASTEST), SLOWEST) / FASTEST) / math.log(SLOWEST / FASTEST)
            return base - share * room

        self._add(f'<text class="name" x="{LEFT - 12}" y="{top + 20:.0f}">requests</text>')
        for ms, text in ((1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1000, "1 s")):
            self._add(f'<path class="grid" d="M{LEFT} {y(ms):.1f} H{WIDTH - RIGHT}"/>')
            self._add(f'<text class="scale" x="{LEFT - 12}" y="{y(ms) + 4:.1f}">{text}</text>')
        # One path for all good requests: thousands of elements would make the page slow.
        dots = "".join(f"M{self._x(r.start):.1f} {y(r.ms):.1f}h0" for r in requests if r.ok)
        self._add(f'<path class="good-requests" d="{dots}"/>')
        for r in requests:
            if not r.ok:
                what = f"HTTP {r.status}" if r.status else "no answer"
                title = f"{self._when(r.start)}: {what} after {r.ms:.0f} ms on a {r.mode} connection: {r.error}"
                x = self._x(r.start)
                shape = (
                    f'<path d="M{x:.1f} {top + 14:.0f} V{base:.0f}"/><circle cx="{x:.1f}" cy="{y(r.ms):.1f}" r="3"/>'
                )
                self._add(f'<g class="lost"><title>{escape(title)}</title>{shape}</g>')
