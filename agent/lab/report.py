"""`lab-report/index.html`: the run as one self-contained page, readable without a network, in light and dark."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from agent.lab.picture import Picture
from agent.lab.timeline import Phase, Timeline, loss

TEMPLATE = Path(__file__).with_name("report.html")


def _step(phase: Phase) -> str:
    verdict = '<td class="v">held</td>' if phase.ok else '<td class="v bad">failed</td>'
    return (
        f'<tr><td class="n">{phase.number}</td><td>{escape(phase.title)}</td><td>{escape(phase.seen)}</td>{verdict}'
        f'<td class="t">{phase.end - phase.start:.2f} s</td></tr>'
    )


def render(timeline: Timeline, figures: Mapping[str, str], logs: Sequence[str], wanted: int) -> str:
    """The page as text. `wanted` is how many steps there are: fewer phases than that is a failure too."""
    held = sum(p.ok for p in timeline.phases)
    ok = held == wanted
    traffic = loss(timeline.requests)
    tiles = (
        (f"{held} of {wanted}", "steps held"),
        (f"{timeline.end - timeline.start:.0f} s", "whole run"),
        (f"{traffic.total}", "requests sent in a steady stream"),
        (f"{traffic.failed}", "of them failed"),
        (f"{traffic.gap * 1000:.0f} ms", "longest time without an answer"),
    )
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(timeline.start))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title="remora lab: a mesh that survives",
        subtitle=f"Two workloads with real Envoys in network namespaces, nine steps, begun {began}.",
        verdict="held" if ok else "failed",
        verdict_class="" if ok else "bad",
        tiles="\n".join(f"<div><b>{escape(v)}</b><span>{escape(what)}</span></div>" for v, what in tiles),
        picture=Picture(timeline).svg(),
        steps="\n".join(_step(p) for p in timeline.phases),
        figures="\n".join(
            f'<tr><td>{escape(what)}</td><td class="t">{escape(v)}</td></tr>' for what, v in figures.items()
        ),
        logs="\n".join(f'<li><a href="{escape(name, quote=True)}">{escape(name)}</a></li>' for name in logs),
    )


def write(directory: Path, timeline: Timeline, figures: Mapping[str, str], wanted: int) -> Path:
    """Write the page beside the logs and return its path."""
    logs = sorted(p.name for p in directory.iterdir() if p.suffix in (".log", ".jsonl", ".yaml"))
    page = directory / "index.html"
    page.write_text(render(timeline, figures, logs, wanted), encoding="utf-8")
    return page
