"""The socket that is there before anything else is."""

import socket
import subprocess
import sys

import pytest

from agent.errors import FatalError
from agent.status.bind import bind


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_both_families_reach_it_before_anybody_accepts(host: str) -> None:
    with bind(0) as sock, socket.create_connection((host, sock.getsockname()[1]), 5):
        connection, _ = sock.accept()
        connection.close()
        assert not sock.getblocking()


def test_a_taken_port_is_one_sentence() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(FatalError) as caught:
            bind(port)
    text = str(caught.value)
    assert text.startswith(f"The status port {port} is taken by another process")
    assert "ss -ltnp" in text
    assert "statusPort" in text
    bind(port).close()


@pytest.mark.root
def test_a_kernel_without_ipv6_is_served_on_ipv4() -> None:
    code = """if True:
        import socket
        real = socket.socket
        class NoV6(real):
            def __init__(self, family, *more):
                if family == socket.AF_INET6: raise OSError(97, "Address family not supported by protocol")
                super().__init__(family, *more)
        socket.socket = NoV6
        from agent.status.bind import bind
        sock = bind(0)
        assert sock.family == socket.AF_INET
        socket.create_connection(("127.0.0.1", sock.getsockname()[1]), 5)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_light() -> None:
    code = "import sys, agent.status.bind; assert not {'asyncio', 'h11', 'grpc'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
