import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.credentials import Credentials, Kind

T, C, N = Kind.TOKEN, Kind.CERTIFICATE, Kind.NONE
BOTH = frozenset({T, C})


@pytest.mark.parametrize(
    ("preferred", "rejected", "token", "certificate", "choice"),
    [
        (T, (), True, True, T),
        (T, (), True, False, T),
        (T, (), False, True, C),
        (T, (), False, False, N),
        (C, (), True, True, C),
        (C, (), True, False, T),
        (T, (T,), True, True, C),
        (T, (T,), True, False, T),  # nothing else is there: ask again
        (C, (C,), True, True, T),
        (C, (C,), False, True, C),
        (T, (N,), False, False, N),
    ],
)
def test_choice(preferred: Kind, rejected: tuple[Kind, ...], token: bool, certificate: bool, choice: Kind) -> None:
    assert Credentials(preferred, frozenset(rejected)).choose(token, certificate) is choice


def test_what_worked_is_remembered() -> None:
    state = Credentials().refused(T).accepted(C)
    assert state.choose(True, True) is C
    assert state.accepted(N) == Credentials(C)


def test_when_all_were_refused_all_are_tried_again() -> None:
    state = Credentials().refused(T)
    assert state.choose(True, True) is C
    assert state.refused(C).choose(True, True) is T


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans())))
def test_only_usable_credentials_are_ever_chosen(steps: list[tuple[bool, bool, bool]]) -> None:
    state = Credentials()
    for token, certificate, good in steps:
        choice = state.choose(token, certificate)
        assert choice is not T or token
        assert choice is not C or certificate
        assert (choice is N) == (not token and not certificate)
        state = state.accepted(choice) if good else state.refused(choice)
        assert state.rejected <= BOTH | {N}
