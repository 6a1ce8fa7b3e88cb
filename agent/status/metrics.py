"""The agent's own metrics in Prometheus text format 0.0.4: pure arithmetic, istio's names."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.record import fresh, state

PREFIX = "istio_agent_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Mapping[str, str], float]  # labels, value
Buckets = Sequence[tuple[float, int]]  # (upper bound, how many were at most that), the last bound is infinity


@state
class Family:
    """One metric with its children by label set. A child appears with its first use, as istio's do."""

    name: str
    kind: str  # counter | gauge
    what: str  # the HELP line
    values: dict[Labels, float] = fresh(factory=dict)
    compute: Callable[[], Iterable[Sample]] | None = None  # asked at every scrape instead

    def add(self, amount: float = 1.0, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0.0) + amount

    def set(self, value: float, **labels: str) -> None:
        self.values[tuple(sorted(labels.items()))] = value

    def samples(self) -> Iterable[tuple[Labels, float]]:
        if self.compute is None:
            return self.values.items()
        return [(tuple(sorted(labels.items())), value) for labels, value in self.compute()]


class Registry:
    """Every metric of one agent. One event loop: no locks."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._histograms: dict[str, tuple[str, Callable[[], tuple[Buckets, float]]]] = {}

    def counter(self, name: str, what: str) -> Family:
        """A counter; `name` is printed as given after the prefix, without a suffix. The same name: the same family."""
        return self._families.setdefault(name, Family(name, "counter", what))

    def gauge(self, name: str, what: str) -> Family:
        return self._families.setdefault(name, Family(name, "gauge", what))

    def computed(self, name: str, kind: str, what: str, compute: Callable[[], Iterable[Sample]]) -> None:
        """A metric whose samples are produced at the scrape, such as the time left of a certificate."""
        self._families[name] = Family(name, kind, what, compute=compute)

    def histogram(self, name: str, what: str, read: Callable[[], tuple[Buckets, float]]) -> None:
        """A histogram that is read at the scrape: its cumulative buckets and the sum of what was observed."""
        self._histograms[name] = (what, read)

    def _histogram_lines(self) -> Iterable[str]:
        for short, (what, read) in sorted(self._histograms.items()):
            buckets, total = read()
            count = buckets[-1][1]
            if not count:
                continue
            name = PREFIX + short
            yield f"# HELP {name} {escape_help(what)}"
            yield f"# TYPE {name} histogram"
            for bound, at_most in buckets:
                yield f'{name}_bucket{{le="{number(bound)}"}} {at_most}'
            yield f"{name}_sum {number(total)}"
            yield f"{name}_count {count}"

    def render(self) -> str:
        """The whole page; families without a sample are left out."""
        lines = []
        for family in sorted(self._families.values(), key=lambda f: f.name):
            samples = sorted(family.samples())
            if not samples:
                continue
            name = PREFIX + family.name
            lines += [f"# HELP {name} {escape_help(family.what)}", f"# TYPE {name} {family.kind}"]
            lines += [f"{name}{labels_text(labels)} {number(value)}" for labels, value in samples]
        lines += self._histogram_lines()
        return "".join(line + "\n" for line in lines)


def labels_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{escape_value(value)}"' for key, value in labels) + "}"


def escape_value(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def number(value: float) -> str:
    """Shortest text that reads back as the same number; whole numbers without a fraction."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
