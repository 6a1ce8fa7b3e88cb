from pathlib import Path

import pytest

from init import legacy, restore
from init.errors import InitError
from init.restore import RestoreBackend, Tools, choose, find, legacy_tables
from init.rules import RuleSet

SAVED = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"


def program(folder: Path, name: str, body: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    slow = program(tmp_path, "slow", "exec sleep 60\n")
    with pytest.raises(InitError, match="slow did not finish within"):
        Tools(limit=0.2).run([slow])


def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(InitError, match="cannot be run"):
        Tools().run([str(tmp_path / "absent")])


def test_commands_get_their_input_and_a_small_environment(tmp_path: Path) -> None:
    echo = program(tmp_path, "echo", "cat; env | sort\n")
    out = Tools(str(tmp_path), lock_file="/run/lock").run([echo], "hello\n")
    assert out.startswith("hello\n")
    assert "LC_ALL=C\n" in out
    assert "XTABLES_LOCKFILE=/run/lock\n" in out


def test_finding_commands(tmp_path: Path) -> None:
    path = program(tmp_path, "iptables-nft-save", "")
    tools = Tools(str(tmp_path))
    assert tools.find("iptables-nft-save") == path
    assert tools.find("no-such-command-at-all") is None


def test_a_system_with_one_kind_of_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "SYSTEM_PATH", "/nowhere")
    program(tmp_path, "iptables-save", 'echo "iptables-save v1.8.9 (nf_tables)"\n')
    restorer = program(tmp_path, "iptables-restore", "")
    tools = Tools(str(tmp_path))
    backend = find("nft", tools)
    assert backend is not None
    assert backend.commands[4][1] == restorer
    assert find("legacy", tools) is None
    with pytest.raises(InitError, match="ip6tables-nft is not installed"):
        backend.command(6, 0)


def test_no_iptables_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(InitError, match="iptables is not installed"):
        choose("", Tools(), {})
    with pytest.raises(InitError, match="iptables-nft-save"):
        choose("nft", Tools(), {})
    monkeypatch.setattr(legacy, "find_spec", lambda name: None)
    with pytest.raises(InitError, match="python-iptables, which could, is not installed"):
        choose("legacy", Tools(), {})


def test_output_that_is_no_rule_set(tmp_path: Path) -> None:
    save = program(tmp_path, "save", "echo banana\n")
    with pytest.raises(InitError, match="not understood"):
        RestoreBackend("nft", Tools(), {4: (save, save)}).read(4)


def test_reading_and_writing(tmp_path: Path) -> None:
    save = program(tmp_path, "save", f"cat {tmp_path}/state\n")
    write = program(tmp_path, "restore", f'cat > {tmp_path}/text; echo "$@" > {tmp_path}/words\n')
    (tmp_path / "state").write_text(SAVED)
    backend = RestoreBackend("nft", Tools(), {4: (save, write)})
    have = backend.read(4)
    assert have.count() == 1
    backend.apply(4, RuleSet(), have)
    assert not (tmp_path / "text").exists()  # nothing to change, nothing run
    backend.restore(4, "*nat\nCOMMIT\n")
    assert (tmp_path / "words").read_text() == "--noflush\n"
    RestoreBackend("legacy", Tools(), {4: (save, write)}).restore(4, "*nat\nCOMMIT\n")
    assert (tmp_path / "words").read_text() == "--noflush -w 30\n"


def test_a_kernel_without_nf_tables_leaves_legacy(tmp_path: Path) -> None:
    for stem in ("iptables", "ip6tables"):
        program(tmp_path, f"{stem}-nft-save", 'echo "Failed to initialize nft: Protocol not supported" >&2; exit 1\n')
        program(tmp_path, f"{stem}-nft-restore", "exit 1\n")
        program(tmp_path, f"{stem}-legacy-save", "")
        program(tmp_path, f"{stem}-legacy-restore", "")
    assert choose("", Tools(str(tmp_path)), {}).backend.name == "legacy"
    with pytest.raises(InitError, match="Failed to initialize nft"):
        choose("nft", Tools(str(tmp_path)), {})


def test_an_unreadable_backend_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    for name in ("nft-save", "nft-restore", "legacy-save", "legacy-restore"):
        program(tmp_path, f"iptables-{name}", "exit 4\n")
    with pytest.raises(InitError, match="exit code 4"):
        choose("", Tools(str(tmp_path)), {})


def test_legacy_tables_of_an_unknown_family_are_none() -> None:
    assert isinstance(legacy_tables(4), tuple)
