"""Cutting PEM text into blocks, in linear time whatever a peer sends."""

BEGIN = b"-----BEGIN CERTIFICATE-----"
END = b"-----END CERTIFICATE-----"


def certificates(data: bytes) -> list[bytes]:
    """The whole certificate blocks of `data` in order, from BEGIN to END; a block that is cut short is left out."""
    blocks = []
    position = 0
    while (start := data.find(BEGIN, position)) >= 0 and (end := data.find(END, start)) >= 0:
        position = end + len(END)
        # A block without an end swallows nothing of the next one.
        blocks.append(data[data.rfind(BEGIN, start, end) : position])
    return blocks
