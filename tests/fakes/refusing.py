"""`python refusing.py COMMAND ...`: a command that may not change PR_SET_DUMPABLE, as under a seccomp profile."""

import ctypes
import os
import struct
import sys

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
PRCTL = {"x86_64": 157, "aarch64": 167}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: word at an offset, compare with a constant, return
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # the latter with EPERM


def main(command: list[str]) -> None:
    number = PRCTL[os.uname().machine]
    program = (
        (LOAD, 0, 0, 0),  # which call
        (EQUAL, 0, 3, number),
        (LOAD, 0, 0, 16),  # its first argument
        (EQUAL, 0, 1, PR_SET_DUMPABLE),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, 2, filter_, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl{arguments[:1]}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
