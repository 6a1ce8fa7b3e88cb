"""Keys and tokens live in this process's memory: nobody but root may look at it, and no core dump may hold it.

PR_SET_DUMPABLE is a property of the process image: Envoy gets its own back at exec, so that its core dumps
(ISTIO_ENVOY_ENABLE_CORE_DUMP) and its opening of /dev/stdout stay as they are. What the agent loses is what we want it
to lose: others of its user can no longer read /proc/PID/{mem,environ,fd} or attach a debugger; it still reads its own.
"""

import ctypes

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def hide_memory() -> bool:
    """True if memory is out of reach now. It fails under system-call filters only, where dumps are rare as well."""
    prctl = ctypes.CDLL(None).prctl
    return bool(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 and prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)
