"""Moments, lifetimes, names and long lines, as people read them in a terminal."""

import time

from agent.durations import span

BAR = 32


def distinguished(name: str) -> str:
    """A distinguished name without its empty parts: mesh CAs ask for `O=`."""
    kept = [part for part in name.split(",") if part.partition("=")[2] or "=" not in part]
    return ",".join(kept).strip() or "(empty)"


def bar(begin: float, end: float, now: float, renewal: float | None = None) -> str:
    """The lifetime as a bar, what has passed filled, the moment of renewal marked."""
    filled = _cell(begin, end, now)
    cells = list("#" * filled + "-" * (BAR - filled))
    if renewal is not None and begin <= renewal <= end:
        cells[min(BAR - 1, _cell(begin, end, renewal))] = "|"
    return "[" + "".join(cells) + "]"


def _cell(begin: float, end: float, at: float) -> int:
    share = min(1.0, max(0.0, (at - begin) / (end - begin))) if end > begin else 1.0
    return int(share * BAR)


def moment(at: float, now: float) -> str:
    return f"in {span(at - now)} ({stamp(at)})" if at >= now else f"{span(now - at)} ago ({stamp(at)})"


def clock(at: float, now: float) -> str:
    """A moment that is over."""
    return f"{stamp(at)} ({span(max(0.0, now - at))} ago)"


def stamp(at: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    except (OverflowError, ValueError, OSError):
        return f"second {at:.0f}"


def folded(text: str, width: int, indent: int) -> list[str]:
    """`text` in lines of `width` columns, broken at blanks, what follows indented; a long word stays whole."""
    if not width or len(text) <= width:
        return [text]
    lines, line = [], text[: len(text) - len(text.lstrip())]
    for word in text.lstrip().split(" "):
        # Not right behind the name of a field, nor where nothing stands yet.
        if line[indent:].strip() and len(line) + 1 + len(word) > width:
            lines.append(line.rstrip())
            line = " " * indent + word
        else:
            line = f"{line} {word}" if line.strip() else line + word
    return [*lines, line.rstrip()]
