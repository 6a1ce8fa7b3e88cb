"""Addresses of a host name, from the system's resolver, on a thread that nobody has to wait for."""

import asyncio
import socket
import threading

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]  # family, what connect(2) takes


async def addresses(host: str, port: int) -> list[Address]:
    """Every address for TCP, in the system's order; one at once if `host` is an IP address. Raises OSError."""
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # it is a name, if anything
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Address]] = loop.create_future()

    def settle(result: list[Address], error: OSError | None) -> None:
        if found.done():
            return
        if error:
            found.set_exception(error)
        else:
            found.set_result(result)

    def work() -> None:
        result: list[Address] = []
        error: OSError | None = None
        try:
            result = _look_up(host, port, 0)
        except OSError as e:
            error = e
        except UnicodeError:
            error = socket.gaierror(socket.EAI_NONAME, "not a host name")
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            return  # the loop has ended meanwhile

    # Not the loop's own threads: the end of the loop waits for those, and a resolver may take half a minute.
    threading.Thread(target=work, name="lookup", daemon=True).start()
    return await found


def _look_up(host: str, port: int, flags: int) -> list[Address]:
    # A `str` is taken through the codec of international names, whose tables are half a megabyte.
    name = host.encode() if host.isascii() else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
