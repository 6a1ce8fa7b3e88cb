from contextlib import ExitStack

import pytest

from agent.sds.stream import AT_ONCE, Broadcast


def test_everybody_is_told_whatever_happens_to_another(caplog: pytest.LogCaptureFixture) -> None:
    changes, told, sent = Broadcast(), [], []

    def broken() -> None:
        raise ValueError("stream 1")

    with changes.listening(broken), changes.listening(lambda: told.append(2)):
        assert len(changes) == 2
        changes.notify(lambda: sent.append(len(told)))
    assert (told, sent, len(changes)) == ([2], [1], 0)
    changes.notify(lambda: sent.append(-1))
    assert sent == [1]


def test_the_first_do_not_wait_for_the_last() -> None:
    changes, told, sent = Broadcast(), [], []
    with ExitStack() as stack:
        for i in range(AT_ONCE + 1):
            stack.enter_context(changes.listening(lambda i=i: told.append(i)))
        changes.notify(lambda: sent.append(len(told)))
    assert sent == [AT_ONCE, AT_ONCE + 1]
