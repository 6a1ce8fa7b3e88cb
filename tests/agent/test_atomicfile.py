import errno
import os
import stat
from pathlib import Path

import pytest

from agent import atomicfile


def test_mode_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a longer text that was there before")
    os.umask(os.umask(0o077))
    atomicfile.write(str(path), "new \udcff", 0o644)
    assert path.read_bytes() == b"new \xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.root
def test_owner(tmp_path: Path) -> None:
    atomicfile.write(str(tmp_path / "f"), "x", 0o600, (1337, 1338))
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1337, 1338, 0o600)


def test_a_link_in_the_way_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        atomicfile.write(str(tmp_path / "f"), "x", 0o600)
    assert caught.value.errno == errno.ELOOP
    assert os.listdir(tmp_path) == ["f.tmp"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(IsADirectoryError):
        atomicfile.write(str(tmp_path / "f"), "x", 0o600)
    assert os.listdir(tmp_path) == ["f"]
