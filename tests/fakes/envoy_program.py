"""The process behind tests/fakes/envoy.py. Starts in milliseconds: run it with `python -I -S`.

    envoy_program.py FOLDER HOST PORT [anything]

FOLDER/starts.log     one line per start: pid, uid, arguments
FOLDER/requests.log   one line per admin request
FOLDER/stats.txt      body of GET /stats, whatever the filter
Orders: POST /fake/exit/N, /fake/signal/N, /fake/deaf (requests stay unanswered), /fake/leave (a child that stays),
        /fake/eat (memory without end).
"""

import os
import signal
import socket
import sys


def note(folder: str, name: str, line: str) -> None:
    with open(os.path.join(folder, name), "a") as file:
        file.write(line + "\n")


def answer(connection: socket.socket, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)
    connection.close()


def main(folder: str, host: str, port: int) -> None:
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(256)
    note(folder, "starts.log", f"{os.getpid()} {os.getuid()} {' '.join(sys.argv[1:])}")
    silent: list[socket.socket] = []
    deaf = False
    while True:
        connection, _ = server.accept()
        data = b""
        while b"\r\n\r\n" not in data and (chunk := connection.recv(65536)):
            data += chunk
        if not data:
            connection.close()
            continue
        method, target, _ = data.split(b"\r\n", 1)[0].decode().split(" ", 2)
        if not target.startswith("/fake/"):
            note(folder, "requests.log", f"{method} {target}")
        if deaf and not target.startswith("/fake/"):
            silent.append(connection)
            continue
        if target.startswith("/stats"):
            with open(os.path.join(folder, "stats.txt"), "rb") as file:
                answer(connection, "200 OK", file.read())
        elif target.startswith("/drain_listeners"):
            answer(connection, "200 OK", b"OK\n")
        elif target.startswith("/fake/exit/"):
            os._exit(int(target.rpartition("/")[2]))
        elif target.startswith("/fake/signal/"):
            os.kill(os.getpid(), int(target.rpartition("/")[2]))
        elif target == "/fake/deaf":
            deaf = True
            answer(connection, "200 OK", b"")
        elif target == "/fake/eat":
            eaten: list[bytes] = []
            while True:
                eaten.append(b"x" * (1 << 20))
        elif target == "/fake/leave":
            child = os.fork()
            if child == 0:
                server.close()
                connection.close()
                signal.pause()
            answer(connection, "200 OK", str(child).encode())
        else:
            answer(connection, "404 Not Found", b"no such thing")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
