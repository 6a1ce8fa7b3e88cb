"""The whole agent as a process: good days, and bad days with a sentence, an exit code and nothing left behind."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import alive, wait_for
from tests.fakes.sds_client import SdsClient, secrets

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # A unix socket's path has at most 107 characters.
    with World(tmp_path_factory.mktemp("a")) as made:
        yield made


def leftovers(world: World) -> list[str]:
    """Sockets, rendered files and Envoy processes that are still there."""
    files = [str(p) for p in world.folder.rglob("*") if p.is_socket() or p.name.startswith("envoy-rev")]
    return files + [f"process {pid}" for pid in world.envoy_starts() if alive(pid)]


def test_ready_then_a_graceful_end(world: World) -> None:
    world.start()
    world.wait_ready()
    wait_for(lambda: world.ca.calls, 10)
    assert world.ca.calls[0].metadata["authorization"] == "Bearer token-1"
    status, out, err = world.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    assert "POST /drain_listeners?inboundonly&graceful" in (world.folder / "requests.log").read_text()
    assert "token-1" not in out
    assert leftovers(world) == []


def test_not_ready_with_the_reason_until_envoy_has_its_configuration(world: World) -> None:
    (world.folder / "stats.txt").write_text("server.state: 2\n")
    world.start()
    status, reason = wait_for(lambda: (r := world.http(15020, "/healthz/ready"))[0] and r, 20)
    assert status == 503
    assert reason


def test_quitquitquit_ends_with_zero(world: World) -> None:
    world.start()
    world.wait_ready()
    assert world.http(15020, "/quitquitquit", "POST")[0] == 200
    assert world.end()[0] == 0
    assert leftovers(world) == []


def test_a_crashed_envoy_is_restarted_in_place(world: World) -> None:
    process = world.start()
    world.wait_ready()
    world.kill_envoy()
    wait_for(lambda: len(world.envoy_starts()) == 2, 20)
    world.wait_ready()
    assert process.poll() is None
    status, out, _ = world.end(signal.SIGTERM)
    assert status == 0
    assert "SIGKILL" in out


def test_an_envoy_that_keeps_crashing_is_given_up(world: World) -> None:
    world.proxy_config["binaryPath"] = str(world.script("broken", f"echo started >> {world.folder}/count; exit 7"))
    world.start(ENVOY_RESTARTS="2")
    status, _, err = world.end()
    assert status == 1
    assert "7" in err
    assert (world.folder / "count").read_text().count("started") == 3
    assert_one_sentence(err)
    assert leftovers(world) == []


def test_an_envoy_that_always_ends_after_a_while_is_given_up_too(world: World) -> None:
    world.proxy_config["binaryPath"] = str(world.script("broken", f"echo started >> {world.folder}/count; sleep 1"))
    world.start(ENVOY_RESTARTS="0")
    status, _, _ = world.end()
    assert status == 0  # it ended with 0: somebody asked it to
    world.proxy_config["binaryPath"] = str(
        world.script("broken", f"echo started >> {world.folder}/count; sleep 1; kill -ABRT $$")
    )
    world.start(ENVOY_RESTARTS="1")
    status, _, err = world.end()
    assert status == 1
    assert "SIGABRT; that was crash number 2" in err
    assert_one_sentence(err)
    assert leftovers(world) == []


def test_an_envoy_that_ignores_sigterm_ends_all_the_same(world: World) -> None:
    world.proxy_config["binaryPath"] = str(world.script("deaf", f"trap '' TERM INT; exec {world.envoy} \"$@\""))
    world.start()
    world.wait_ready()
    assert world.end(signal.SIGTERM)[0] == 0
    assert leftovers(world) == []


def test_names_readiness_and_secrets_work_to_the_end_of_a_drain(world: World) -> None:
    def ask() -> bytes:
        """A query for a name that nobody knows, to the agent's DNS server; its answer begins with our id."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x01x\x00\x00\x01\x00\x01", ("127.0.0.1", 15053))
            return client.recv(512)

    world.proxy_config["terminationDrainDuration"] = "2s"
    process = world.start(ISTIO_META_DNS_CAPTURE="true")
    wait_for(world.envoy_starts, 20)
    wait_for(lambda: world.http(15020, "/healthz/ready")[0], 20)
    sockets = [p for p in world.folder.rglob("*") if p.is_socket()]
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: "drain_listeners" in (world.folder / "requests.log").read_text(), 10)
    for _ in range(10):
        assert world.http(15020, "/healthz/ready") == (503, "server is terminated: SIGTERM\n")
        assert world.network.call(ask)[:2] == b"\x12\x34"
        assert all(p.is_socket() for p in sockets)
    assert process.poll() is None
    assert world.end()[0] == 0


def test_killing_the_agent_takes_envoy_along(world: World) -> None:
    world.start()
    world.wait_ready()
    (pid,) = world.envoy_starts()
    world.end(signal.SIGKILL)
    wait_for(lambda: not alive(pid), 10)


def assert_one_sentence(err: str) -> None:
    assert "Traceback" not in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1, err


def bad_role(world: World) -> None:
    world.start("gateway")


def bad_proxy_config(world: World) -> None:
    world.start(PROXY_CONFIG="{discoveryAddress: [")


def no_port(world: World) -> None:
    world.proxy_config["discoveryAddress"] = "istiod.istio-system.svc"
    world.start()


def no_root(world: World) -> None:
    world.root_file.unlink()
    world.start()


def port_taken(world: World) -> None:
    world.keep(world.network.call(lambda: socket.create_server(("0.0.0.0", 15020))))
    world.start()


def no_envoy(world: World) -> None:
    world.proxy_config["binaryPath"] = str(world.folder / "nosuch")
    world.start()


def envoy_is_text(world: World) -> None:
    text = world.folder / "text"
    text.write_bytes(b"\0not a program")
    text.chmod(0o755)
    world.proxy_config["binaryPath"] = str(text)
    world.start()


def envoy_is_not_executable(world: World) -> None:
    world.envoy.chmod(0o644)
    world.start()


def dns_port_taken(world: World) -> None:
    world.keep(world.network.call(lambda: socket.create_server(("127.0.0.1", 15053))))
    world.start(ISTIO_META_DNS_CAPTURE="true")


def a_directory_is_where_a_socket_goes(world: World) -> None:
    (world.folder / "etc/istio/proxy/XDS").mkdir()
    world.start()


def config_directory_is_a_file(world: World) -> None:
    (world.folder / "taken").write_text("")
    world.proxy_config["configPath"] = "./taken"
    world.start()


@pytest.mark.parametrize(
    ("cause", "status", "words"),
    [
        (bad_role, 255, "gateway"),
        (bad_proxy_config, 255, "PROXY_CONFIG"),
        (no_port, 255, "discoveryAddress"),
        (no_root, 255, "root-cert.pem"),
        (port_taken, 1, "15020"),
        (no_envoy, 1, "nosuch"),
        (envoy_is_text, 1, "text"),
        (envoy_is_not_executable, 1, "not an executable file"),
        (dns_port_taken, 1, "15053"),
        (a_directory_is_where_a_socket_goes, 1, "XDS"),
        (config_directory_is_a_file, 1, "taken"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_an_exit_code(
    world: World, cause: Callable[[World], None], status: int, words: str
) -> None:
    cause(world)
    ended, _, err = world.end()
    assert_one_sentence(err)
    assert words in err
    assert ended == status
    assert leftovers(world) == []


def test_an_unreadable_token_is_said_and_survived(world: World) -> None:
    world.token.unlink()
    world.ca.ttl = 3.0  # so that the next request, which reads the file again, comes soon
    world.start()
    world.wait_ready()
    wait_for(lambda: world.ca.calls, 20)
    world.token.write_text("late-token")
    wait_for(lambda: any(c.metadata.get("authorization") == "Bearer late-token" for c in world.ca.calls), 20)
    _, out, _ = world.end(signal.SIGTERM)
    assert "istio-token" in out


def test_a_control_plane_with_another_name_gets_neither_token_nor_csr(tmp_path: Path) -> None:
    with World(tmp_path, names=("somebody.else",)) as world:
        process = world.start()
        world.wait_ready()
        assert process.stdout is not None
        sentence = next(line for line in process.stdout if "shows a certificate" in line)
        assert f"localhost:{world.ca.port} shows a certificate that is not for istiod.istio-system.svc" in sentence
        assert world.ca.calls == []
        assert world.end(signal.SIGTERM)[0] == 0


def command(world: World, *words: str) -> tuple[int, str]:
    """One of the agent's commands, in the agent's network."""
    full = [sys.executable, "-m", "agent", *words]
    done = world.network.call(lambda: subprocess.run(full, capture_output=True, text=True, timeout=30, check=False))
    return done.returncode, done.stdout + done.stderr


def test_certs_and_events_of_a_running_agent(world: World) -> None:
    world.start(ECC_SIGNATURE_ALGORITHM="ECDSA")
    world.wait_ready()
    wait_for(lambda: command(world, "certs")[0] == 0, 20)
    _, text = command(world, "certs")
    assert "spiffe://cluster.local/ns/demo/sa/app" in text
    assert "accepted the token" in text
    status, text = command(world, "certs", "--json")
    (row,) = json.loads(text)
    assert (status, row["valid"], row["renewals"]) == (0, True, 0)
    status, text = command(world, "events")
    assert status == 0
    assert "received the first certificate" in text
    page = world.http(15020, "/metrics")[1]
    assert 'istio_agent_num_outgoing_requests{request_type="csr"} 1\n' in page
    assert 'istio_agent_ca_credential{credential="token"} 1\n' in page
    assert "token-1" not in page + text


def test_sigusr1_writes_the_flight_recorder_and_changes_nothing_else(world: World) -> None:
    process = world.start()
    world.wait_ready()
    process.send_signal(signal.SIGUSR1)
    assert process.poll() is None
    world.wait_ready()
    status, out, _ = world.end(signal.SIGTERM)
    assert status == 0
    dumped = out.partition("\tinfo\tflight recorder, written because of SIGUSR1: ")[2].splitlines()[1:]
    assert any("\tevent=started\tat=20" in line for line in dumped)


def test_the_flight_recorder_goes_where_the_log_goes_in_its_format(world: World) -> None:
    target = world.folder / "agent.log"
    process = world.start("--log_as_json", f"--log_target={target}")
    world.wait_ready()
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "written because of SIGUSR1" in target.read_text())
    status, out, _ = world.end(signal.SIGTERM)
    assert status == 0
    assert "flight recorder" not in out
    entries = [json.loads(line) for line in target.read_text().splitlines()]
    assert any(entry.get("at") and entry["event"] == "started" for entry in entries)


def test_a_fatal_end_writes_it_too(world: World) -> None:
    world.proxy_config["binaryPath"] = str(world.script("broken", "exit 7"))
    world.start(ENVOY_RESTARTS="0")
    status, out, err = world.end()
    assert status == 1
    assert_one_sentence(err)
    lines = out.partition("flight recorder, written because of a fatal error: ")[2].splitlines()
    assert any("\tcomponent=envoy\t" in line for line in lines)


def test_mounted_certificates_are_copied_and_followed(world: World) -> None:
    mounted, out = world.folder / "etc/certs", world.folder / "out"
    mounted.mkdir(parents=True)
    names = ("key.pem", "cert-chain.pem", "root-cert.pem")

    def mount() -> list[bytes]:
        contents = [*world.root.workload("spiffe://mounted/x"), world.root.pem]
        for name, content in zip(names, contents, strict=True):
            (mounted / name).write_bytes(content)
        return contents

    contents = mount()
    world.start(OUTPUT_CERTS=str(out))
    wait_for(lambda: out.exists() and [(out / n).read_bytes() for n in names if (out / n).exists()] == contents, 20)
    contents = mount()
    wait_for(lambda: [(out / n).read_bytes() for n in names] == contents, 20)
    assert {(out / n).stat().st_mode & 0o777 for n in names} == {0o600}
    assert world.ca.calls == []


def test_memory_that_cannot_be_hidden_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    class Refused(World):
        def wrap(self, command: list[str]) -> list[str]:
            return [sys.executable, str(Path(__file__).parent.parent / "fakes/refusing.py"), *command]

    with Refused(tmp_path_factory.mktemp("a")) as world:
        world.start()
        world.wait_ready()
        status, out, _ = world.end(signal.SIGTERM)
    assert (status, out.count("memory cannot be hidden")) == (0, 1)


@pytest.mark.parametrize("flags", [(), ("--log_output_level=all:debug",)], ids=["", "debug"])
def test_nobody_sees_a_key_or_a_token(world: World, flags: tuple[str, ...]) -> None:
    process = world.start("sidecar", *flags, OUTPUT_CERTS=str(world.folder / "out"), CA_HEADER_SECRET="header-secret")
    world.wait_ready()
    wait_for(lambda: command(world, "certs")[0] == 0, 20)
    key = (world.folder / "out/key.pem").read_text()

    async def ask() -> None:
        async with SdsClient(str(next(world.folder.rglob("workload-spiffe-uds/socket")))) as client:
            response = (await client.ask("default"), await client.receive())[1]
            assert secrets(response)["default"].tls_certificate.private_key.inline_bytes.decode() == key
            await client.ask("default", nonce=response.nonce, error="refused")

    asyncio.run(ask())
    proc = Path(f"/proc/{process.pid}")
    assert "token-1" not in proc.joinpath("cmdline").read_text() + proc.joinpath("environ").read_text()
    process.send_signal(signal.SIGUSR1)
    _, out, err = world.end(signal.SIGTERM)
    shown = out + err
    assert "token-1" not in shown
    assert "cannot be hidden" not in shown
    assert "header-secret" not in shown
    assert "PRIVATE KEY" not in shown
    assert not [line for line in key.splitlines()[1:-1] if line in shown]
    assert bool(flags) == ("\tdebug\t" in shown)
    readable = [p for p in world.folder.rglob("*") if p.is_file() and p.stat().st_mode & 0o077 and p.suffix != ".log"]
    assert not [p for p in readable if b"PRIVATE KEY" in p.read_bytes()]
