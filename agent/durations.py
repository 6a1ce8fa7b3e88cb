"""Durations in text: Go's (`1h30m`, environment variables), protobuf's (`45s`, ProxyConfig), people's. In seconds."""

_LONGEST = 9.2e9  # Go counts nanoseconds in 64 bits
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def go_duration(text: str) -> float:
    """Seconds of a Go duration such as `24h`, `100ms`, `1h2m3.5s`, `0`; raises ValueError."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(f"{text!r} is not a duration")
    total = 0.0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = next((u for u in (rest[:2], rest[:1]) if u in _UNITS), "")
        if not unit or not number.strip(".") or number.count(".") > 1:
            raise ValueError(f"{text!r} is not a duration (write it like 1h30m, 5s or 100ms)")
        total += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    if total > _LONGEST:
        raise ValueError(f"{text!r} is out of range for a duration")
    return -total if text[0] == "-" else total


def proto_nanos(text: str) -> int:
    """Nanoseconds of a protobuf JSON duration: decimal seconds with an `s`, at most nine digits; raises ValueError."""
    body = text[1:] if text.startswith("-") else text
    whole, dot, fraction = body.removesuffix("s").partition(".")
    digits = whole + fraction
    if not body.endswith("s") or not digits.isascii() or not digits.isdigit() or not whole or (dot and not fraction):
        raise ValueError(f"{text!r} is not a duration in seconds (write it like 5s or 0.5s)")
    if len(fraction) > 9 or int(whole) > 315_576_000_000:
        raise ValueError(f"{text!r} is out of range for a duration")
    nanos = int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0"))
    return -nanos if text.startswith("-") else nanos


def proto_text(nanos: int) -> str:
    """The canonical protobuf JSON spelling: no, three, six or nine fractional digits."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), 1_000_000_000)
    if not fraction:
        return f"{sign}{whole}s"
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{sign}{whole}.{digits}s"


def proto_seconds(text: str) -> float:
    """Seconds of a protobuf JSON duration; raises ValueError."""
    return proto_nanos(text) / 1e9


def span(seconds: float) -> str:
    """For people, who need two units at most: 3d4h, 5h6m, 7m8s, 9s."""
    whole = int(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below}{small}"
    return f"{whole}s"
