"""What a failed command means: one sentence that names what is missing, as far as its message tells."""

from __future__ import annotations

from itertools import pairwise

from init.rules import split

LOCK_WAIT = 30  # seconds that a legacy tool waits for the xtables lock
NFT_INPUT = "/dev/stdin:"
NFT_MODULES = {"tproxy": "nft_tproxy", "redirect": "nft_redir", "ct": "nft_ct", "chain": "nft_chain_nat"}
BUILT_IN = ("ACCEPT", "DROP", "RETURN", "tcp", "udp")  # of x_tables itself, or loaded with it


def explain(name: str, code: int, stderr: str, text: str, lock_wait: float = LOCK_WAIT) -> str:
    """One sentence for a command that failed: what is missing, as far as its message tells."""
    lines = [line.strip() for line in stderr.splitlines() if not line.startswith("#")]
    message = " ".join(line for line in lines if line.strip("^~ "))
    message = message.partition(" Try `")[0].partition(f" {NFT_INPUT}")[0]  # nft goes on after its first error
    if code < 0:
        return f"{name} was killed by signal {-code}"
    if "lock file" in message:
        return f"{name} cannot use the xtables lock: {message}"
    if "Permission denied" in message or "Operation not permitted" in message or "must be root" in message:
        needed = "NET_ADMIN or NET_RAW" if "legacy" in name else "NET_ADMIN"
        return f"{name} may not touch packet rules: the capability {needed} is missing ({message})"
    if "lock" in message and ("held" in message or "holding" in message or "another app" in message.lower()):
        return f"{name} waited {lock_wait:g} seconds for the xtables lock, which another program holds"
    line = culprit(message, text)
    shown = f" at {line!r}" if line else ""
    if "Table does not exist" in message or "do you need to insmod" in message:
        table = message.partition("table `")[2].partition("'")[0] or message.partition('table "')[2].partition('"')[0]
        module = f"ip{'6' if '6' in name or 'ip6' in message else ''}table_{table}" if table else "the one of a table"
        return f"{name} failed: the kernel module {module} is missing and must be loaded on the node ({message})"
    if "missing kernel module" in message or "No chain/target/match" in message or "No such file" in message:
        which = " or ".join(modules(message, line)) or "of a rule"
        return f"{name} failed{shown}: the kernel module {which} is missing and must be loaded on the node ({message})"
    return f"{name} failed with exit code {code}{shown}: {message or 'no message'}"


def modules(message: str, line: str) -> list[str]:
    """The kernel modules one of which a message complains about: the one that it names, else those of the line."""
    if "Extension " in message:
        return ["xt_" + message.partition("Extension ")[2].split()[0]]
    if message.startswith(NFT_INPUT):
        return [module for word, module in NFT_MODULES.items() if word in message.split()]
    words = split(line)
    found = [after for word, after in pairwise(words) if word in ("-m", "-j")]
    return [f"xt_{name}" for name in found if not name.startswith("ISTIO_") and name not in BUILT_IN]


def culprit(message: str, text: str) -> str:
    """The line of the input that a message blames, or nothing."""
    words, lines = message.replace(":", " ").split(), text.splitlines()
    for word, number in pairwise(words):
        if word == "line" and number.isdigit() and 0 < int(number) <= len(lines):
            return lines[int(number) - 1]
    return ""
