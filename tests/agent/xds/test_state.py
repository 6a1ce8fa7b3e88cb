import os
import stat
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import FatalError
from agent.xds.cache import CLUSTER, ENDPOINTS, SECRET, Kept
from agent.xds.state import StateDir, filesystem
from agent.xds.wire import Flavour

names = st.text(max_size=20)


def kept(entries, flavour=Flavour.DELTA, version="v", asked=()):
    result = Kept(flavour, version=version, names=frozenset(asked))
    for name, entry in entries.items():
        result.put(name, entry)
    return result


def same(a, b):
    return (a.flavour, a.entries, a.version, a.names, a.size) == (b.flavour, b.entries, b.version, b.names, b.size)


@pytest.fixture
def state(tmp_path):
    state = StateDir(str(tmp_path), "me")
    state.prepare(allow_disk=True)
    return state


@given(
    entries=st.dictionaries(names, st.binary(max_size=200)),
    flavour=st.sampled_from(Flavour),
    version=names,
    asked=st.sets(names),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_comes_back(state, entries, flavour, version, asked):
    state.save(CLUSTER, saved := kept(entries, flavour, version, asked))
    state.heard(1234.5)
    found, heard = state.load()
    assert heard == 1234.5
    assert list(found) == [CLUSTER]
    assert same(found[CLUSTER], saved)


def test_files_are_for_their_owner_only_and_nothing_else_is_left(state, tmp_path):
    state.save(CLUSTER, kept({"a": b"1"}))
    state.heard(1.0)
    assert stat.S_IMODE((tmp_path / "xds").stat().st_mode) == 0o700
    files = list((tmp_path / "xds").iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    state.remove(CLUSTER)
    state.remove(ENDPOINTS)
    assert [f.name for f in (tmp_path / "xds").iterdir()] == ["heard"]


def file_of(tmp_path):
    [path] = (tmp_path / "xds").glob("*.xds")
    return path


def test_every_cut_and_every_flipped_byte_is_noticed(state, tmp_path, caplog):
    state.save(CLUSTER, kept({"a": b"12345", "b": b""}, asked=["a"]))
    path = file_of(tmp_path)
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at])
        assert state.load() == ({}, 0.0)
        path.write_bytes(good[:at] + bytes((good[at] ^ 0x10,)) + good[at + 1 :])
        assert state.load() == ({}, 0.0)
    path.write_bytes(good + b"x")
    assert state.load() == ({}, 0.0)
    assert "is ignored" in caplog.text
    path.write_bytes(good)
    assert list(state.load()[0]) == [CLUSTER]


def test_half_a_file_is_cleared_away(state, tmp_path):
    (tmp_path / "xds/abc.xds.tmp").write_bytes(b"half")
    assert state.load() == ({}, 0.0)
    assert list((tmp_path / "xds").iterdir()) == []


def test_what_another_proxy_left_is_not_used(state, tmp_path, caplog):
    other = StateDir(str(tmp_path), "somebody else")
    other.save(CLUSTER, kept({"a": b"1"}))
    assert state.load()[0] == {}
    assert "belongs to another proxy" in caplog.text


def test_a_secret_is_not_even_read(state):
    state.save(SECRET, kept({"a": b"1"}))
    assert state.load()[0] == {}


def test_nonsense_for_a_time(state, tmp_path):
    (tmp_path / "xds/heard").write_bytes(b"yesterday")
    assert state.load() == ({}, 0.0)


def test_a_disk_is_refused_in_one_sentence(tmp_path):
    disk = next(d for d in (str(tmp_path), "/var/tmp", "/") if filesystem(d) != "tmpfs")
    with (
        tempfile.TemporaryDirectory(dir=disk) as folder,
        pytest.raises(FatalError, match=r"not on a tmpfs.*XDS_STATE_ALLOW_DISK=true$"),
    ):
        StateDir(folder, "me").prepare(allow_disk=False)


def test_a_tmpfs_needs_no_permission():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        state = StateDir(folder, "me")
        state.prepare(allow_disk=False)
        state.save(CLUSTER, kept({"a": b"1"}))
        assert list(state.load()[0]) == [CLUSTER]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError, match=r"make it writable for this user or unset it$"):
        StateDir(str(tmp_path / "file"), "me").prepare(allow_disk=True)


def test_a_link_is_not_followed(state, tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    os.symlink(target, tmp_path / "xds/heard.tmp")
    with pytest.raises(OSError, match="symbolic"):
        state.heard(1.0)
    assert target.read_text() == "untouched"
    state.heard(1.0)


def test_file_systems_as_the_kernel_lists_them(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        "2 1 0:9 / /etc/istio/proxy rw master:1 shared:2 - tmpfs tmpfs rw\n"
        "3 1 0:10 / /with\\040space rw - tmpfs tmpfs rw\n"
        "4 1 0:11 / /over rw - tmpfs tmpfs rw\n"
        "5 1 0:12 / /over rw - xfs /dev/sdb rw\n"
    )
    found = {
        path: filesystem(path, str(mounts))
        for path in ("/", "/etc/istio/proxy", "/etc/istio/proxy/xds", "/etc/istio/proxyx", "/with space/x", "/over/x")
    }
    assert list(found.values()) == ["ext4", "tmpfs", "tmpfs", "ext4", "tmpfs", "xfs"]
