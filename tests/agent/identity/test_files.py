from dataclasses import replace
from pathlib import Path

import pytest

from agent.identity import files
from agent.model import Secret

SECRET = Secret(b"chain", b"key", b"roots", "spiffe://x", 0.0, 1.0, 0.0)


@pytest.mark.parametrize(("mode", "directory_mode"), [(0o600, 0o700), (0o644, 0o755)])
def test_three_files_in_a_new_directory(tmp_path: Path, mode: int, directory_mode: int) -> None:
    out = tmp_path / "a" / "out"
    assert files.write(str(out), SECRET, mode) == list(files.NAMES)
    content = {p.name: p.read_bytes() for p in out.iterdir()}
    assert content == {"root-cert.pem": b"roots", "key.pem": b"key", "cert-chain.pem": b"chain"}
    assert {p.stat().st_mode & 0o777 for p in out.iterdir()} == {mode}
    assert out.stat().st_mode & 0o777 == directory_mode


def test_unchanged_files_are_left_alone(tmp_path: Path) -> None:
    files.write(str(tmp_path), SECRET, 0o600)
    before = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert files.write(str(tmp_path), SECRET, 0o600) == []
    assert files.write(str(tmp_path), replace(SECRET, roots=b"new"), 0o600) == ["root-cert.pem"]
    after = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert {n for n in before if before[n] != after[n]} == {"root-cert.pem"}


def test_a_crash_in_between_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    files.write(str(tmp_path), SECRET, 0o600)
    (tmp_path / "key.pem").unlink()
    (tmp_path / "key.pem").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="directory"):
        files.write(str(tmp_path), replace(SECRET, key=b"k2", chain=b"c2"), 0o600)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files.NAMES)
    assert (tmp_path / "cert-chain.pem").read_bytes() == b"chain"
    (tmp_path / "key.pem").rmdir()
    files.write(str(tmp_path), replace(SECRET, key=b"k2", chain=b"c2"), 0o600)
    assert (tmp_path / "cert-chain.pem").read_bytes() == b"c2"
