"""The machine's token against a real HTTP server that plays the metadata server."""

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import MachineTokenConfig
from agent.errors import AttemptError
from agent.identity.fetcher import MARGIN, MachineToken
from tests.fakes.metadata import Metadata, jwt


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as world:
        yield world


def refresh(fetcher: MachineToken) -> None:
    asyncio.run(fetcher.refresh())


def test_a_token_is_fetched_written_and_kept_until_it_is_about_to_expire(metadata: Metadata, tmp_path: Path) -> None:
    path = tmp_path / "tokens" / "istio-token"
    metadata.answer = (200, jwt(3600, "my domain/x"))
    fetcher = MachineToken(MachineTokenConfig(metadata.host, "my domain/x", str(path)))
    refresh(fetcher)
    assert path.read_text() == metadata.answer[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    asked = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=my%20domain%2Fx&format=full"
    assert metadata.asked == [(asked, "Google")]
    refresh(fetcher)
    assert len(metadata.asked) == 1
    for stale in (jwt(MARGIN - 5, "my domain/x"), jwt(-5, "my domain/x"), jwt(3600, "somebody else"), "opaque", ""):
        path.write_text(stale)
        refresh(fetcher)
        assert path.read_text() == metadata.answer[1], stale
    assert len(metadata.asked) == 6
    assert [p.name for p in path.parent.iterdir()] == ["istio-token"]


@pytest.mark.parametrize("answer", [(404, "x"), (200, ""), (500, "a.b.c"), (200, "x" * 100_000)])
def test_no_token_is_one_sentence_and_the_old_file_stays(
    metadata: Metadata, tmp_path: Path, answer: tuple[int, str]
) -> None:
    metadata.answer = answer
    (tmp_path / "token").write_text(old := jwt(60))
    with pytest.raises(AttemptError, match=f"metadata server {metadata.host} gives no token"):
        refresh(MachineToken(MachineTokenConfig(metadata.host, "td", str(tmp_path / "token"))))
    assert (tmp_path / "token").read_text() == old


def test_nobody_there_and_nowhere_to_write(metadata: Metadata, tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match="gives no token"):
        refresh(MachineToken(MachineTokenConfig("127.0.0.1:1", "td", str(tmp_path / "token"))))
    (tmp_path / "file").write_text("")
    with pytest.raises(AttemptError, match="cannot write"):
        refresh(MachineToken(MachineTokenConfig(metadata.host, "td", str(tmp_path / "file" / "token"))))
