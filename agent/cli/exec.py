"""`exec -- CMD`: runs a job's command once the proxy is ready, and ends the proxy when the command has ended."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from agent.cli import control
from agent.cli.flags import Flag, FlagSet
from agent.cli.http import HttpError, fetch
from agent.durations import go_duration
from agent.errors import ConfigError, FatalError

PERIOD = 0.05  # seconds between two questions
QUESTION = 5.0  # seconds for one answer: a status port that is bound early answers as soon as its agent is up
ABSENCE = 3.0  # seconds without anybody on the port until --if-present takes it that there is no proxy
FAREWELL = 10.0  # seconds for the order to end
QUIT_WHEN = ("ran", "success", "always", "never")

FLAGS = FlagSet(
    "remora-agent exec [flags] -- CMD [ARG...]",
    (
        Flag("timeout", "60s", "how long the proxy may take to get ready (60s, 2m)"),
        Flag("quit-when", "ran", "when to end the agent: ran (CMD was tried), success (it exited 0), always or never"),
        Flag("if-present", False, f"run CMD all the same when nobody is on the status port for {ABSENCE:g} seconds"),
        control.PORT,
    ),
    about="Wait until the proxy is ready, run CMD, end the agent, exit with CMD's status (128+N for signal N).\n"
    "Exits 1 if the proxy does not get ready: CMD is not run and the agent stays, so that a restart of this container\n"
    "(restartPolicy OnFailure) finds it. With OnFailure, use --quit-when=success: CMD's next try needs the proxy too.\n"
    "With restartPolicy Never, --quit-when=always lets the pod end even if CMD was never run. A native sidecar is\n"
    "ended by its kubelet: --quit-when=never.",
)

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
FROM_THE_KERNEL = 0x80  # si_code SI_KERNEL: a terminal has sent it to the whole foreground group, CMD included


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """CMD's status; 126 or 127 if it cannot be run, as shells have it. FatalError (1): the proxy did not get ready."""
    own, command = _split(argv)
    args = FLAGS.parse(own)
    if args.words or not command:
        raise ConfigError("exec needs two dashes and a command: remora-agent exec [flags] -- CMD [ARG...]")
    try:
        timeout = go_duration(args["timeout"])
    except ValueError as e:
        raise ConfigError(f"--timeout: {e}") from None
    if args["quit-when"] not in QUIT_WHEN:
        raise ConfigError(f"--quit-when {args['quit-when']!r} is not usable: write {', '.join(QUIT_WHEN)}")
    port = control.port_of(args, environ)
    control.url(port, "/")  # refuses what is no port while nothing has been changed
    # From here on signals wait until they are asked for, so that none is lost between two steps.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever ignored it would have the kernel swallow CMD's status
    signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    wait = _wait(port, timeout, args["if-present"])
    ran = not (wait.caught or wait.unready)
    status = _run(command, environ) if ran else 128 + wait.caught if wait.caught else FatalError.exit_code
    quits = wait.present and {"always": True, "ran": ran, "success": status == 0, "never": False}[args["quit-when"]]
    if quits:
        _quit(port)
    if wait.unready:
        left = ", the agent ends" if quits else ", the agent is left alone" if wait.present else ""
        raise FatalError(
            f"the proxy was not ready within {timeout:g} seconds: {wait.unready}; the command was not run{left}"
        )
    return status


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our flags, and what stands behind the first `--`."""
    words = [*argv, "--"]
    at = words.index("--")
    return words[:at], words[at + 1 : -1]


class _Wait:
    """How it ended: an agent has answered at all, the signal that came, why there was nobody ready at the end."""

    def __init__(self, present: bool, caught: int = 0, unready: str = "") -> None:
        self.present, self.caught, self.unready = present, caught, unready


def _wait(port: int, timeout: float, if_present: bool) -> _Wait:
    """Until CMD may run, a signal comes, or the time is up."""
    target = control.url(port, "/healthz/ready")
    began = time.monotonic()
    present, last = False, "nothing was asked yet"
    while (left := began + timeout - time.monotonic()) > 0:
        try:
            status, body = fetch("GET", target, b"", min(left, QUESTION))
        except HttpError as e:
            last = str(e)
        else:
            present = True
            if status == 200:
                return _Wait(True)
            last = body.decode("utf-8", "replace").strip() or f"it answers with status {status}"
        if if_present and not present and time.monotonic() - began >= min(ABSENCE, timeout):
            break
        if caught := signal.sigtimedwait(ENDING, PERIOD):
            return _Wait(present, caught.si_signo)
    if if_present and not present:
        print(f"No proxy answers on port {port} ({last}); the command runs without it.", file=sys.stderr)
        return _Wait(False)
    return _Wait(present, unready=last)


def _run(command: list[str], environ: Mapping[str, str]) -> int:
    """Run it to its end, pass signals on to it, collect orphans if this is a container's first process."""
    try:
        pid = os.posix_spawnp(command[0], command, environ, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
    except OSError as e:
        print(f"Error: {command[0]} cannot be run: {e.strerror}", file=sys.stderr)
        return 127 if isinstance(e, FileNotFoundError) else 126
    while True:
        caught = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if caught.si_signo != signal.SIGCHLD:
            if caught.si_code != FROM_THE_KERNEL:
                os.kill(pid, caught.si_signo)
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == 0:
                break
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _quit(port: int) -> None:
    """End the agent. That it has ended already is worth a line, but not CMD's status."""
    try:
        control.post(port, "/quitquitquit", FAREWELL)
    except FatalError as e:
        print(f"Warning: {e}", file=sys.stderr)
