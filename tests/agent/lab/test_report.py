"""The page: self-contained, complete, and honest about failures."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agent.lab import report
from agent.lab.timeline import Phase, Timeline
from agent.lab.traffic import Request


def timeline(*held: bool) -> Timeline:
    made = Timeline(1000.0, 1042.0)
    made.phases += [Phase(i, f"step <{i}>", 1000.0 + i, 1000.5 + i, ok, "seen & done") for i, ok in enumerate(held, 1)]
    made.requests += [Request(1001.0, "new", 200, 5.0), Request(1002.0, "new", 503, 5.0, "gone")]
    return made


@pytest.mark.parametrize(
    ("held", "verdict"), [((True, True), "held"), ((True, False), "failed"), ((True,), "failed"), ((), "failed")]
)
def test_the_verdict_needs_every_step(held: tuple[bool, ...], verdict: str) -> None:
    page = report.render(timeline(*held), {}, [], wanted=2)
    assert re.search(rf'<span class="verdict[^"]*">{verdict}</span>', page)


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a-agent.log").write_text("x")
    (tmp_path / "other.bin").write_text("x")
    path = report.write(tmp_path, timeline(True, False), {"exec → ready": "1 ms"}, wanted=2)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "index.html"
    assert not re.search(r"(src|href)=\"(https?:)?//|@import|url\(", page)
    assert 'href="a-agent.log"' in page
    assert "other.bin" not in page
    assert "step &lt;1&gt;" in page
    assert "seen &amp; done" in page
    assert "exec → ready" in page
    assert "prefers-color-scheme: dark" in page
    assert "$" not in page.partition("<body>")[2]


def test_every_tag_is_closed() -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(report.render(timeline(True), {"a": "b"}, ["x.log"], wanted=1))
    assert open_tags == []
