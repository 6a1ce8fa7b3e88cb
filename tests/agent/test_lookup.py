import asyncio
import socket
import threading

import pytest

from agent import lookup


def test_an_address_is_itself():
    assert asyncio.run(lookup.addresses("192.0.2.1", 80)) == [(socket.AF_INET, ("192.0.2.1", 80))]
    assert asyncio.run(lookup.addresses("2001:db8::1", 80)) == [(socket.AF_INET6, ("2001:db8::1", 80, 0, 0))]


def test_a_name():
    assert (socket.AF_INET, ("127.0.0.1", 80)) in asyncio.run(lookup.addresses("localhost", 80))


@pytest.mark.parametrize("name", ["does-not-exist.invalid", "a" * 300, "ä" * 70])
def test_no_such_name(name):
    with pytest.raises(socket.gaierror):
        asyncio.run(lookup.addresses(name, 80))


def test_the_end_does_not_wait_for_a_slow_resolver(monkeypatch):
    """Not even the event loop's end."""
    started, release = [], threading.Event()

    def slow(host, port, flags):
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        started.append(host)
        release.wait(30)
        return []

    monkeypatch.setattr(lookup, "_look_up", slow)

    async def go():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await lookup.addresses("slow", 80)

    asyncio.run(go())
    assert started == ["slow"]
    assert not release.is_set()
    release.set()
