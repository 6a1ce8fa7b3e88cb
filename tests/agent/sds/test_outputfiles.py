import os
from pathlib import Path

import pytest

from agent.sds.outputfiles import CHAIN, KEY, NAMES, ROOT, mend, replace
from tests.fakes.ca import Root

FIRST = {ROOT: b"roots", KEY: b"key", CHAIN: b"chain"}


@pytest.mark.parametrize(("mode", "directory_mode"), [(0o600, 0o700), (0o644, 0o755)])
def test_three_files_in_a_new_directory(tmp_path: Path, mode: int, directory_mode: int) -> None:
    out = tmp_path / "a" / "out"
    assert replace(str(out), FIRST, mode) == list(NAMES)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == FIRST
    assert {p.stat().st_mode & 0o777 for p in out.iterdir()} == {mode}
    assert out.stat().st_mode & 0o777 == directory_mode


def test_unchanged_files_are_left_alone(tmp_path: Path) -> None:
    replace(str(tmp_path), FIRST, 0o600)
    before = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert replace(str(tmp_path), FIRST, 0o600) == []
    assert replace(str(tmp_path), FIRST | {ROOT: b"roots and more"}, 0o600) == [ROOT]
    after = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert {n for n in before if before[n] != after[n]} == {ROOT}


def test_a_mode_that_is_too_wide_does_not_stay(tmp_path: Path) -> None:
    replace(str(tmp_path), FIRST, 0o644)
    assert replace(str(tmp_path), FIRST, 0o600) == list(NAMES)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / KEY).symlink_to(tmp_path / "mine")
    replace(str(tmp_path / "out"), FIRST, 0o600)
    assert (tmp_path / "mine").read_bytes() == b"precious"
    assert not (tmp_path / "out" / KEY).is_symlink()


def test_a_failure_in_between_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    replace(str(tmp_path), FIRST, 0o600)
    (tmp_path / KEY).unlink()
    (tmp_path / KEY).mkdir()  # cannot be replaced by a file
    second = FIRST | {KEY: b"k2", CHAIN: b"c2"}
    with pytest.raises(OSError, match="directory"):
        replace(str(tmp_path), second, 0o600)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(NAMES)
    assert (tmp_path / CHAIN).read_bytes() == b"chain"
    (tmp_path / KEY).rmdir()
    replace(str(tmp_path), second, 0o600)
    assert (tmp_path / CHAIN).read_bytes() == b"c2"


def test_what_a_dead_agent_left_goes_and_nothing_else(tmp_path: Path) -> None:
    gone = 4_194_304  # one more than the kernel's last process
    ours, alive = f"{KEY}.tmp.{os.getpid()}", f"{KEY}.tmp.1"
    for name in (KEY, f"{KEY}.tmp.{gone}", ours, alive, f"{KEY}.tmp.x", f"mine.tmp.{gone}"):
        (tmp_path / name).write_bytes(b"")
    mend(str(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([KEY, alive, f"{KEY}.tmp.x", f"mine.tmp.{gone}"])
    mend(str(tmp_path / "not there"))


@pytest.mark.parametrize("killed", ["before the key", "between key and chain", "after the chain"])
def test_after_a_kill_key_and_chain_belong_together(tmp_path: Path, killed: str) -> None:
    root, gone = Root(), 4_194_304
    (old_key, old_chain), (new_key, new_chain) = root.workload("spiffe://x/y"), root.workload("spiffe://x/y")
    replace(str(tmp_path), {KEY: old_key, CHAIN: old_chain}, 0o600)
    for name, content in ((KEY, new_key), (CHAIN, new_chain)):
        (tmp_path / f"{name}.tmp.{gone}").write_bytes(content)
    renamed = {"before the key": [], "between key and chain": [KEY], "after the chain": [KEY, CHAIN]}[killed]
    for name in renamed:
        os.replace(tmp_path / f"{name}.tmp.{gone}", tmp_path / name)
    mend(str(tmp_path))
    pair = (old_key, old_chain) if killed == "before the key" else (new_key, new_chain)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == dict(zip((KEY, CHAIN), pair, strict=True))
