"""The flag and environment table of `istio-iptables`, read with the semantics of Go's pflag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from init.errors import InitError, UsageError

Value = str | bool | int | float

# name: (shorthand, kind, default, environment variables from the weakest to the strongest)
FLAGS: dict[str, tuple[str, str, Value, tuple[str, ...]]] = {
    "envoy-port": ("p", "string", "15001", ()),
    "inbound-capture-port": ("z", "string", "15006", ("INBOUND_CAPTURE_PORT",)),
    "inbound-tunnel-port": ("e", "string", "15008", ("INBOUND_TUNNEL_PORT",)),
    "proxy-uid": ("u", "string", "", ("PROXY_UID",)),
    "proxy-gid": ("g", "string", "", ("PROXY_GID",)),
    "istio-inbound-interception-mode": ("m", "string", "", ("ISTIO_INBOUND_INTERCEPTION_MODE",)),
    "istio-inbound-ports": ("b", "string", "", ("ISTIO_INBOUND_PORTS",)),
    "istio-local-exclude-ports": ("d", "string", "", ("ISTIO_LOCAL_EXCLUDE_PORTS",)),
    "istio-exclude-interfaces": ("c", "string", "", ("ISTIO_EXCLUDE_INTERFACES",)),
    "istio-service-cidr": ("i", "string", "", ("ISTIO_SERVICE_CIDR",)),
    "istio-service-exclude-cidr": ("x", "string", "", ("ISTIO_SERVICE_EXCLUDE_CIDR",)),
    "istio-outbound-ports": ("q", "string", "", ("ISTIO_OUTBOUND_PORTS",)),
    "istio-local-outbound-ports-exclude": ("o", "string", "", ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",)),
    "kube-virt-interfaces": ("k", "string", "", ("KUBE_VIRT_INTERFACES",)),
    "istio-inbound-tproxy-mark": ("t", "string", "1337", ("ISTIO_INBOUND_TPROXY_MARK",)),
    "istio-inbound-tproxy-route-table": ("r", "string", "133", ("ISTIO_INBOUND_TPROXY_ROUTE_TABLE",)),
    "dry-run": ("n", "bool", False, ("DRY_RUN",)),
    "iptables-probe-port": ("", "uint16", 15002, ("IPTABLES_PROBE_PORT",)),
    "probe-timeout": ("", "duration", 5.0, ("PROBE_TIMEOUT",)),
    "skip-rule-apply": ("", "bool", False, ("SKIP_RULE_APPLY",)),
    "run-validation": ("", "bool", False, ("RUN_VALIDATION",)),
    "redirect-dns": ("", "bool", False, ("REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE")),
    "capture-all-dns": ("", "bool", False, ("CAPTURE_ALL_DNS",)),
    "drop-invalid": ("", "bool", False, ("DROP_INVALID", "INVALID_DROP")),
    "dual-stack": ("", "bool", False, ("DUAL_STACK", "ISTIO_DUAL_STACK")),
    "network-namespace": ("", "string", "", ("NETWORK_NAMESPACE",)),
    "cni-mode": ("", "bool", False, ("CNI_MODE",)),
    "reconcile": ("", "bool", False, ("RECONCILE",)),
    "cleanup-only": ("", "bool", False, ("CLEANUP_ONLY",)),
    "force-apply": ("", "bool", False, ("FORCE_APPLY",)),
    "native-nftables": ("", "bool", False, ("NATIVE_NFTABLES",)),
    "force-iptables-binary": ("", "string", "", ("FORCE_IPTABLES_BINARY",)),
    "log_output_level": ("", "levels", "default:info", ()),
    "log_stacktrace_level": ("", "levels", "default:none", ()),
    "log_caller": ("", "string", "", ()),
    "log_target": ("", "string", "", ()),
    "log_as_json": ("", "bool", False, ()),
    "vklog": ("", "string", "", ()),
    "help": ("h", "bool", False, ()),
}
SHORT = {spec[0]: name for name, spec in FLAGS.items() if spec[0]}
LEVELS = ("debug", "info", "warn", "error", "fatal", "none")
TRUE, FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
UNITS = (("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0))


def convert(kind: str, text: str) -> Value:
    """One value in the spelling that Go accepts; ValueError says what it should have been."""
    if kind == "bool":
        if text in TRUE or text in FALSE:
            return text in TRUE
        raise ValueError("true or false")
    if kind == "uint16":
        if text.isascii() and text.isdigit() and int(text) <= 65535:
            return int(text)
        raise ValueError("a number from 0 to 65535")
    if kind == "duration":
        return duration(text)
    if kind == "levels":
        for part in text.split(","):
            if part.rpartition(":")[2] not in LEVELS or part.count(":") > 1:
                raise ValueError("scope:level with a level of " + ", ".join(LEVELS))
    return text


def duration(text: str) -> float:
    """Seconds of a Go duration such as `5s`, `1m30s` or `500ms`."""
    rest, total = text, 0.0
    if text == "0":
        return total
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = next((n for n, c in enumerate(rest) if c in "0123456789."), len(rest))
        unit, rest = rest[:letters], rest[letters:]
        scale = dict(UNITS).get(unit)
        if scale is None or not number.isascii() or number.count(".") > 1 or number in ("", "."):
            raise ValueError("a duration such as 5s")
        total += float(number) * scale
    if not text:
        raise ValueError("a duration such as 5s")
    return total


def read(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, Value]:
    """Values of every flag: default, then environment, then command line. Raises UsageError and InitError."""
    values: dict[str, Value] = {}
    for name, (_, kind, default, variables) in FLAGS.items():
        values[name] = default
        for variable in variables:
            text = environ.get(variable, "")
            if not text:
                continue
            try:
                values[name] = convert(kind, text)
            except ValueError as e:
                raise InitError(f"the environment variable {variable} is {text!r} but must be {e}") from None
    values.update(command_line(argv))
    return values


def command_line(argv: Sequence[str]) -> dict[str, Value]:
    """Only the flags that were given, by long name."""
    values: dict[str, Value] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            if name not in FLAGS:
                raise UsageError(f"unknown flag: --{name}")
            set_flag(values, name, "--" + name, text if equals else None, words)
        elif word.startswith("-") and word != "-":
            shorthands(values, word[1:], words)
        else:
            raise UsageError(f"unexpected argument {word!r}: every setting is a flag")
    if words:
        raise UsageError(f"unexpected argument {words[0]!r}: every setting is a flag")
    return values


def shorthands(values: dict[str, Value], letters: str, words: list[str]) -> None:
    """`-d15090`, `-d=15090`, `-d 15090` and joined bools such as `-nh`."""
    while letters:
        letter, letters = letters[0], letters[1:]
        name = SHORT.get(letter)
        if name is None:
            raise UsageError(f"unknown shorthand flag: -{letter}")
        if letters.startswith("="):
            return set_flag(values, name, "-" + letter, letters[1:], words)
        if FLAGS[name][1] != "bool":
            return set_flag(values, name, "-" + letter, letters or None, words)
        values[name] = True
    return None


def set_flag(values: dict[str, Value], name: str, shown: str, text: str | None, words: list[str]) -> None:
    kind = FLAGS[name][1]
    if text is None:
        if kind == "bool":
            text = "true"
        elif not words:
            raise UsageError(f"the flag {shown} needs a value")
        else:
            text = words.pop(0)
    try:
        values[name] = convert(kind, text)
    except ValueError as e:
        raise UsageError(f"the flag {shown} is {text!r} but must be {e}") from None


def usage() -> str:
    """The help text: every flag with its default and environment variables."""
    lines = ["Usage: remora-init [plan|apply|verify|cleanup|explain] [flags]", "", "Flags:"]
    for name, (short, kind, default, variables) in FLAGS.items():
        text = f"  {'-' + short + ', ' if short else '    '}--{name}" + ("" if kind == "bool" else f" {kind}")
        notes = ([f"default {default!r}"] if default not in ("", False) else []) + [f"${v}" for v in variables]
        lines.append(f"{text:<62}{'  (' + ', '.join(notes) + ')' if notes else ''}".rstrip())
    return "\n".join(lines) + "\n"
