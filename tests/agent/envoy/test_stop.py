"""The request to end is made once; later ones can only hurry it."""

import asyncio

from agent.envoy.stop import Stop, StopSignal


def test_the_first_cause_stays() -> None:
    stop = StopSignal()
    assert not stop.requested
    stop.hurry()
    assert not stop.requested, "there is nothing to hurry yet"
    stop.request("SIGTERM")
    stop.request("SIGINT")
    assert stop.latest.value == Stop("SIGTERM", drain=True, hurry=False)
    assert stop.latest.version == 1
    stop.hurry()
    assert stop.latest.value == Stop("SIGTERM", drain=True, hurry=True)


def test_quitting_skips_the_drain_and_cuts_one_short() -> None:
    stop = StopSignal()
    stop.quit("/quitquitquit")
    assert stop.latest.value == Stop("/quitquitquit", drain=False, hurry=True)
    stop = StopSignal()
    stop.request("SIGTERM")
    stop.quit("/quitquitquit")
    assert stop.latest.value == Stop("SIGTERM", drain=False, hurry=True)


def test_readiness_ends_with_the_request() -> None:
    async def run() -> None:
        stop = StopSignal()
        assert (await stop.readiness()).ready
        stop.request("SIGTERM")
        assert (await stop.wait()).cause == "SIGTERM"
        verdict = await stop.readiness()
        assert (verdict.ready, verdict.reason) == (False, "server is terminated: SIGTERM")

    asyncio.run(run())
