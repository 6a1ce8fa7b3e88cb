"""`remora-agent COMMAND ...`, also installed as `pilot-agent`: picks the command and imports what that one needs."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

# Command → (module with `run(argv, environ) -> exit status`, what it is for). Modules are imported when asked for:
# the kubelet execs `request` and `wait`, and an import of gRPC there would be most of their run time.
COMMANDS = {
    "proxy": ("agent.cli.proxy", "run the agent and Envoy: proxy [sidecar|router|waypoint] [flags]"),
    "request": ("agent.cli.request", "call Envoy's or the agent's admin port: request METHOD PATH [BODY]"),
    "wait": ("agent.cli.wait", "wait until the proxy is ready"),
    "exec": ("agent.cli.exec", "run a job's command once the proxy is ready, end the agent after it: exec -- CMD"),
    "quit": ("agent.cli.quit", "end the agent of this pod at once, without draining"),
    "drain": ("agent.cli.drain", "let the Envoy of this pod drain its listeners"),
    "certs": ("agent.cli.certs", "show the certificates of the running agent and when they are renewed"),
    "events": ("agent.cli.events", "show what the running agent remembers of its last state changes"),
    "config": ("agent.cli.config", "show every setting and its source, or check them without starting: show | check"),
    "log": ("agent.cli.log", "change the running agent's log level for a while: log LEVEL|SCOPE:LEVEL [--for 5m]"),
    "xds": ("agent.cli.xds", "what the running agent got from its control plane, and what Envoy made of it"),
    "version": ("agent.cli.version", "print the version"),
    "completion": ("agent.cli.completion", "print a completion script for bash, zsh or fish"),
    "istio-iptables": ("agent.cli.rules", "write, verify or remove the redirect rules (see remora-init --help)"),
    "lab": ("agent.lab.cli", "a mesh on one machine: demo, up, plane, ca (see lab --help)"),
}


def usage(program: str) -> str:
    rows = "\n".join(f"  {name:16}{what}" for name, (_, what) in COMMANDS.items())
    return (
        f"{program}: the sidecar agent of an Envoy service mesh\n\n"
        f"Usage:\n  {program} COMMAND [flags]\n\nCommands:\n{rows}\n\n"
        f"Use `{program} COMMAND --help` for the flags of a command.\n"
    )


def split_command(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command and its arguments. Flags ahead of the command belong to it; unknown ones are its to judge."""
    from agent.cli.flags import LOG_FLAGS

    valued = {f"--{flag.name}" for flag in LOG_FLAGS if flag.kind != "bool"}
    skip = False
    for i, word in enumerate(argv):
        if skip or (word.startswith("-") and word != "-"):
            skip = not skip and word in valued
        elif word in COMMANDS or word == "help":
            return word, [*argv[:i], *argv[i + 1 :]]
        else:
            return word, []
    if "--version" in argv:
        return "version", []
    return ("help", []) if not argv or {"-h", "--help"} & set(argv) else (argv[0], [])


def dispatch(program: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command; its RemoraError becomes one sentence on stderr and its exit status."""
    command, rest = split_command(argv)
    if command == "help" and rest and rest[0] in COMMANDS:
        command, rest = rest[0], ["--help"]
    elif command == "help":
        print(usage(program), end="")
        return 0
    if command not in COMMANDS:
        print(f'Error: unknown command "{command}" for "{program}" (try `{program} help`)', file=sys.stderr)
        return 255
    from agent.cli.flags import HelpWanted
    from agent.errors import RemoraError

    try:
        status = import_module(COMMANDS[command][0]).run(rest, environ)
    except RemoraError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except HelpWanted as text:
        print(str(text).rstrip())
        return 0
    except KeyboardInterrupt:
        return 130
    assert isinstance(status, int)
    return status


def main() -> int:
    try:
        program = os.path.basename(sys.argv[0])
        status = dispatch("remora-agent" if program == "__main__.py" else program, sys.argv[1:], os.environ.copy())
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone; do not let the interpreter complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
