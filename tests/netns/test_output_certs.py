"""OUTPUT_CERTS as the kernel sees it: what the agent does in that folder, rename by rename."""

import os
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.sds import watch
from tests.fakes.agent import World
from tests.fakes.ca import Call, FakeCa, Root
from tests.fakes.envoy import wait_for

pytestmark = pytest.mark.root

ROOT, KEY, CHAIN = NAMES = ("root-cert.pem", "key.pem", "cert-chain.pem")


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("o")) as made:
        yield made


class Folder:
    """A folder and the names that were renamed into place in it; every event in it is judged as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._inotify = watch.Inotify()
        self._inotify.add(str(path))
        self._complete: dict[str, bool] = {}  # temporary → it was written and closed
        self._moving: dict[int, str] = {}  # cookie → temporary on its way
        self.renamed: list[str] = []

    def close(self) -> None:
        self._inotify.close()

    def has_renamed(self, *names: str) -> bool:
        self.look()
        assert list(names[: len(self.renamed)]) == self.renamed
        return len(self.renamed) == len(names)

    def look(self) -> None:
        try:
            data = os.read(self._inotify.fd, 1 << 16)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            _, mask, cookie, length = watch.EVENT.unpack_from(data, position)
            position += watch.EVENT.size
            self._judge(mask, cookie, data[position : position + length].rstrip(b"\0").decode())
            position += length

    def _judge(self, mask: int, cookie: int, name: str) -> None:
        if mask & watch.IN_MOVED_FROM:
            assert self._complete.pop(name), f"{name} was renamed before it was complete"
            self._moving[cookie] = name
        elif mask & watch.IN_MOVED_TO:
            assert self._moving.pop(cookie, "").startswith(name), f"{name} came from elsewhere"
            assert name in NAMES
            self.renamed.append(name)
        else:
            assert name not in NAMES, f"{name} itself was touched (event {mask:#x})"
            assert name.startswith(NAMES), f"{name} is nothing that belongs here"
            assert self.renamed[-1:] != [KEY], f"{name} was worked on while key and chain did not match"
            assert name in self._complete or mask & watch.IN_CREATE, f"{name} was touched after its rename"
            self._complete[name] = bool(mask & watch.IN_CLOSE_WRITE)

    def matches(self) -> bool:
        """The three files as they are now: one key, its certificate, and the root that issued it."""
        assert sorted(p.name for p in self.path.iterdir()) == sorted(NAMES)
        key = serialization.load_pem_private_key((self.path / KEY).read_bytes(), None)
        leaf = x509.load_pem_x509_certificate((self.path / CHAIN).read_bytes())
        issuers = x509.load_pem_x509_certificates((self.path / ROOT).read_bytes())
        leaf.verify_directly_issued_by(next(i for i in issuers if i.subject == leaf.issuer))
        return key.public_key() == leaf.public_key()


def test_root_key_and_chain_are_renamed_in_that_order_and_nothing_else_happens(world: World) -> None:
    """Hence whoever finds a key and a chain that do not match finds a pair after one more rename, the chain's."""
    allowed: queue.Queue[Root] = queue.Queue()
    roots = [world.root, Root("b"), Root("c")]

    def answer(ca: FakeCa, call: Call) -> list[str]:
        # Each answer waits until the former one was looked at.
        root = allowed.get(timeout=15)
        names = list(call.csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return [root.issue(call.csr.public_key(), names).decode(), root.pem.decode()]

    world.ca.answer = answer
    folder = Folder(world.folder / "out")
    world.start(
        OUTPUT_CERTS=str(folder.path),
        ECC_SIGNATURE_ALGORITHM="ECDSA",
        SECRET_GRACE_PERIOD_RATIO="1",  # renewed as soon as allowed
        SECRET_GRACE_PERIOD_RATIO_JITTER="0",
    )
    try:
        for root, expected in (
            (roots[0], NAMES),
            (roots[0], (KEY, CHAIN)),
            (roots[1], NAMES),
            (roots[1], (KEY, CHAIN)),
            (roots[2], NAMES),
        ):
            folder.renamed.clear()
            allowed.put(root)
            wait_for(lambda e=expected: folder.has_renamed(*e), 20)
            assert folder.matches()
        wait_for(lambda: len(world.ca.calls) == 6, 20)  # it would be the next
        folder.look()
        assert folder.renamed == list(NAMES)
    finally:
        allowed.put(world.root)
        folder.close()
