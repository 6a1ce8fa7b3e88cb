"""`remora-agent lab init`: the files that the lab's processes need. A second run keeps root and tokens."""

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import ConfigError, FatalError
from agent.lab import tokens
from agent.lab.authority import Authority, key_pem, make_root
from agent.lab.mesh import Mesh

ROOT_CERT, ROOT_KEY = "root-cert.pem", "root-key.pem"
SERVER_CERT, SERVER_KEY = "istiod-cert.pem", "istiod-key.pem"
TOKENS, POLICY = "tokens", "policy.json"
SERVER_NAMES = ("istiod.istio-system.svc", "istiod.istio-system", "istiod.istio-system.svc.cluster.local", "localhost")


def initialise(folder: Path, mesh: Mesh, names: Sequence[str]) -> list[str]:
    """Write root, server certificate (for SERVER_NAMES and `names`), policy and one token a workload.

    Returns one line for each thing done. Raises ConfigError for an unusable existing root, FatalError when the folder
    cannot be written.
    """
    try:
        return _write_all(folder, mesh, names)
    except OSError as error:
        raise FatalError(f"cannot write {error.filename or folder}: {error.strerror}") from None


def _write_all(folder: Path, mesh: Mesh, names: Sequence[str]) -> list[str]:
    done = []
    folder.mkdir(parents=True, exist_ok=True)
    root_key, root_cert = folder / ROOT_KEY, folder / ROOT_CERT
    if root_key.exists() and root_cert.exists():
        done.append(f"kept the root certificate {root_cert}")
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        _write(root_key, key_pem(key), 0o600)
        _write(root_cert, make_root(key, mesh.trust_domain, time.time(), x509.random_serial_number()), 0o644)
        done.append(f"made a root certificate, {root_cert}")
    try:
        authority = Authority(root_key.read_bytes(), root_cert.read_bytes())
    except ConfigError as error:
        raise ConfigError(f"the root in {folder} is unusable ({error}): remove {ROOT_KEY} and {ROOT_CERT}") from None
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = tuple(dict.fromkeys((*SERVER_NAMES, "127.0.0.1", "::1", *names)))
    issued = authority.server(key.public_key(), wanted, time.time(), x509.random_serial_number())
    _write(folder / SERVER_KEY, key_pem(key), 0o600)
    _write(folder / SERVER_CERT, "".join(issued.chain).encode(), 0o644)
    done.append(f"made a server certificate for {', '.join(wanted)}")
    policy = {"trust_domain": mesh.trust_domain, "ttl": mesh.ttl}
    _write(folder / POLICY, (json.dumps(policy) + "\n").encode(), 0o644)
    done.append(_write_tokens(folder / TOKENS, mesh))
    return done


def _write_tokens(folder: Path, mesh: Mesh) -> str:
    folder.mkdir(exist_ok=True, mode=0o700)
    wanted = {f"{w.namespace}.{w.name}": tokens.Identity(w.namespace, w.service_account) for w in mesh.workloads}
    made = withdrawn = 0
    for file in folder.iterdir():
        if file.name not in wanted:
            file.unlink()
            withdrawn += 1
    for name, identity in wanted.items():
        file = folder / name
        if not _holds(file, identity):
            _write(file, tokens.compose(identity, secrets.token_hex(16)).encode(), 0o600)
            made += 1
    return f"{len(wanted)} tokens in {folder}: {made} made, {withdrawn} withdrawn"


def _holds(file: Path, identity: tokens.Identity) -> bool:
    try:
        return tokens.parse(file.read_text()) == identity
    except (OSError, ValueError):  # absent, or not ours: it is written anew
        return False


def _write(path: Path, content: bytes, mode: int) -> None:
    """Atomically, and never readable by more than `mode` says, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
    temporary.replace(path)
