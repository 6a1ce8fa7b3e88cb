"""Plain lines where nobody looks, colours on a terminal."""

import io

from agent.lab.console import Console
from agent.lab.timeline import Phase


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def everything(stream: io.StringIO) -> str:
    console = Console(stream)
    console.line("begin [not markup]", style="bold")
    console.phase(Phase(1, "rules", 10.0, 10.25, True, "29 rules"), 9)
    console.phase(Phase(2, "ready", 11.0, 12.0, False, "expected [x]; seen: y"), 9)
    console.table({"exec → ready": "120 ms"})
    return stream.getvalue()


def test_plain_output_is_a_line_for_each_thing() -> None:
    lines = everything(io.StringIO()).splitlines()
    assert lines[0] == "begin [not markup]"
    assert lines[1] == "1/9 ok       0.25 s  rules: 29 rules"
    assert lines[2] == "2/9 FAILED   1.00 s  ready: expected [x]; seen: y"
    assert lines[3].split() == ["exec", "→", "ready", "120", "ms"]


def test_a_terminal_gets_the_same_words() -> None:
    text = everything(Terminal())
    for words in ("begin [not markup]", "29 rules", "expected [x]; seen: y", "120 ms"):
        assert words in text
    assert "\x1b[" in text
