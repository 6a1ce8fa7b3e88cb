import pytest
from hypothesis import given
from hypothesis import strategies as st

from init import flags
from init.errors import InitError, UsageError

DEFAULTS = flags.read([], {})


def changed(argv: list[str], environ: dict[str, str] | None = None) -> dict[str, flags.Value]:
    return {k: v for k, v in flags.read(argv, environ or {}).items() if v != DEFAULTS[k]}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-d", "15090"], {"istio-local-exclude-ports": "15090"}),
        (["-d15090,15021"], {"istio-local-exclude-ports": "15090,15021"}),
        (["-d=15090"], {"istio-local-exclude-ports": "15090"}),
        (["--istio-local-exclude-ports", "1"], {"istio-local-exclude-ports": "1"}),
        (["--istio-local-exclude-ports=1"], {"istio-local-exclude-ports": "1"}),
        (["--dry-run"], {"dry-run": True}),
        (["--dry-run=T", "--drop-invalid=false"], {"dry-run": True}),
        (["-n"], {"dry-run": True}),
        (["-nh"], {"dry-run": True, "help": True}),
        (["-n=false"], {}),
        (["-nd", "7"], {"dry-run": True, "istio-local-exclude-ports": "7"}),
        (["-b", "80", "-b", "81"], {"istio-inbound-ports": "81"}),
        (["-i", "-x"], {"istio-service-cidr": "-x"}),
        (["-b", "80", "--"], {"istio-inbound-ports": "80"}),
        (["--probe-timeout", "1m30s"], {"probe-timeout": 90.0}),
        (["--log_output_level=default:info,grpc:none"], {"log_output_level": "default:info,grpc:none"}),
        (["--log_output_level", "debug", "--log_as_json"], {"log_output_level": "debug", "log_as_json": True}),
    ],
)
def test_spellings(argv: list[str], expected: dict[str, flags.Value]) -> None:
    assert changed(argv) == expected


def test_an_empty_value_is_a_value() -> None:
    assert flags.read(["-z", ""], {"INBOUND_CAPTURE_PORT": "7"})["inbound-capture-port"] == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["--no-such-flag"],
        ["-y"],
        ["-n", "true"],
        ["word"],
        ["--", "word"],
        ["-b"],
        ["--drop-invalid=maybe"],
        ["--iptables-probe-port", "70000"],
        ["--iptables-probe-port=-1"],
        ["--probe-timeout", "5"],
        ["--probe-timeout="],
        ["--log_output_level=default:loud"],
        ["-", "x"],
    ],
)
def test_bad_command_lines(argv: list[str]) -> None:
    with pytest.raises(UsageError) as e:
        flags.read(argv, {})
    assert "\n" not in str(e.value)


def test_precedence_is_default_then_own_variable_then_alias_then_flag() -> None:
    environ = {"REDIRECT_DNS": "true"}
    assert flags.read([], environ)["redirect-dns"] is True
    assert flags.read([], environ | {"ISTIO_META_DNS_CAPTURE": "false"})["redirect-dns"] is False
    assert flags.read(["--redirect-dns"], environ | {"ISTIO_META_DNS_CAPTURE": "false"})["redirect-dns"] is True


@pytest.mark.parametrize("name", [n for n, spec in flags.FLAGS.items() if spec[3]])
def test_every_variable_sets_its_flag(name: str) -> None:
    kind, variables = flags.FLAGS[name][1], flags.FLAGS[name][3]
    text: str
    value: flags.Value
    text, value = {"bool": ("true", True), "uint16": ("7", 7), "duration": ("7s", 7.0)}.get(kind, ("x", "x"))
    for variable in variables:
        assert changed([], {variable: text}) == {name: value}


def test_the_proxy_port_has_no_variable() -> None:
    assert changed([], {"ENVOY_PORT": "7", "PROXY_PORT": "7"}) == {}


@pytest.mark.parametrize("variable", ["DRY_RUN", "RECONCILE", "IPTABLES_PROBE_PORT", "PROBE_TIMEOUT"])
def test_a_variable_that_cannot_be_read_is_an_error(variable: str) -> None:
    with pytest.raises(InitError, match=variable):
        flags.read([], {variable: "maybe"})


def test_an_empty_variable_is_no_setting() -> None:
    assert changed([], dict.fromkeys(("DRY_RUN", "PROBE_TIMEOUT", "INBOUND_CAPTURE_PORT"), "")) == {}


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("5s", 5), ("1h1m1.5s", 3661.5), ("250ms", 0.25), ("2us", 2e-6)]
)
def test_durations(text: str, seconds: float) -> None:
    assert flags.duration(text) == pytest.approx(seconds)


@given(st.text(max_size=20))
def test_a_duration_is_read_or_refused(text: str) -> None:
    try:
        assert flags.duration(text) >= 0
    except ValueError:
        pass


@given(st.lists(st.text(max_size=12), max_size=6))
def test_a_command_line_is_read_or_refused(argv: list[str]) -> None:
    try:
        flags.read(argv, {})
    except UsageError:
        pass


def test_usage_names_every_flag() -> None:
    text = flags.usage()
    assert all(f"--{name}" in text for name in flags.FLAGS)
