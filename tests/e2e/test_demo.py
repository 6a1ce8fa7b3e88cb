"""The demo and `lab up` as a user runs them: real Envoy, real rules, real control plane. No absolute times."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.lab.demo import MESH
from agent.lab.janitor import NETNS
from agent.lab.steps import STEPS
from agent.lab.timeline import parse_log
from agent.lab.traffic import parse

pytestmark = [pytest.mark.root, pytest.mark.envoy, pytest.mark.timeout(240)]


def lab(*words: str, **environ: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-m", "agent", "lab", *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environ)


def namespaces(lab_id: str) -> list[str]:
    return [p.name for p in NETNS.iterdir() if p.name.startswith(f"rl{lab_id}-")]


def test_the_demo_holds_and_leaves_only_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "lab-report"
    with lab("demo", "--report", str(folder)) as running:
        output, errors = running.communicate(timeout=200)
    assert running.returncode == 0, output + errors
    assert errors == ""
    steps = re.findall(r"^(\d)/9 ok .*$", output, re.MULTILINE)
    assert steps == [str(n) for n in range(1, 10)]
    found = re.search(r"^lab (\w+):", output)
    assert found
    assert namespaces(found[1]) == []

    page = (folder / "index.html").read_text(encoding="utf-8")
    assert '<span class="verdict ">held</span>' in page
    for step in STEPS:
        assert page.count(step.title.replace("'", "&#x27;")) >= 1
    for lane in ("control plane", "CA", "a: agent", "b: Envoy", "b: application", "requests"):
        assert f">{lane}</text>" in page
    for fault in ("kill -9", "rules flushed", "SIGTERM"):
        assert f">{fault}</text>" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)

    logs = {p.name for p in folder.glob("*.log")}
    assert logs >= {"a-agent.log", "b-agent.log", "a-app.log", "b-app.log", "plane.log", "ca.log", "nameserver.log"}
    assert all(f'href="{name}"' in page for name in logs)
    requests = parse((folder / "a-traffic.log").read_text().splitlines())
    assert sum(r.ok for r in requests) > 100
    events = [line.event for line in parse_log((folder / "b-agent.log").read_text().splitlines())]
    for kind in ("issued", "crashed", "restarted", "renewal-failed", "rotated", "draining", "ended"):
        assert kind in events
    for name in ("a-agent.log", "b-agent.log"):
        assert "Traceback" not in (folder / name).read_text()


def test_an_envoy_that_does_not_start_fails_the_demo_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "lab-report"
    with lab("demo", "--report", str(folder), LAB_ENVOY="/bin/false") as running:
        output, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert errors == ""
    failed = [line for line in output.splitlines() if line.startswith("2/9 FAILED")]
    assert len(failed) == 1
    assert "ended with status" in failed[0]
    assert str(folder) in failed[0]
    assert "3/9" not in output
    assert '<span class="verdict bad">failed</span>' in (folder / "index.html").read_text(encoding="utf-8")
    found = re.search(r"^lab (\w+):", output)
    assert found
    assert namespaces(found[1]) == []


def test_ctrl_c_ends_the_demo_without_a_trace(tmp_path: Path) -> None:
    with lab("demo", "--report", str(tmp_path / "lab-report")) as running:
        assert running.stdout is not None
        found = re.match(r"lab (\w+):", running.stdout.readline())
        assert found
        assert running.stdout.readline().startswith("1/9 ok")
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors == "interrupted; the lab is gone\n"
    assert namespaces(found[1]) == []


def test_a_mesh_of_ones_own_runs_until_ctrl_c(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(MESH)
    with lab("up", "--mesh", str(mesh), "--logs", str(tmp_path / "logs")) as running:
        assert running.stdout is not None
        lines = []
        while "Ctrl-C" not in (line := running.stdout.readline()):
            assert line, running.communicate()[1]
            lines.append(line)
        found = re.match(r"lab (\w+):", lines[0])
        assert found
        enter = next(re.search(r"enter: (.*) sh$", line.strip()) for line in lines if line.startswith("  a: ready"))
        assert enter
        call = [*enter[1].split(), sys.executable, "-m", "agent.lab.traffic", "http://b/"]
        assert header(call) == "v1"
        mesh.write_text(MESH.replace("x-config: v1", "x-config: v2"))
        deadline = time.monotonic() + 30
        while header(call) != "v2":
            assert time.monotonic() < deadline, "the change never arrived"
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 0
    assert errors == "interrupted; the lab is gone\n"
    assert namespaces(found[1]) == []


def header(call: list[str]) -> str:
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    (request,) = parse(done.stdout.splitlines())
    assert request.ok, request
    return request.headers["x-config"]
