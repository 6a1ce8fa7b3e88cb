"""Does somebody speak HTTP/2 on this unix socket? Asked at start, before anything heavy is imported."""

import socket

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
_SETTINGS = 0x04


def speaks_http2(path: str, timeout: float = 1.0) -> bool:
    """True if a server on `path` answers the HTTP/2 preface with its SETTINGS frame within `timeout` seconds."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.sendall(_PREFACE + _EMPTY_SETTINGS)
            head = b""
            while len(head) < 9:
                piece = sock.recv(9 - len(head))
                if not piece:
                    return False
                head += piece
            return head[3] == _SETTINGS
    except (OSError, ValueError):
        return False
