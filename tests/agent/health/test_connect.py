import asyncio
import socket

import pytest

from agent.health.connect import connect


def listening(host):
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_comes_from_the_proxys_own_address():
    with listening("127.0.0.1") as server:

        async def go():
            (await connect("127.0.0.1", server.getsockname()[1])).close()

        asyncio.run(go())
        accepted, address = server.accept()
        accepted.close()
        assert address[0] == "127.0.0.6"


def test_comes_from_anywhere_where_that_address_does_not_exist():
    with listening("::1") as server:

        async def go():
            (await connect("::1", server.getsockname()[1])).close()

        asyncio.run(go())
        server.accept()[0].close()


def test_every_address_of_a_name_is_tried():
    with listening("127.0.0.1") as server:  # `localhost` may be ::1 first, where nobody listens

        async def go():
            (await connect("localhost", server.getsockname()[1])).close()

        asyncio.run(go())


def test_refused():
    with listening("127.0.0.1") as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect("127.0.0.1", port))
