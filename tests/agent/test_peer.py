import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import peer
from agent.config import PeerConfig
from agent.errors import AttemptError
from agent.rpc.status import Code, RpcError
from tests.fakes.ca import Root, key_pem, new_key, strange_version

NAME = "istiod.istio-system.svc"
ECHO = "/test.Echo/Call"


def config(tmp: Path, **changes: Any) -> PeerConfig:
    values: dict[str, Any] = {
        "addresses": (),
        "plaintext": False,
        "root_file": str(tmp / "root.pem"),
        "server_name": NAME,
        "token_file": str(tmp / "token"),
        **changes,
    }
    return PeerConfig(**values)


@asynccontextmanager
async def echo_server(root: Root, *names: str, client_root: Root | None = None, tls: bool = True) -> AsyncIterator[str]:
    """Answers with the client's SPIFFE URI; yields its port."""

    async def call(_: bytes, context: Any) -> bytes:
        return b",".join(context.auth_context().get("x509_subject_alternative_name", []))

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(call)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    if tls:
        trust = client_root.pem if client_root else None
        credentials = grpc.ssl_server_credentials([root.server(*names)], trust, client_root is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield str(port)
    finally:
        await server.stop(None)


async def ask(config: PeerConfig, address: str, pair: tuple[bytes, bytes] | None = None) -> bytes:
    async with await peer.open_link(config, address, pair or peer.read_client_pair(config)) as link:
        return await link.unary(ECHO, b"", timeout=10)


@pytest.mark.parametrize(
    ("host", "names", "server_name"),
    [
        ("localhost", (NAME,), NAME),
        ("localhost", ("localhost",), "localhost"),
        ("127.0.0.1", ("127.0.0.1",), "127.0.0.1"),
    ],
    ids=["other name", "host", "ip"],
)
def test_the_server_is_verified_under_the_expected_name(
    tmp_path: Path, host: str, names: tuple[str, ...], server_name: str
) -> None:
    async def main() -> None:
        root = Root()
        (tmp_path / "root.pem").write_bytes(Root("unrelated").pem + b"a comment\n" + root.pem)
        async with echo_server(root, *names) as port:
            assert await ask(config(tmp_path, server_name=server_name), f"{host}:{port}") == b""

    asyncio.run(main())


def test_failures_are_explained(tmp_path: Path) -> None:
    async def failure(c: PeerConfig, address: str) -> str:
        with pytest.raises(RpcError) as e:
            await ask(c, address)
        assert (e.value.code, e.value.heard) == (Code.UNAVAILABLE, False)
        return peer.explain(c, address, e.value)

    async def main() -> None:
        root = Root()
        (tmp_path / "root.pem").write_bytes(root.pem)
        c = config(tmp_path)
        async with echo_server(root, "other.svc") as port:
            assert f"not for {NAME}" in await failure(c, f"127.0.0.1:{port}")
        async with echo_server(Root("stranger"), NAME) as port:
            assert f"does not chain to the roots in {c.root_file}" in await failure(c, f"127.0.0.1:{port}")
        async with echo_server(root, NAME, tls=False) as port:
            assert await failure(c, f"127.0.0.1:{port}") == f"127.0.0.1:{port} does not speak TLS"
        assert await failure(c, "127.0.0.1:1") == "127.0.0.1:1 refuses connections"
        assert "cannot be resolved" in await failure(c, "nowhere.invalid:1")

    asyncio.run(main())


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_useless_root_file_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "root.pem").write_bytes(content)
    with pytest.raises(AttemptError, match=r"root\.pem") as e:
        asyncio.run(peer.open_link(config(tmp_path), "127.0.0.1:1"))
    assert e.value.reason == "root_file"


def test_unparsable_roots_are_left_out(tmp_path: Path) -> None:
    root = Root()
    file = tmp_path / "roots.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + root.pem)
    (only,) = peer.roots_context(*peer.read_roots(str(file))).get_ca_certs(binary_form=True)
    assert only == ssl.PEM_cert_to_DER_cert(root.pem.decode())


def test_the_client_certificate_is_shown_while_it_is_valid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        root = Root()
        (tmp_path / "root.pem").write_bytes(root.pem)
        key_file, cert_file = tmp_path / "key.pem", tmp_path / "cert.pem"
        c = config(tmp_path, key_file=str(key_file), cert_file=str(cert_file))
        async with echo_server(root, NAME, client_root=root) as port:
            address = f"127.0.0.1:{port}"
            own = root.workload("spiffe://x/own")
            assert await ask(c, address, own) == b"spiffe://x/own"  # nothing on disk yet
            key, cert = root.workload("spiffe://x/provisioned")
            key_file.write_bytes(key)
            cert_file.write_bytes(cert)
            assert await ask(c, address) == b"spiffe://x/provisioned"
            assert await ask(c, address, own) == b"spiffe://x/own"  # whoever hands one in wants that one
            cert_file.write_bytes(root.workload("spiffe://x/late", ttl=-5)[1])
            assert peer.read_client_pair(c, logging.DEBUG) is None
            assert "expired" not in caplog.text
            assert peer.read_client_pair(c) is None
            assert "expired" in caplog.text
            for unreadable in (b"garbage", strange_version(Root())):
                cert_file.write_bytes(unreadable)
                assert peer.read_client_pair(c) is None

    logging.getLogger("agent").propagate = True
    asyncio.run(main())


def test_a_valid_certificate_with_another_key_is_an_error(tmp_path: Path) -> None:
    root = Root()
    (tmp_path / "cert.pem").write_bytes(root.workload("spiffe://x/y")[1])
    c = config(tmp_path, key_file=str(tmp_path / "key.pem"), cert_file=str(tmp_path / "cert.pem"))
    for content in (None, b"garbage", key_pem(new_key())):
        if content is not None:
            (tmp_path / "key.pem").write_bytes(content)
        with pytest.raises(AttemptError, match=r"key\.pem") as e:
            peer.read_client_pair(c)
        assert e.value.reason == "client_certificate"


def test_metadata_carries_cluster_headers_and_token(tmp_path: Path) -> None:
    headers = {"X-Tenant": "a=b=c", "bad header": "x", "x-bad": "é", "x-data-bin": "raw", "grpc-timeout": "1S"}
    c = config(tmp_path, cluster_id="east", headers=headers)
    assert peer.metadata(c, "abc") == [
        ("clusterid", "east"),
        ("x-tenant", "a=b=c"),
        ("x-data-bin", "cmF3"),
        ("authorization", "Bearer abc"),
    ]
    assert "authorization" not in dict(peer.metadata(c, ""))


def jwt(claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "token"),
        (b"\xff\xfe", "token"),
        (b"two\nlines", "token"),
        (jwt({"exp": 1000}).encode(), "token_expired"),
    ],
    ids=["missing", "binary", "lines", "expired"],
)
def test_a_useless_token_is_a_sentence(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(AttemptError) as e:
        peer.current_token(config(tmp_path))
    assert e.value.reason == reason
    assert str(tmp_path / "token") in str(e.value)


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_token_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    assert peer.current_token(config(tmp_path)) == ""


def test_a_token_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    for content in (" abc \n", "def"):
        (tmp_path / "token").write_text(content)
        assert peer.current_token(config(tmp_path)) == content.strip()
    assert peer.current_token(config(tmp_path, token="constant")) == "constant"


@pytest.mark.parametrize(
    ("token", "expiry"),
    [
        (jwt({"exp": 1700000000}), 1700000000.0),
        (jwt({"exp": 1.5}), 1.5),
        (jwt({}), None),
        (jwt([]), None),
        (jwt({"exp": "soon"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": 1e300}), None),
        ("opaque", None),
        ("a.b", None),
        ("a.!!!.c", None),
    ],
)
def test_jwt_expiry(token: str, expiry: float | None) -> None:
    assert peer.jwt_expiry(token) == expiry


def test_an_expired_token_says_since_when(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(jwt({"exp": 1000}))
    with pytest.raises(AttemptError, match="expired 60 s ago") as e:
        peer.read_token(str(tmp_path / "token"), now=1060.0)
    assert e.value.reason == "token_expired"
    assert peer.read_token(str(tmp_path / "token"), now=999.0)


def test_the_expiry_of_a_token_is_known_also_when_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "token"
    peer_config = PeerConfig(("h:1",), False, "", "n", token_file=str(path))
    path.write_text(jwt({"exp": 1000}))
    assert peer.token_state(peer_config, now=999.0) == (1000.0, "")
    expiry, problem = peer.token_state(peer_config, now=1060.0)
    assert (expiry, "expired 60 s ago" in problem) == (1000.0, True)
    path.write_text("opaque")
    assert peer.token_state(peer_config) == (None, "")
    path.unlink()
    expiry, problem = peer.token_state(peer_config)
    assert (expiry, "cannot read" in problem) == (None, True)


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_any_token_text_has_an_expiry_or_none(text: str) -> None:
    for token in (text, f"e30.{text}.sig", f"{text}.{text}.{text}"):
        expiry = peer.jwt_expiry(token)
        assert expiry is None or isinstance(expiry, float)


@given(st.text(max_size=300))
def test_explanations_are_one_line(details: str) -> None:
    c = PeerConfig(addresses=(), plaintext=False, root_file="r.pem", server_name="n")
    sentence = peer.explain(c, "h:1", RpcError(Code.UNAVAILABLE, details))
    assert "h:1" in sentence
    assert len(sentence.splitlines()) == 1


def test_explanations_hold_no_token_and_no_key() -> None:
    c = PeerConfig(addresses=(), plaintext=False, root_file="r.pem", server_name="n")
    details = "who shows eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln and -----BEGIN RSA PRIVATE KEY-----\nMHc"
    sentence = peer.explain(c, "h:1", RpcError(Code.UNAVAILABLE, details))
    assert sentence == "h:1: who shows (redacted) and (redacted)"
