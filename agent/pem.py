"""Cutting PEM text into blocks, in linear time whatever a peer sends."""

from collections.abc import Iterator

BEGIN = b"-----BEGIN CERTIFICATE-----"
END = b"-----END CERTIFICATE-----"
KEYS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"ENCRYPTED PRIVATE KEY")


def certificates(data: bytes) -> list[bytes]:
    """The whole certificate blocks of `data` in order, from BEGIN to END; a block that is cut short is left out."""
    return [data[start:end] for start, end in _blocks(data, BEGIN, END)]


def private_key(data: bytes) -> bytes | None:
    """The first whole block with a private key, from BEGIN to END; None if there is none."""
    found = [next(_blocks(data, b"-----BEGIN %b-----" % label, b"-----END %b-----" % label), None) for label in KEYS]
    start, end = min(filter(None, found), default=(0, 0))
    return data[start:end] or None


def cut_short(data: bytes) -> bool:
    """Some block has a beginning and no end: whoever writes the text has not finished."""
    return data.count(b"-----BEGIN ") > data.count(b"-----END ") or data.count(BEGIN) > len(certificates(data))


def _blocks(data: bytes, begin: bytes, end: bytes) -> Iterator[tuple[int, int]]:
    position = 0
    while (start := data.find(begin, position)) >= 0 and (stop := data.find(end, start)) >= 0:
        position = stop + len(end)
        # A block without an end swallows nothing of the next one.
        yield data.rfind(begin, start, stop), position
