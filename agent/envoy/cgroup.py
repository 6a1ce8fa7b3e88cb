"""How many processes the kernel has killed in this container for want of memory (cgroup v2 and v1)."""


def locate(membership: str, mounts: str) -> str:
    """The file that counts the kills, from /proc/self/cgroup and /proc/self/mountinfo; "" if there is none. Pure."""
    paths = _memberships(membership)
    unified = ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, mount = fields[3], fields[4]
        if kind[0] == "cgroup" and "memory" in kind[2].split(",") and "memory" in paths:
            return _below(mount, root, paths["memory"]) + "/memory.oom_control"
        if kind[0] == "cgroup2" and "" in paths and not unified:
            unified = _below(mount, root, paths[""]) + "/memory.events"
    return unified


def _memberships(text: str) -> dict[str, str]:
    """Controller → path; the unified hierarchy is ""."""
    found = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            found.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return found


def _below(mount: str, root: str, path: str) -> str:
    """Where `path` of the hierarchy is visible when the mount shows the part of it below `root`."""
    if root != "/" and (path + "/").startswith(root.rstrip("/") + "/"):
        path = path[len(root.rstrip("/")) :]
    # A namespaced cgroup says "/../..": what is mounted is all that can be seen.
    return mount.rstrip("/") + ("" if path == "/" or path.startswith("/..") else path)


def count(text: str) -> int | None:
    """The `oom_kill` counter of memory.events (v2) or memory.oom_control (v1); None if there is none. Pure."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return None


def oom_kills(proc: str = "/proc/self") -> int | None:
    """The counter now; None when this machine does not say."""
    try:
        path = locate(_read(f"{proc}/cgroup"), _read(f"{proc}/mountinfo"))
        return count(_read(path)) if path else None
    except OSError:
        return None


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()
