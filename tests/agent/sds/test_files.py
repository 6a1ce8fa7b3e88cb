import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sds import files
from agent.sds.files import FileSecrets, Unusable
from tests.fakes.ca import Root

ROOT = Root()
KEY, CERT = ROOT.workload("spiffe://x/y")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "cert.pem").write_bytes(CERT + ROOT.pem)
    (tmp_path / "key.pem").write_bytes(KEY)
    return str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")


def test_a_pair_is_served_as_it_is(pair: tuple[str, str]) -> None:
    content = files.load(pair)
    assert (content.chain, content.key) == (CERT + ROOT.pem, KEY)
    assert "PRIVATE" not in repr(content)
    Path(pair[0]).write_bytes(CERT + KEY)  # a certificate file may hold the key too, after the certificate
    assert files.load(pair).version != content.version


@pytest.mark.parametrize(
    ("cert", "key", "phrase"),
    [
        (b"", KEY, "is empty"),
        (b"junk", KEY, "PEM certificate"),
        (KEY + CERT, KEY, "PEM certificate"),
        (CERT[:100], KEY, "PEM certificate"),
        (CERT + ROOT.pem[:100], KEY, "PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", KEY, "cannot be parsed"),
        (CERT, b"junk", "private key"),
        (CERT, KEY[:100], "private key"),
        (CERT, ROOT.workload("spiffe://x/z")[0], "is not the key of"),
    ],
)
def test_an_unusable_pair_is_one_phrase(pair: tuple[str, str], cert: bytes, key: bytes, phrase: str) -> None:
    Path(pair[0]).write_bytes(cert)
    Path(pair[1]).write_bytes(key)
    with pytest.raises(Unusable, match=phrase) as e:
        files.load(pair)
    assert "PRIVATE" not in str(e.value)


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "nothing", "zero"])
def test_what_is_no_file_is_refused_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    name = {"nothing": "", "zero": "a\0b"}.get(kind, str(path))
    with pytest.raises(Unusable):
        files.load((name,))


def test_roots_that_do_not_parse_are_left_out(tmp_path: Path) -> None:
    junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "r").write_bytes(b"comment\n" + junk + ROOT.pem)
    assert files.load((str(tmp_path / "r"),)).roots == ROOT.pem
    (tmp_path / "r").write_bytes(junk)
    with pytest.raises(Unusable, match="no PEM certificate"):
        files.load((str(tmp_path / "r"),))


def test_the_last_good_content_stays(pair: tuple[str, str]) -> None:
    secrets = FileSecrets()
    secrets.track("n", pair)
    first = secrets.get("n")
    assert first is not None
    assert not secrets.refresh()
    Path(pair[0]).write_bytes(CERT[:50])
    assert not secrets.refresh()
    assert secrets.get("n") == first
    assert "PEM certificate" in secrets.problem("n")
    assert secrets.unsettled
    os.unlink(pair[0])
    assert not secrets.refresh()
    key, cert = ROOT.workload("spiffe://x/new")
    Path(pair[0]).write_bytes(cert)
    Path(pair[1]).write_bytes(key)
    assert secrets.refresh()
    assert secrets.problem("n") == ""
    assert not secrets.unsettled
    assert secrets.failures == 2


def test_a_rewrite_that_times_do_not_show_is_found_by_content(pair: tuple[str, str]) -> None:
    secrets = FileSecrets()
    secrets.track("n", pair)
    times = os.stat(pair[0])
    Path(pair[0]).write_bytes(CERT + ROOT.pem + b"\n")
    os.utime(pair[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert secrets.refresh(thorough=True)
    assert not secrets.refresh(thorough=True)


def test_a_name_is_forgotten_with_its_last_stream(pair: tuple[str, str]) -> None:
    secrets = FileSecrets()
    secrets.track("n", pair)
    assert (secrets.names(), secrets.paths(), secrets.touched.is_set()) == (["n"], list(pair), True)
    secrets.touched.clear()
    secrets.track("n", pair)
    secrets.untrack("n")
    assert not secrets.touched.is_set()
    assert secrets.get("n") is not None
    secrets.untrack("n")
    assert secrets.get("n") is None
    assert not secrets.refresh()


def test_optional_files_are_no_failure() -> None:
    secrets = FileSecrets()
    secrets.track("default", ("/nonexistent/a", "/nonexistent/b"), quiet=True)
    assert secrets.get("default") is None
    assert secrets.failures == 0
    assert not secrets.unsettled


@given(st.text(max_size=40))
def test_any_name_has_paths_or_none(text: str) -> None:
    for name in (text, "file-cert:" + text, "file-root:" + text):
        found = files.paths(name)
        assert found is None or len(found) in (1, 2)
