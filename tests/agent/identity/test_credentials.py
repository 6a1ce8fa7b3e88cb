from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.credentials import ORDER, Credentials, Kind, advice

T, C, P, N = Kind.TOKEN, Kind.CERTIFICATE, Kind.PROVISIONED, Kind.NONE


@pytest.mark.parametrize(
    ("preferred", "rejected", "usable", "choice"),
    [
        # nothing was refused: what worked last, else token, own certificate, provisioned certificate
        (T, "", (T, C, P), T),
        (T, "", (T,), T),
        (T, "", (C, P), C),
        (T, "", (P,), P),
        (T, "", (), N),
        (C, "", (T, C, P), C),
        (C, "", (T, P), T),
        (P, "", (T, C, P), P),
        (P, "", (T, C), T),
        (P, "", (C,), C),
        # refused: the others first
        (T, "T", (T, C, P), C),
        (T, "T", (T, P), P),
        (T, "TC", (T, C, P), P),
        (C, "C", (T, C, P), T),
        (C, "CT", (C, T, P), P),
        (P, "P", (T, P), T),
        # refused and nothing else is there: ask again
        (T, "T", (T,), T),
        (C, "C", (C,), C),
        (T, "TCP", (C, P), C),
        (T, "N", (), N),
    ],
)
def test_choice(preferred: Kind, rejected: str, usable: Sequence[Kind], choice: Kind) -> None:
    letters = {"T": T, "C": C, "P": P, "N": N}
    assert Credentials(preferred, frozenset(letters[r] for r in rejected)).choose(usable) is choice


@pytest.mark.parametrize("kind", ORDER)
def test_what_worked_is_remembered(kind: Kind) -> None:
    state = Credentials().refused(T, ORDER).accepted(kind)
    assert state == Credentials(kind)
    assert state.choose(ORDER) is kind
    assert state.accepted(N) == Credentials(kind)


def test_when_all_were_refused_all_are_tried_again() -> None:
    state = Credentials()
    for expected in (T, C, P, T, C):
        assert state.choose(ORDER) is expected
        state = state.refused(expected, ORDER)
    assert Credentials().refused(T, (T,)).rejected == frozenset()
    assert Credentials().refused(N, ()).rejected == frozenset()


@pytest.mark.parametrize(("kind", "phrase"), [(T, "tok"), (C, "roots"), (P, "cert.pem"), (N, "put a valid token")])
def test_advice_names_what_to_look_at(kind: Kind, phrase: str) -> None:
    assert phrase in advice(kind, "tok", "cert.pem")


@given(st.lists(st.tuples(st.sets(st.sampled_from(ORDER)), st.booleans())))
def test_only_usable_credentials_are_ever_chosen_and_none_is_forgotten(steps: list[tuple[set[Kind], bool]]) -> None:
    state = Credentials()
    for usable, good in steps:
        choice = state.choose(usable)
        assert choice in usable or (choice is N and not usable)
        state = state.accepted(choice) if good else state.refused(choice, usable)
    seen = set()
    for _ in range(2 * len(ORDER)):
        seen.add(choice := state.choose(ORDER))
        state = state.refused(choice, ORDER)
    assert seen == set(ORDER), "every credential gets its turn"
