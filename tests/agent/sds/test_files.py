import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sds import files
from agent.sds.files import FileSecrets, Unusable
from tests.fakes.ca import Root, strange_version

ROOT = Root()
KEY, CERT = ROOT.workload("spiffe://x/y")
STRANGE = strange_version(ROOT)


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
        (STRANGE, KEY, "cannot be parsed"),
        (CERT, b"junk", "private key"),
        (CERT, KEY + b"\n" * (1 << 20), "at most 1 MiB"),
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
    (tmp_path / "r").write_bytes(b"comment\n" + junk + STRANGE + ROOT.pem)
    assert files.load((str(tmp_path / "r"),)).roots == ROOT.pem
    (tmp_path / "r").write_bytes(junk + STRANGE)
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


@pytest.mark.parametrize("length", [60, 1000])
def test_half_a_bundle_of_roots_is_not_served(tmp_path: Path, length: int) -> None:
    bundle = ROOT.pem + Root("two").pem + Root("three").pem
    path = tmp_path / "r"
    path.write_bytes(bundle)
    secrets = FileSecrets()
    secrets.track("r", (str(path),))
    whole = secrets.get("r")
    path.write_bytes(bundle[:length])
    assert not secrets.refresh()
    assert secrets.get("r") is whole
    assert secrets.problem("r") == f"{path} ends within a PEM block"


def test_a_parser_that_raises_anything_ends_nothing(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("never heard of")

    secrets = FileSecrets()
    with monkeypatch.context() as m:
        m.setattr("agent.sds.files.load", broken)
        secrets.track("n", pair)
        assert not secrets.refresh()
    assert secrets.problem("n") == f"{pair[0]} cannot be used (RuntimeError)"
    assert secrets.refresh()
    secrets.untrack("n")
    assert secrets.names() == []


def test_content_that_a_newcomer_found_is_news_for_those_who_waited(pair: tuple[str, str]) -> None:
    os.rename(pair[0], pair[0] + ".later")
    secrets = FileSecrets()
    secrets.track("n", pair)
    secrets.track("other name of the same files", pair)
    secrets.touched.clear()
    os.rename(pair[0] + ".later", pair[0])
    secrets.track("n", pair)
    assert secrets.get("n") is not None
    assert secrets.touched.is_set()
    assert secrets.refresh()
    assert not secrets.refresh()


def test_the_first_to_ask_is_no_news(pair: tuple[str, str]) -> None:
    secrets = FileSecrets()
    secrets.track("n", pair)
    assert not secrets.refresh()


def test_names_with_the_same_files_share_them_and_what_is_unchanged_is_not_parsed_again(pair: tuple[str, str]) -> None:
    secrets = FileSecrets()
    secrets.track("a", pair)
    secrets.track("b", pair)
    first = secrets.get("a")
    assert secrets.get("b") is first
    assert secrets.paths() == list(pair)
    assert not secrets.refresh(thorough=True)
    assert secrets.get("a") is first
    secrets.untrack("a")
    assert (secrets.get("a"), secrets.get("b"), secrets.names()) == (None, first, ["b"])


def test_the_last_good_content_outlives_the_last_stream_for_a_while(pair: tuple[str, str]) -> None:
    now = [100.0]
    secrets = FileSecrets(lambda: now[0])
    secrets.track("n", pair)
    assert (secrets.names(), secrets.paths(), secrets.touched.is_set()) == (["n"], list(pair), True)
    secrets.touched.clear()
    secrets.track("n", pair)
    first = secrets.get("n")
    secrets.untrack("n")
    secrets.untrack("n")
    assert (secrets.names(), secrets.get("n"), secrets.touched.is_set()) == ([], None, False)
    assert secrets.paths() == list(pair), "it is still followed"
    Path(pair[0]).write_bytes(CERT[:50])
    secrets.refresh()
    now[0] += files.KEEP - 1
    secrets.refresh()
    secrets.track("n", pair)
    assert secrets.get("n") is first, "Envoy is back, and the file is half-written"
    now[0] += files.KEEP
    secrets.refresh()
    assert secrets.get("n") is first
    secrets.untrack("n")
    now[0] += files.KEEP
    secrets.refresh()
    assert secrets.paths() == []
    assert secrets.touched.is_set()
    secrets.untrack("n")  # harmless


def test_only_some_are_kept_and_nothing_without_content(tmp_path: Path) -> None:
    secrets = FileSecrets()
    for i in range(files.KEPT + 2):
        (tmp_path / f"{i}").write_bytes(ROOT.pem)
        secrets.track(f"{i}", (f"{tmp_path}/{i}",))
    secrets.track("missing", (f"{tmp_path}/missing",))
    for name in secrets.names():
        secrets.untrack(name)
    assert secrets.paths() == [f"{tmp_path}/{i}" for i in range(2, files.KEPT + 2)]


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
