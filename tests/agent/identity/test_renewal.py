from dataclasses import replace

import pytest

from agent.identity import rotation
from agent.identity.credentials import Kind
from agent.identity.renewal import Ask, Renewal, Use, Wait
from agent.model import Secret

HOUR = 3600.0
MIDDLE = 0.5  # of what chance may do: no jitter


def certificate(begin: float, end: float, received: float | None = None) -> Secret:
    return Secret(b"", b"", b"", "spiffe://x/y", begin, end, begin if received is None else received)


NOW = certificate(0, 24 * HOUR)
SHORT = certificate(0, 30.0)

Row = tuple[float, str, Secret | None, object]


def move(renewal: Renewal, event: str, secret: Secret | None, now: float) -> object:
    if event == "due":
        return renewal.due(secret, now)
    if event in ("fail", "late"):
        return renewal.failed(secret, now, MIDDLE, late=event == "late")
    assert secret is not None
    return renewal.answered(secret, Kind.TOKEN, now) if event == "answer" else renewal.used(secret, now, MIDDLE)


@pytest.mark.parametrize(
    "rows",
    [
        # One row: the time, what happens, the certificate that comes (or is in use when something is due), what to do.
        # The first certificate: asked for at once, used, renewed at half-time.
        [(0, "due", None, Ask(20)), (1, "answer", NOW, Use), (1, "used", replace(NOW, created=1.0), Wait(43199.5))],
        # No certificate yet: soon, then less often, at last once a minute.
        [(0, "fail", None, Wait(0.5)), (1, "fail", None, Wait(0.75)), (2, "fail", None, Wait(1.125))],
        [*[(float(n), "fail", None, None) for n in range(20)], (30, "fail", None, Wait(60))],
        # A failed renewal: one second, doubling, never longer than a tenth of what remains.
        [(12 * HOUR, "fail", NOW, Wait(1)), (12 * HOUR, "fail", NOW, Wait(2)), (12 * HOUR, "fail", NOW, Wait(4))],
        [*[(12 * HOUR, "fail", NOW, None)] * 10, (12 * HOUR, "fail", NOW, Wait(60)), (86100, "fail", NOW, Wait(30))],
        [(15, "fail", SHORT, Wait(1)), (25, "fail", SHORT, Wait(0.5)), (29.9, "fail", SHORT, Wait(rotation.SOONEST))],
        # Expired: every second counts, within bounds for a CA that comes back.
        [(30, "fail", SHORT, Wait(0.5)), (31, "fail", SHORT, Wait(1)), (40, "fail", SHORT, Wait(2))],
        [*[(50, "fail", SHORT, None)] * 10, (100, "fail", SHORT, Wait(10))],
        # A success forgets the failures.
        [(5, "fail", None, None), (6, "fail", None, None), (7, "used", NOW, None), (8, "fail", NOW, Wait(1))],
        # A grace ratio of 1 would mean "at once": the CA must survive it.
        [(0, "ratio 1", None, None), (5, "used", NOW, Wait(rotation.EARLIEST))],
        # A certificate that is past its rotation point when it comes.
        [(0, "used", certificate(-100 * HOUR, HOUR, -100 * HOUR), Wait(rotation.EARLIEST))],
        # A call may take as long as leaves time for others before the end...
        [(0, "due", NOW, Ask(20)), (24 * HOUR - 30, "due", NOW, Ask(10)), (24 * HOUR - 1, "due", NOW, Ask(1))],
        # ... and a CA that was too slow gets more, until it succeeds.
        [(0, "late", None, None), (1, "due", None, Ask(40)), (2, "late", None, None), (3, "due", None, Ask(80))],
        [*[(1, "late", None, None)] * 5, (9, "due", None, Ask(90)), (9, "due", SHORT, Ask(7))],
        [(0, "late", None, None), (1, "answer", NOW, Use), (2, "due", NOW, Ask(20))],
        [(0, "late", None, None), (1, "fail", None, None), (2, "due", None, Ask(40))],
        # A certificate for later is held. The one in use lasts until then: nothing else is needed.
        [(0, "answer", certificate(60, HOUR), None), (0, "fail", NOW, Wait(60)), (60, "due", NOW, Use)],
        # It does not: the CA is asked meanwhile.
        [(0, "answer", certificate(60, HOUR), None), (0, "fail", SHORT, Wait(1)), (10, "due", SHORT, Ask)],
        [(0, "answer", certificate(60, HOUR), None), (0, "fail", None, Wait(0.5)), (1, "due", None, Ask)],
        # Of two the earlier one is held.
        [
            (0, "answer", certificate(60, HOUR), None),
            (0, "answer", certificate(90, HOUR), None),
            (0, "fail", NOW, Wait(60)),
        ],
        [
            (0, "answer", certificate(90, HOUR), None),
            (0, "answer", certificate(60, HOUR), None),
            (0, "fail", NOW, Wait(60)),
        ],
        # What can be used at once makes it superfluous.
        [
            (0, "answer", certificate(60, HOUR), None),
            (1, "answer", NOW, Use),
            (1, "used", NOW, None),
            (61, "due", NOW, Ask),
        ],
        # It is used once, and its life begins when it does.
        [
            (0, "answer", certificate(60, HOUR), None),
            (70, "due", NOW, Use(certificate(60, HOUR, 70.0), Kind.TOKEN)),
            (71, "due", NOW, Ask),
        ],
        # The clock jumped over its whole life.
        [(0, "answer", certificate(60, 120), None), (150, "due", NOW, Ask), (151, "due", NOW, Ask)],
        # A date far away must not stop renewal.
        [(0, "answer", certificate(1e9, 2e9), None), (0, "fail", None, Wait(0.5)), (0, "fail", NOW, Wait(2))],
    ],
)
def test_every_move_on_a_fake_clock(rows: list[Row]) -> None:
    renewal = Renewal(0.5, 0.01, 20.0)
    for now, event, secret, expected in rows:
        if event == "ratio 1":
            renewal = Renewal(1.0, 0.0, 20.0)
            continue
        action = move(renewal, event, secret, now)
        if isinstance(expected, type):
            assert isinstance(action, expected), (now, event)
        elif expected is not None or event == "answer":
            assert action == expected, (now, event)


@pytest.mark.parametrize(
    ("current", "now", "overtaken"),
    [
        (None, 0, True),
        (NOW, HOUR, False),
        (NOW, 11.9 * HOUR, False),
        (NOW, 12 * HOUR, True),  # past the rotation point: set forward, or resumed from suspend
        (NOW, 48 * HOUR, True),
        (NOW, -1, True),  # set back: not valid yet
        (certificate(-120, 24 * HOUR, 0), -60, False),  # set back a little: CAs backdate
    ],
)
def test_what_a_jump_of_the_clock_makes_necessary(current: Secret | None, now: float, overtaken: bool) -> None:
    assert Renewal(0.5, 0.0, 20.0).overtaken(current, now) is overtaken


def test_jitter_moves_the_rotation_point_to_both_sides() -> None:
    waits = [Renewal(0.5, 0.01, 20.0).used(NOW, 0, chance).seconds for chance in (0.0, 0.5, 1.0)]
    assert waits == pytest.approx([12.24 * HOUR, 12 * HOUR, 11.76 * HOUR])


def live(lifetime: float, outages: list[tuple[float, float]], until: float) -> tuple[int, float]:
    """(attempts, seconds without a valid certificate after the first one) of an agent on a fake clock.

    The CA is away during `outages`; an attempt takes no time.
    """
    renewal, now, current = Renewal(0.5, 0.0, 20.0), 0.0, None
    attempts, gap = 0, 0.0
    while now < until:
        assert isinstance(renewal.due(current, now), Ask)
        attempts += 1
        if any(begin <= now < end for begin, end in outages):
            now += renewal.failed(current, now, MIDDLE).seconds
            continue
        use = renewal.answered(certificate(now - 120, now + lifetime, now), Kind.TOKEN, now)
        assert use is not None
        gap += max(0.0, now - current.not_after) if current else 0.0
        current = use.secret
        now += renewal.used(current, now, MIDDLE).seconds
    return attempts, gap


@pytest.mark.parametrize(
    ("lifetime", "outages", "most_attempts", "longest_gap"),
    [
        (24 * HOUR, [], 15, 0.0),  # a week of quiet: one attempt every twelve hours
        (24 * HOUR, [(0.0, 600.0)], 60, 0.0),  # the CA comes up ten minutes late
        (24 * HOUR, [(HOUR, 11 * HOUR)], 15, 0.0),  # an outage between two renewals is not even noticed
        (24 * HOUR, [(11 * HOUR, 23.9 * HOUR)], 1500, 0.0),  # back six minutes before expiry: no gap
        # Valid until 24 h, away until 30 h: the gap is the outage's, plus at most one wait.
        (24 * HOUR, [(11 * HOUR, 30 * HOUR)], 6000, 6 * HOUR + 12.0),
        (24 * HOUR, [(i * 100.0, i * 100.0 + 50.0) for i in range(6048)], 50, 0.0),  # it flaps for a week
        (10.0, [(4.0, 9.5)], 20_000, 0.0),
        (2.0, [(0.9, 1.5)], 90_000, 0.0),
    ],
)
def test_life_on_a_fake_clock(
    lifetime: float, outages: list[tuple[float, float]], most_attempts: int, longest_gap: float
) -> None:
    attempts, gap = live(lifetime, outages, 7 * 24 * HOUR if lifetime > 60 else 24 * HOUR)
    assert attempts <= most_attempts
    assert gap <= longest_gap
