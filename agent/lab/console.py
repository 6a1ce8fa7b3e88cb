"""What the lab's commands print: one plain line for each thing that happens, with colours on a terminal."""

import importlib.util
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from agent.lab.timeline import Phase


class Console:
    """Uses rich when `stream` is a terminal and rich is installed; plain text otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._rich: Any = None
        if self._stream.isatty() and importlib.util.find_spec("rich") is not None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self._stream, highlight=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        if self._rich is None:
            print(text, file=self._stream, flush=True)
        else:
            self._rich.print(text, style=style or None, markup=False)

    def phase(self, phase: "Phase", total: int) -> None:
        """One finished step."""
        verdict = "ok    " if phase.ok else "FAILED"
        head = f"{phase.number}/{total} {verdict} {phase.end - phase.start:6.2f} s  {phase.title}: "
        if self._rich is None:
            self.line(head + phase.seen)
            return
        from rich.text import Text

        text = Text().append(f"{phase.number}/{total} ", style="dim")
        text.append("✔ " if phase.ok else "✘ ", style="bold green" if phase.ok else "bold red")
        text.append(f"{phase.end - phase.start:6.2f} s  ", style="dim")
        text.append(phase.title, style="bold").append(": ").append(phase.seen)
        self._rich.print(text)

    def table(self, rows: Mapping[str, str]) -> None:
        """Two columns: what, and the figure."""
        if self._rich is None:
            width = max((len(what) for what in rows), default=0)
            for what, value in rows.items():
                self.line(f"  {what:{width}}  {value}")
            return
        from rich.box import SIMPLE
        from rich.table import Table

        table = Table(box=SIMPLE, show_header=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        for what, value in rows.items():
            table.add_row(what, value)
        self._rich.print(table)
