"""Command-line parsing with the rules of pflag, which pilot-agent's users rely on; light, because hooks exec it.

Known differences from argparse: `--flag=value`, `--flag value`, `-x value` and `-xvalue` all work, an empty value is a
value, flags and positional words may be mixed, names are never abbreviated, `--` ends the flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from agent.errors import ConfigError

TYPE_CHECKING = False  # typing itself would be most of what a hook imports
if TYPE_CHECKING:
    from typing import Any

GO_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
GO_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class HelpWanted(Exception):
    """`--help` was given; `str()` is the text to print on stdout (exit 0)."""


def go_bool(text: str) -> bool:
    """Go's spelling of booleans; raises ValueError for anything else."""
    if text in GO_TRUE:
        return True
    if text in GO_FALSE:
        return False
    raise ValueError(f"{text!r} is not a boolean")


def go_int(text: str) -> int:
    """A whole number as Go reads it: no blanks, no underscores at the ends; raises ValueError."""
    if text != text.strip() or not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def flag_int(text: str) -> int:
    """A whole number as pflag reads it: also 0x1f, 0b1, 0o17, 017 and 1_000; 64 bits. Raises ValueError."""
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits.replace("_", "").isdigit()
    value = int(text, 8 if octal else 0) if text == text.strip() and text.isascii() else go_int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text!r} is out of range")
    return value


class Flag:
    """One flag. `kind` is string, bool, int or list (a string that may be repeated)."""

    __slots__ = ("default", "help", "kind", "name", "short")

    def __init__(self, name: str, default: Any = "", help_text: str = "", *, short: str = "", kind: str = "") -> None:
        self.name = name
        self.short = short
        self.default = default
        self.help = help_text
        self.kind = kind or {bool: "bool", int: "int", tuple: "list"}.get(type(default), "string")

    def parse(self, text: str) -> Any:
        if self.kind == "string" or self.kind == "list":
            return text
        read: Callable[[str], Any] = go_bool if self.kind == "bool" else flag_int
        return read(text)


LOG_FLAGS = (
    Flag(
        "log_output_level", "default:info,grpc:none", "comma list of scope:level; a bare level is for everything else"
    ),
    Flag("log_as_json", False, "write log lines as JSON, Envoy's too"),
    Flag("log_caller", "", "comma list of scopes whose lines say where in the program they come from"),
    Flag("log_stacktrace_level", "default:none", "comma list of scope:level from which a stack trace is logged"),
    Flag("log_target", ("stdout",), "where log lines go: stdout, stderr or a file; may be repeated"),
    Flag("vklog", "0", "accepted for compatibility"),
)


class FlagSet:
    """The flags of one command. `ignore_unknown` is what `proxy` and the bare program do."""

    def __init__(self, usage: str, flags: Iterable[Flag], *, about: str = "", ignore_unknown: bool = False) -> None:
        self.usage = usage
        self.about = about
        self.ignore_unknown = ignore_unknown
        self.own = tuple(flags)
        self.flags = (*self.own, *LOG_FLAGS)
        self.by_name = {f.name: f for f in self.flags}
        self.by_short = {f.short: f for f in self.flags if f.short}

    def help(self) -> str:
        """The text for `--help`."""
        usage = self.usage if "[flags]" in self.usage else f"{self.usage} [flags]"
        lines = [self.about, "", "Usage:", f"  {usage}", "", "Flags:"]
        for f in sorted(self.flags, key=lambda f: f.name):
            short = f"-{f.short}, " if f.short else "    "
            default = ",".join(f.default) if isinstance(f.default, tuple) else f.default
            note = f" (default {default})" if default not in ("", False, 0) else ""
            kind = "" if f.kind == "bool" else f" {f.kind}"
            lines.append(f"  {short}--{f.name}{kind}  {f.help}{note}")
        return "\n".join(lines).lstrip("\n")

    def parse(self, argv: Sequence[str]) -> Parsed:
        """Values and positional words of `argv`; raises ConfigError with one sentence, or HelpWanted."""
        return _Parser(self, argv).run()


class Parsed:
    """What a command line says: `values` by flag name (defaults filled in), `given` names, positional `words`."""

    __slots__ = ("given", "unknown", "values", "words")

    def __init__(
        self, values: Mapping[str, Any], given: frozenset[str], words: tuple[str, ...], unknown: tuple[str, ...] = ()
    ) -> None:
        self.values = values
        self.given = given
        self.words = words
        self.unknown = unknown  # what was ignored, where that is the rule: the flag, and the word taken for its value

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class _Parser:
    def __init__(self, spec: FlagSet, argv: Sequence[str]) -> None:
        self.spec = spec
        self.rest = list(argv)
        self.values: dict[str, Any] = {f.name: f.default for f in spec.flags}
        self.given: set[str] = set()
        self.words: list[str] = []
        self.ignored: list[str] = []

    def run(self) -> Parsed:
        while self.rest:
            word = self.rest.pop(0)
            if len(word) < 2 or word[0] != "-":
                self.words.append(word)
            elif word == "--":
                self.words += self.rest
                self.rest = []
            elif word.startswith("--"):
                self.long(word[2:])
            else:
                self.short(word[1:])
        return Parsed(self.values, frozenset(self.given), tuple(self.words), tuple(self.ignored))

    def long(self, text: str) -> None:
        name, has_value, value = text.partition("=")
        if not name or name[0] == "-":
            raise ConfigError(f"bad flag syntax: --{text}")
        flag = self.spec.by_name.get(name)
        if flag is None:
            self.unknown(f"--{name}", name == "help", swallow=not has_value)
        elif has_value:
            self.set(flag, value, f"--{name}")
        elif flag.kind == "bool":
            self.set(flag, "true", f"--{name}")
        else:
            self.set(flag, self.next_word(f"--{name}"), f"--{name}")

    def short(self, cluster: str) -> None:
        while cluster:
            letter, cluster = cluster[0], cluster[1:]
            flag = self.spec.by_short.get(letter)
            shown = f"-{letter}"
            if flag is None:
                value_attached = cluster.startswith("=") and len(cluster) > 1
                self.unknown(shown, letter == "h", swallow=not value_attached)
                if value_attached:
                    return
            elif cluster.startswith("=") and len(cluster) > 1:
                self.set(flag, cluster[1:], shown)
                return
            elif flag.kind == "bool":
                self.set(flag, "true", shown)
            elif cluster:
                self.set(flag, cluster, shown)
                return
            else:
                self.set(flag, self.next_word(shown), shown)

    def unknown(self, shown: str, is_help: bool, *, swallow: bool) -> None:
        if is_help:
            raise HelpWanted(self.spec.help())
        if not self.spec.ignore_unknown:
            raise ConfigError(f"unknown flag: {shown}; see `{self.spec.usage.partition(' [')[0]} --help`")
        # An unknown flag may have a value; pflag guesses that the next word is it unless that looks like a flag.
        if swallow and self.rest and not self.rest[0].startswith("-"):
            shown += f" {self.rest.pop(0)}"
        self.ignored.append(shown)

    def next_word(self, shown: str) -> str:
        if not self.rest:
            raise ConfigError(f"flag needs an argument: {shown}")
        return self.rest.pop(0)

    def set(self, flag: Flag, text: str, shown: str) -> None:
        try:
            value = flag.parse(text)
        except ValueError as e:
            raise ConfigError(f"invalid argument {text!r} for flag {shown}: {e}") from None
        if flag.kind == "list":
            value = (*self.values[flag.name], value) if flag.name in self.given else (value,)
        self.values[flag.name] = value
        self.given.add(flag.name)


PROXY = FlagSet(
    "pilot-agent proxy [role]",
    (
        Flag("domain", "", "DNS domain suffix of this workload (default ${POD_NAMESPACE}.svc.cluster.local)"),
        Flag("meshConfig", "./etc/istio/config/mesh", "mesh configuration: defaultConfig is used, the rest checked"),
        Flag("stsPort", 0, "accepted for compatibility; shown in the node metadata"),
        Flag("tokenManagerPlugin", "", "accepted for compatibility"),
        Flag("serviceCluster", "istio-proxy", "service cluster, if the configuration leaves it empty"),
        Flag("proxyLogLevel", "warning", "Envoy's log level; may carry components: info,upstream:debug"),
        Flag("proxyComponentLogLevel", "", "Envoy's component log levels, if --proxyLogLevel carries none"),
        Flag("concurrency", 0, "number of Envoy worker threads; 0 leaves it to the configuration"),
        Flag("templateFile", "", "Envoy bootstrap to use instead of the built-in one (JSON)"),
        Flag("outlierLogPath", "", "file for Envoy's outlier detection events"),
        Flag("profiling", True, "accepted for compatibility"),
    ),
    about="Run the sidecar agent and Envoy; role is sidecar (default), router, waypoint, ztunnel or agentgateway.",
    ignore_unknown=True,
)
