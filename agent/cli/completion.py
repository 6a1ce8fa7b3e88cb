"""`completion bash|zsh|fish`: a script for the shell, made from the same tables that parse the command line."""

from collections.abc import Mapping, Sequence
from importlib import import_module

from agent.cli.flags import FlagSet
from agent.errors import ConfigError

FLAGS = FlagSet(
    "remora-agent completion bash|zsh|fish",
    (),
    about="Print a completion script. For bash: source <(remora-agent completion bash)",
)
WORDS = {
    "proxy": "sidecar router waypoint",
    "request": "GET POST",
    "config": "show check",
    "completion": "bash zsh fish",
    "lab": "demo up plane ca init",
}
PROGRAMS = ("remora-agent", "pilot-agent")

BASH = """_remora_agent() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" command="" words="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in -*) ;; *) command="${{COMP_WORDS[i]}}"; break ;; esac
    done
    case "$command" in
        "") words="{commands}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _remora_agent {programs}
"""


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0; ConfigError (255) for a shell that is not known."""
    args = FLAGS.parse(argv)
    shell = args.words[0] if len(args.words) == 1 else ""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in makers:
        raise ConfigError(f"completion needs a shell: {', '.join(makers)}")
    print(makers[shell](), end="")
    return 0


def _commands() -> dict[str, tuple[str, list[str]]]:
    """Command → (what it is for, its words and flags)."""
    from agent.__main__ import COMMANDS

    out = {}
    for name, (module, about) in COMMANDS.items():
        loaded = import_module(module)
        flags = getattr(loaded, "FLAGS", None)
        own = [f"--{f.name}" for f in flags.flags] if isinstance(flags, FlagSet) else []
        out[name] = (about, [*WORDS.get(name, "").split(), *own, "--help"])
    out["help"] = ("help for a command", sorted(COMMANDS))
    return out


def _bash() -> str:
    commands = _commands()
    cases = "\n".join(f'        {name}) words="{" ".join(words)}" ;;' for name, (_, words) in commands.items())
    return BASH.format(commands=" ".join(commands), cases=cases, programs=" ".join(PROGRAMS))


def _zsh() -> str:
    # zsh reads bash's completions; a second grammar for the same tables would only drift from the first.
    return f"#compdef {' '.join(PROGRAMS)}\nautoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = []
    for program in PROGRAMS:
        lines.append(f"complete -c {program} -f")
        for name, (about, words) in _commands().items():
            lines.append(f"complete -c {program} -n __fish_use_subcommand -a {name} -d {_quoted(about)}")
            seen = f"'__fish_seen_subcommand_from {name}'"
            for word in words:
                option = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
                lines.append(f"complete -c {program} -n {seen} {option}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
