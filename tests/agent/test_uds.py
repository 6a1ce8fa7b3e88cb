import socket
import stat
from pathlib import Path

import pytest

from agent import uds
from agent.errors import FatalError


@pytest.mark.parametrize("former", ["nothing", "socket", "live socket", "file", "link"])
def test_the_place_is_free_afterwards(tmp_path: Path, former: str) -> None:
    place, target = tmp_path / "a" / "b" / "socket", tmp_path / "target"
    target.write_text("mine")
    with socket.socket(socket.AF_UNIX) as s:
        if former != "nothing":
            place.parent.mkdir(parents=True)
        if "socket" in former:
            s.bind(str(place))
            if former == "live socket":
                s.listen()
        elif former == "file":
            place.write_text("x")
        elif former == "link":
            place.symlink_to(target)
        uds.clear(str(place))
    assert place.parent.is_dir()
    assert not place.exists()
    assert target.read_text() == "mine"


def test_what_cannot_be_removed_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "socket").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "socket", tmp_path / "file" / "socket", tmp_path / ("x" * 120)):
        with pytest.raises(FatalError, match="socket") as e:
            uds.clear(str(path))
        assert "\n" not in str(e.value)


def test_a_listener_is_open_to_everybody_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "a" / "socket"
    listener = uds.listen(str(place))
    assert stat.S_IMODE(place.stat().st_mode) == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place))
    uds.close(listener)
    uds.close(listener)
    assert not place.exists()


def test_a_place_where_nothing_can_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match="file/socket") as e:
        uds.listen(str(tmp_path / "file" / "socket"))
    assert "\n" not in str(e.value)
