"""The command line of the lab: help, one sentence for every mistake, exit statuses."""

from pathlib import Path

import pytest

from agent.lab import cli


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        assert cli.run(argv, {}) == 0
        text = capsys.readouterr().out
        assert all(f"    {verb} " in text for verb in ("demo", "up", "init", "ca", "plane"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["frob"], "invalid choice"),
        (["init"], "required: --dir, --mesh"),
        (["plane", "--mesh", "/nowhere/mesh.yaml", "--listen", "x:1"], "cannot read the mesh file /nowhere/mesh.yaml"),
        (["ca", "--dir", "/nowhere", "--listen", "x:1"], "cannot read the root key /nowhere/root-key.pem"),
        (["ca", "--dir", "/nowhere", "--listen", "x:1", "--ttl", "soon"], "--ttl: 'soon' is not a duration"),
        (["init", "--dir", "x", "--mesh", "/nowhere/mesh.yaml"], "cannot read the mesh file"),
        (["plane", "--me", "x"], "required: --mesh, --listen"),
    ],
)
def test_mistakes_are_one_sentence_and_255(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(argv, {}) == 255
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("workloads: [{name: a, ip: 10.0.0.1}]")
    assert cli.run(["init", "--dir", str(tmp_path / "lab"), "--mesh", str(mesh)], {}) == 0
    assert "1 tokens" in capsys.readouterr().out
    assert (tmp_path / "lab" / "tokens" / "default.a").exists()


def test_a_plane_without_certificate_must_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("")
    assert cli.run(["plane", "--mesh", str(mesh), "--listen", "127.0.0.1:0"], {}) == 255
    assert "--cert and --key are required" in capsys.readouterr().err
