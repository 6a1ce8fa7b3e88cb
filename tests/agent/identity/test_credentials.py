from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.credentials import ORDER, Credentials, Kind, advice, found

T, A, C, P, N = Kind.TOKEN, Kind.TOKEN_ALONE, Kind.CERTIFICATE, Kind.PROVISIONED, Kind.NONE
LETTERS = {"T": T, "A": A, "C": C, "P": P, "N": N}


def kinds(letters: str) -> frozenset[Kind]:
    return frozenset(LETTERS[letter] for letter in letters)


@pytest.mark.parametrize(
    ("token", "own", "provisioned", "usable"),
    [
        (False, False, False, ""),
        (True, False, False, "T"),
        (True, False, True, "TAP"),
        (True, True, False, "TC"),
        (True, True, True, "TACP"),
        (False, True, False, "C"),
        (False, True, True, "CP"),
        (False, False, True, "P"),
    ],
)
def test_what_can_be_shown(token: bool, own: bool, provisioned: bool, usable: str) -> None:
    assert found(token, own, provisioned) == kinds(usable)


@pytest.mark.parametrize(
    ("preferred", "rejected", "usable", "choice"),
    [
        # nothing was refused: what worked last, else token, own certificate, provisioned certificate
        (T, "", (T, C, P), T),
        (T, "", (T,), T),
        (T, "", (C, P), C),
        (T, "", (P,), P),
        (T, "", (), N),
        (A, "", (T, A, C, P), A),
        (A, "", (T, C), T),
        (C, "", (T, C, P), C),
        (C, "", (T, P), T),
        (P, "", (T, C, P), P),
        (P, "", (T, C), T),
        (P, "", (C,), C),
        # refused: the others first
        (T, "T", (T, A, C, P), A),
        (T, "T", (T, C, P), C),
        (T, "TA", (T, A, P), P),
        (T, "TP", (T, A, P), A),
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
    assert Credentials(preferred, kinds(rejected)).choose(usable) is choice


@pytest.mark.parametrize(
    ("before", "usable", "event", "after"),
    [
        # (preferred, rejected), what can be shown, what was shown and what became of it: + accepted, - not believed,
        # ! its client certificate was not believed
        (("T", ""), "T", "T+", ("T", "")),
        (("T", ""), "TC", "C+", ("C", "")),
        (("C", "T"), "TC", "C+", ("C", "")),
        (("C", ""), "TC", "T+", ("T", "")),
        (("T", ""), "TAP", "A+", ("A", "")),
        (("C", "C"), "TC", "N+", ("C", "")),
        # with or without the provisioned certificate the token is the same
        (("T", ""), "TAP", "T-", ("T", "TA")),
        (("T", ""), "TACP", "A-", ("T", "TA")),
        (("T", "TA"), "TACP", "C-", ("T", "TAC")),
        (("T", "TAC"), "TACP", "P-", ("T", "")),
        # with or without a token the certificate is the same
        (("T", ""), "TAP", "T!", ("T", "TP")),
        (("T", ""), "TCP", "P!", ("T", "TP")),
        (("T", "TP"), "TAP", "A-", ("T", "")),
        (("C", ""), "TC", "C!", ("C", "C")),
        (("C", ""), "TC", "C-", ("C", "C")),
        # all that is there was refused: from the beginning
        (("T", ""), "T", "T-", ("T", "")),
        (("C", ""), "C", "C!", ("C", "")),
        (("T", "TA"), "TC", "C-", ("T", "")),
        (("T", ""), "", "N-", ("T", "")),
        # what could be shown has become less meanwhile
        (("P", "P"), "T", "T-", ("P", "")),
        (("T", "C"), "TAC", "T-", ("T", "")),
    ],
)
def test_every_transition(before: tuple[str, str], usable: str, event: str, after: tuple[str, str]) -> None:
    state, kind = Credentials(LETTERS[before[0]], kinds(before[1])), LETTERS[event[0]]
    if event[1] == "+":
        state = state.accepted(kind)
    else:
        state = state.refused(kind, kinds(usable), event[1] == "!")
    assert state == Credentials(LETTERS[after[0]], kinds(after[1]))


def test_when_all_were_refused_all_are_tried_again() -> None:
    state, usable = Credentials(), kinds("TACP")
    for expected in (T, C, P, T, C):
        assert state.choose(usable) is expected
        state = state.refused(expected, usable)
    state = Credentials()
    for expected in (T, A, C, T):
        assert state.choose(usable) is expected
        state = state.refused(expected, usable, certificate=expected in (T, C))


@pytest.mark.parametrize(
    ("kind", "certificate", "phrase"),
    [
        (T, False, "tok"),
        (A, False, "tok"),
        (T, True, "cert.pem"),
        (C, True, "roots"),
        (P, False, "cert.pem"),
        (N, False, "put a valid token"),
    ],
)
def test_advice_names_what_to_look_at(kind: Kind, certificate: bool, phrase: str) -> None:
    assert phrase in advice(kind, "tok", "cert.pem", certificate)


@given(
    st.lists(st.tuples(st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from("+-!"))),
    st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any),
)
def test_whatever_has_happened_what_the_ca_believes_is_found(
    steps: list[tuple[tuple[bool, bool, bool], str]], believed: tuple[bool, bool, bool]
) -> None:
    state = Credentials()
    for there, event in steps:
        usable = found(*there)
        choice = state.choose(usable)
        assert choice in usable or (choice is N and not usable)
        state = state.accepted(choice) if event == "+" else state.refused(choice, usable, event == "!")
    token, own, provisioned = believed
    for _ in range(2 * len(ORDER)):
        choice = state.choose(ORDER)
        # A certificate that is not believed ends the connection; beside one that is, a token need not be.
        ended = (choice in (T, P) and not provisioned) or (choice is C and not own)
        if not ended and (choice is not A or token):
            return
        state = state.refused(choice, ORDER, ended)
    raise AssertionError(f"it was not found, with {state}")
