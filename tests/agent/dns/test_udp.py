import socket

import pytest

from agent.dns.udp import AnyAddressSocket


@pytest.mark.parametrize(
    ("family", "bound", "asked"),
    [
        (socket.AF_INET, "0.0.0.0", "127.0.0.5"),
        (socket.AF_INET6, "::", "127.0.0.5"),
        (socket.AF_INET6, "::", "::1"),
    ],
)
def test_the_answer_comes_from_the_address_that_was_asked(family: int, bound: str, asked: str) -> None:
    client_family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, socket.socket(client_family, socket.SOCK_DGRAM) as client:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((bound, 0))
        subject = AnyAddressSocket(sock)
        client.settimeout(10)
        client.connect((asked, subject.getsockname()[1]))
        client.send(b"question")
        data, peer = subject.recvfrom(100)
        assert data == b"question"
        subject.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"  # a connected socket takes nothing from another address


def test_nothing_to_read_is_said_as_sockets_say_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(("0.0.0.0", 0))
        with pytest.raises(BlockingIOError):
            AnyAddressSocket(sock).recvfrom(100)
