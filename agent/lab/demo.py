"""`remora-agent lab demo`: two workloads, nine steps, one report. Exit status 0 only if everything held."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from agent.errors import ConfigError, FatalError, RemoraError
from agent.lab import report
from agent.lab.console import Console
from agent.lab.observe import Unmet, Watcher, lanes
from agent.lab.options import Options, find_envoy
from agent.lab.scene import Run
from agent.lab.steps import STEPS, Step
from agent.lab.timeline import Phase, Timeline, loss
from agent.lab.traffic import Log
from agent.lab.world import Lab, interruptible

MESH = """\
# The mesh of the demo: A calls B. Copy it to make your own, see `remora-agent lab up --help`.
trust_domain: cluster.local
mtls: STRICT
services:
  - {name: a, namespace: demo, vip: 10.96.0.1, port: 80, target_port: 8080}
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {x-config: v1}}
workloads:
  - {name: a, namespace: demo, service_account: a, ip: 10.77.0.11, service: a}
  - {name: b, namespace: demo, service_account: b, ip: 10.77.0.12, service: b}
"""
# Short, so that a rotation falls into the demo; half of it is left when a renewal is first tried.
CERTIFICATE_TTL = "20s"


class Parser(argparse.ArgumentParser):
    """Bad arguments are one sentence and status 255, as everywhere in the agent."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="remora-agent lab demo",
        description="Run a mesh of two workloads through nine faults, say what was seen, write a report. Needs root.",
    )
    parser.add_argument(
        "--report", type=Path, default=Path("lab-report"), metavar="DIR", help="folder for logs and index.html"
    )
    parser.add_argument("--ttl", default=CERTIFICATE_TTL, help="life of a workload certificate (default %(default)s)")
    return parser


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        options = _parser().parse_args(list(argv))
        with interruptible():
            return _demo(options.report, options.ttl, environ)
    except RemoraError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the lab is gone", file=sys.stderr)
        return 130
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)


def _demo(folder: Path, ttl: str, environ: Mapping[str, str]) -> int:
    console = Console()
    began = time.time()
    timeline = Timeline(began, began)
    lab = Lab(Options(MESH, folder.resolve(), find_envoy(environ), ttl))
    with lab, Watcher(lab) as watcher:
        for lane in lanes(lab):
            timeline.lane(lane)
        console.line(f"lab {lab.id}: two pods with {lab.options.envoy.name}, logs in {folder}/", style="bold")
        state = Run(lab, lab.pods["a"], lab.pods["b"], "http://b.demo.svc.cluster.local/", timeline)
        for number, step in enumerate(STEPS, 1):
            phase = _step(number, step, state)
            timeline.phases.append(phase)
            console.phase(phase, len(STEPS))
            if not phase.ok:
                break
        timeline.end = time.time()
        watcher.fill(timeline, timeline.end)
    if state.stream is not None:
        timeline.requests = Log(state.a.log("traffic")).requests()
        state.figures["steady stream"] = str(loss(timeline.requests))
    page = report.write(folder, timeline, state.figures, len(STEPS))
    held = sum(phase.ok for phase in timeline.phases)
    console.line("")
    console.table(state.figures)
    ok = held == len(STEPS)
    console.line(
        f"{'held' if ok else 'FAILED'}: {held} of {len(STEPS)} steps in {time.time() - began:.0f} s; report: {page}",
        style="bold green" if ok else "bold red",
    )
    return 0 if ok else 1


def _step(number: int, step: Step, state: Run) -> Phase:
    """Run one step; whatever goes wrong in it becomes its sentence."""
    began = time.time()
    try:
        ok, seen = True, step.action(state)
    except Unmet as unmet:
        ok, seen = False, f"expected {unmet.expected}; seen: {unmet.seen}; logs in {state.lab.options.logs}"
    except FatalError as error:
        ok, seen = False, f"{error}; logs in {state.lab.options.logs}"
    return Phase(number, step.title, began, time.time(), ok, seen)
