"""The rules behind the tree: who may import whom, what a core may do, where a test is, how long a file may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("_pb2.py",)
FEATURES = ("identity", "sds", "xds", "envoy", "dns", "status", "repair", "health")
# What every feature may use; it imports no feature.
SHARED = {
    "agent.backoff",
    "agent.certinfo",
    "agent.config",
    "agent.deferred",
    "agent.durations",
    "agent.errors",
    "agent.events",
    "agent.httpproxy",
    "agent.latest",
    "agent.lograte",
    "agent.logs",
    "agent.lookup",
    "agent.model",
    "agent.peer",
    "agent.pem",
    "agent.protos",
    "agent.roots",
    "agent.rpc",
    "agent.settings.proxyconfig",
    "agent.settings.protojson",
    "agent.settings.proxyschema",
    "agent.record",
    "agent.text",
    "agent.uds",
    "agent.version",
}
# Where the parts are put together.
ROOTS = {"agent.__main__", "agent.app", "agent.boot", "agent.cli"}

# Cores: arithmetic only.
CORES = {
    "agent/backoff.py",
    "agent/certinfo.py",
    "agent/settings/meshconfig.py",
    "agent/settings/protojson.py",
    "agent/settings/status.py",
    "agent/dns/answer.py",
    "agent/dns/cache.py",
    "agent/dns/message.py",
    "agent/dns/resolv.py",
    "agent/dns/stats.py",
    "agent/dns/table.py",
    "agent/envoy/args.py",
    "agent/envoy/bootstrap.py",
    "agent/envoy/bootstrap_clusters.py",
    "agent/envoy/bootstrap_listeners.py",
    "agent/envoy/bootstrap_stats.py",
    "agent/envoy/lifecycle.py",
    "agent/envoy/metadata.py",
    "agent/envoy/proxyless.py",
    "agent/envoy/stats.py",
    "agent/errors.py",
    "agent/health/decision.py",
    "agent/httpproxy.py",
    "agent/identity/certs.py",
    "agent/identity/credentials.py",
    "agent/identity/report.py",
    "agent/identity/rotation.py",
    "agent/identity/trust.py",
    "agent/lab/authority.py",
    "agent/lab/clusters.py",
    "agent/lab/envelope.py",
    "agent/lab/fields.py",
    "agent/lab/listeners.py",
    "agent/lab/mesh.py",
    "agent/lab/names.py",
    "agent/lab/resources.py",
    "agent/lab/session.py",
    "agent/lab/session_delta.py",
    "agent/lab/session_state.py",
    "agent/lab/tokens.py",
    "agent/lab/transport.py",
    "agent/lograte.py",
    "agent/model.py",
    "agent/pem.py",
    "agent/repair/decision.py",
    "agent/roots.py",
    "agent/rpc/blocks.py",
    "agent/rpc/connection.py",
    "agent/rpc/frames.py",
    "agent/rpc/inbox.py",
    "agent/rpc/sending.py",
    "agent/rpc/status.py",
    "agent/rpc/stream.py",
    "agent/sds/ledger.py",
    "agent/sds/resources.py",
    "agent/sds/session.py",
    "agent/status/metrics.py",
    "agent/status/ready.py",
    "agent/text.py",
    "agent/xds/cache.py",
    "agent/xds/replay.py",
    "agent/xds/endpoints.py",
    "agent/xds/ledger.py",
    "agent/xds/report.py",
    "agent/xds/session.py",
    "agent/xds/slices.py",
    "agent/xds/tracker.py",
    "agent/xds/srv.py",
    "agent/xds/wire.py",
    "init/change.py",
    "init/diff.py",
    "init/explain.py",
    "init/nftrules.py",
    "init/nftwords.py",
    "init/plan.py",
    "init/rules.py",
    "init/record.py",
    "init/settings.py",
    "init/trouble.py",
}
IMPURE = {
    "asyncio",
    "socket",
    "subprocess",
    "os",
    "time",
    "random",
    "logging",
    "grpc",
    "threading",
    "secrets",
    "tempfile",
}

# Shells whose whole behaviour is sockets, kernels or processes: their tests are under component/, netns/ or e2e/.
TESTED_ELSEWHERE = {
    "init/ask.py": "tests/netns/test_explain.py",
    "agent/app.py": "tests/netns/test_agent.py",
    "agent/boot.py": "tests/netns/test_agent.py",
    "agent/cli/drain.py": "tests/agent/cli/test_control.py",
    "agent/cli/proxy.py": "tests/netns/test_agent.py",
    "agent/cli/quit.py": "tests/agent/cli/test_control.py",
    "agent/cli/rules.py": "tests/netns/test_rules.py",
    "agent/lab/ads.py": "tests/component/test_plane.py",
    "agent/lab/plane.py": "tests/component/test_plane.py",
    "agent/lab/ca.py": "tests/component/test_plane_ca.py",
    "agent/lab/serving.py": "tests/component/test_plane_ca.py",
    "agent/envoy/supervisor.py": "tests/component/test_supervisor.py",
    "agent/pages.py": "tests/netns/test_agent.py",
    "agent/identity/client.py": "tests/component/test_identity_client.py",
    "agent/identity/manager.py": "tests/component/test_identity.py",
    "agent/rpc/call.py": "tests/component/test_rpc.py",
    "agent/rpc/client.py": "tests/component/test_rpc.py",
    "agent/rpc/dial.py": "tests/component/test_rpc_dial.py",
    "agent/rpc/server.py": "tests/component/test_rpc.py",
    "agent/rpc/transport.py": "tests/component/test_rpc_transport.py",
    "agent/sds/server.py": "tests/component/test_sds.py",
    "agent/sds/stream.py": "tests/component/test_sds.py",
    "agent/repair/probe.py": "tests/netns/test_guard.py",
    "agent/repair/watch.py": "tests/netns/test_guard.py",
    "agent/xds/upstream.py": "tests/component/test_xds_tls.py",
    "agent/status/http.py": "tests/component/test_status.py",
    "agent/status/server.py": "tests/component/test_status.py",
}


def sources() -> list[Path]:
    files = [p for folder in ("agent", "init") for p in (ROOT / folder).rglob("*.py")]
    return sorted(p for p in files if not p.name.endswith(GENERATED) and p.stat().st_size)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Absolute names of every import, also those inside functions; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.fixture(params=sources(), ids=name_of)
def source(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_imports_point_the_right_way(source: Path) -> None:
    module, names = module_of(source), set(imports(source))
    ours = {n for n in names if within(n, "agent") or within(n, "init")}
    if within(module, "init"):
        foreign = {n for n in names if n.partition(".")[0] not in sys.stdlib_module_names and not within(n, "init")}
        assert foreign <= ({"iptc"} if module == "init.legacy" else set()), f"init imports {foreign}"
        return
    feature = next((f for f in FEATURES if within(module, f"agent.{f}")), None)
    if feature:
        allowed = {f"agent.{feature}", *SHARED, *({"init"} if feature == "repair" else ())}
        wrong = {n for n in ours if n != "agent" and not any(within(n, a) for a in allowed)}
        assert not wrong, f"the feature {feature} imports {wrong}"
    elif any(within(module, s) for s in SHARED):
        wrong = {n for n in ours if n != "agent" and not any(within(n, s) for s in SHARED)}
        assert not wrong, f"a shared noun imports {wrong}"
    if not any(within(module, r) for r in (*ROOTS, "agent.lab", "agent.repair")):
        assert not any(within(n, "init") for n in ours)


def test_heavy_types_stay_in_the_lab(source: Path) -> None:
    if not within(module_of(source), "agent.lab"):
        assert not any(within(n, "envoy_data_plane") for n in imports(source))


def test_the_environment_is_read_in_main_only(source: Path) -> None:
    if source.name == "__main__.py":
        return
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv", "environb"), f"line {node.lineno} reads the environment"


def test_every_core_exists() -> None:
    assert {c for c in CORES if not (ROOT / c).is_file()} == set()


def test_cores_are_pure(source: Path) -> None:
    if name_of(source) not in CORES:
        return
    wrong = {n for n in imports(source) if n.partition(".")[0] in IMPURE or n == "agent.logs"}
    assert not wrong, f"a core imports {wrong}"
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(source.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def test_every_task_belongs_to_a_group(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
            owner = ast.unparse(node.value)
            assert owner not in ("asyncio", "loop", "asyncio.get_running_loop()"), (
                f"line {node.lineno}: a task without a group"
            )


def test_no_error_is_swallowed_in_silence(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(s, ast.Pass | ast.Continue) for s in node.body)
            assert not (broad and silent), f"line {node.lineno} swallows everything"


def test_files_stay_short(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= 400


def test_nothing_on_the_way_to_readiness_imports_cryptography() -> None:
    """Its x509 takes 23 ms; only the certificate's own path, which runs beside Envoy's, may wait for it."""
    modules = [
        "xds.proxy",
        "sds.server",
        "envoy.readiness",
        "envoy.supervisor",
        "status.server",
        "exposition",
        "certmetrics",
    ]
    heavy = "('cryptography', 'uuid', 'http.client', 'yaml')"
    code = f"import sys, {', '.join(f'agent.{m}' for m in modules)}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_source_has_its_test(source: Path) -> None:
    if source.name in ("__init__.py",):
        return
    name = name_of(source)
    test = TESTED_ELSEWHERE.get(name) or f"tests/{name.removesuffix(source.name)}test_{source.stem.strip('_')}.py"
    assert (ROOT / test).is_file(), f"{name} has no {test}"


def test_every_unit_test_has_its_source() -> None:
    orphans = []
    for test in [*ROOT.glob("tests/agent/**/test_*.py"), *ROOT.glob("tests/init/**/test_*.py")]:
        folder, stem = test.parent.relative_to(ROOT / "tests"), test.stem.removeprefix("test_")
        candidates = [ROOT / folder / f"{stem}.py", ROOT / folder / f"__{stem}__.py"]
        if not any(c.is_file() for c in candidates):
            orphans.append(str(test.relative_to(ROOT)))
    assert orphans == []


def test_the_top_level_holds_what_the_design_says() -> None:
    tracked = {
        "pyproject.toml",
        "agent",
        "init",
        "tests",
        "images",
        "README.md",
        "Makefile",
        "LICENSE",
        ".ci",
        ".gitignore",
        ".git",
    }
    made = {
        ".venv",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        "lab-report",
        "build",
        "dist",
        "__pycache__",
    }
    assert {p.name for p in ROOT.iterdir()} <= tracked | made
