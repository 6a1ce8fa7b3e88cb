"""Tells at once that somebody changed nftables: the kernel's own notifications."""

import errno
import socket

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NFNLGRP_NFTABLES = 7
CAP_NET_ADMIN = 12


def may_administer() -> bool:
    """Whether this process holds CAP_NET_ADMIN, which reading and writing rules needs."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


class Notifications:
    """A socket that becomes readable some milliseconds after a change. OSError if the kernel or the rights say no."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what has arrived: only that something did matters, the rules are read anew anyway."""
        while True:
            try:
                if not self._socket.recv(65536):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                # Notifications were lost, which says "changed" as well; the queue stays readable.
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        self._socket.close()
