import fcntl
import sys
from pathlib import Path

import pytest

from init import legacy
from init.errors import InitError
from init.restore import Tools


def test_options_with_and_without_values() -> None:
    words = ["!", "--dport", "15008", "--save-mark", "--comment", '"a b"', "--tcp-flags", "SYN,RST", "SYN"]
    assert list(legacy.options_of(words)) == [
        ("dport", "!15008"),
        ("save-mark", ""),
        ("comment", "a b"),
        ("tcp-flags", "SYN,RST SYN"),
    ]


def test_the_mask_of_an_interface_covers_its_end_unless_more_may_follow() -> None:
    assert legacy.interface_bytes("lo") == (b"lo", b"\xff\xff\xff")
    assert legacy.interface_bytes("! lo") == (b"lo", b"\xff\xff\xff")
    assert legacy.interface_bytes("veth+") == (b"veth", b"\xff\xff\xff\xff")


def test_given_folders_of_libraries_are_used() -> None:
    found = dict(legacy.variables((("XTABLES_LIBDIR", "/opt/x"), ("IPTABLES_LIBDIR", "/opt/i"))))
    assert found["XTABLES_LIBDIR"] == "/opt/x"
    assert found["IPTABLES_LIBDIR"].startswith("/opt/i:")
    assert dict(legacy.variables(()))["XTABLES_LIBDIR"] == legacy.extensions()


def test_the_lock_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lock"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert legacy.lock(str(path), 0.1) is None
        assert legacy.main(["restore", "4", str(path), "0.1"]) == legacy.LOCKED
    assert "lock" in capsys.readouterr().err
    assert legacy.lock(str(path), 0.1) is not None


def test_a_lock_that_cannot_be_opened() -> None:
    backend = legacy.PythonBackend("legacy", Tools(lock_file="/proc/1/nowhere/lock"), {})
    with pytest.raises(InitError, match="python-iptables cannot use the xtables lock"):
        backend.restore(4, "*nat\nCOMMIT\n")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "find_spec", lambda name: None)
    with pytest.raises(InitError, match="install iptables or the extra"):
        legacy.backend(Tools())


def test_a_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "iptc").mkdir()
    (tmp_path / "iptc" / "__init__.py").write_text("raise OSError('libip4tc is missing')\n")
    tools = Tools(libraries=(("PYTHONPATH", f"{tmp_path}:{Path(legacy.__file__).parent.parent}"),))
    backend = legacy.PythonBackend("legacy", tools, {})
    with pytest.raises(InitError, match="libip4tc is missing"):
        backend.restore(4, "*nat\nCOMMIT\n")
    assert "iptc" not in sys.modules
