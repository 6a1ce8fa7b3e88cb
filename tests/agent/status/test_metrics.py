"""Prometheus text, checked against its grammar."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.status.metrics import Registry, number

LINE = re.compile(r'^[a-z_]+\{[a-z_]+="(?:\\[\\"n]|[^"\\\n])*"\} (?P<value>\S+)$')


def test_a_page() -> None:
    registry = Registry()
    scrapes = registry.counter("scrapes_total", "Requests.")
    failures = registry.counter("scrape_failures_total", "Failures\nby \\ part.")
    registry.counter("unused", "Never seen.")
    registry.computed("cert_expiry_seconds", "gauge", "Time left.", lambda: [({"resource_name": "default"}, -1.5)])
    scrapes.add()
    scrapes.add(2)
    failures.add(type="envoy")
    assert registry.render() == (
        "# HELP istio_agent_cert_expiry_seconds Time left.\n"
        "# TYPE istio_agent_cert_expiry_seconds gauge\n"
        'istio_agent_cert_expiry_seconds{resource_name="default"} -1.5\n'
        "# HELP istio_agent_scrape_failures_total Failures\\nby \\\\ part.\n"
        "# TYPE istio_agent_scrape_failures_total counter\n"
        'istio_agent_scrape_failures_total{type="envoy"} 1\n'
        "# HELP istio_agent_scrapes_total Requests.\n"
        "# TYPE istio_agent_scrapes_total counter\n"
        "istio_agent_scrapes_total 3\n"
    )


def test_the_same_name_is_the_same_metric() -> None:
    registry = Registry()
    registry.counter("a", "A.").add()
    registry.counter("a", "A.").add()
    assert "istio_agent_a 2\n" in registry.render()


def test_a_gauge_forgets() -> None:
    registry = Registry()
    gauge = registry.gauge("g", "G.")
    gauge.set(1, x="1")
    gauge.set(0.25, x="1")
    assert 'istio_agent_g{x="1"} 0.25\n' in registry.render()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.5, "0.5"),
        (-3, "-3"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
        (1e20, "1e+20"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@given(st.text(), st.floats(allow_nan=False))
def test_every_label_and_value_makes_a_valid_line(text: str, value: float) -> None:
    registry = Registry()
    registry.gauge("g", text).set(value, name=text)
    lines = registry.render().removesuffix("\n").split("\n")
    assert len(lines) == 3
    match = LINE.match(lines[2])
    assert match
    assert float(match["value"].replace("Inf", "inf")) == value


def test_a_histogram_appears_with_its_first_observation() -> None:
    registry, seen = Registry(), [0, 0]
    registry.histogram("h", "H.", lambda: ([(0.5, seen[0]), (float("inf"), seen[1])], 1.5))
    assert registry.render() == ""
    seen[:] = [1, 3]
    assert registry.render().splitlines() == [
        "# HELP istio_agent_h H.",
        "# TYPE istio_agent_h histogram",
        'istio_agent_h_bucket{le="0.5"} 1',
        'istio_agent_h_bucket{le="+Inf"} 3',
        "istio_agent_h_sum 1.5",
        "istio_agent_h_count 3",
    ]
