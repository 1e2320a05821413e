"""Frames for listeners: asked for once, handed to all, held up by none."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.lane import Lane, QueueLimits
from aggregator.router import Router
from aggregator.shard import Shard
from aggregator.warm_up import warm_up
from api import live
from api.live import Frame, Live, next_frame
from tests.shards import settings_of, watch


class Client:
    """A listener's connection that takes everything, until told otherwise."""

    def __init__(self) -> None:
        self.is_stalled = False
        self.is_cut = False

    def abort(self) -> None:
        self.is_cut = True


class Asked:
    """Counts how often it is asked for a frame, and numbers them."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> bytes:
        self.times += 1
        return b"%d" % self.times


@pytest.fixture(autouse=True)
def short_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD_S", 0.02)


def live_test(test: Callable[[Live, Asked], Awaitable[None]]) -> None:
    async def run() -> None:
        asked = Asked()
        frames = Live(asked)
        try:
            await asyncio.wait_for(test(frames, asked), 30)
        finally:
            frames.close()

    asyncio.run(run())


async def frame_after(frames: Live, number: int) -> Frame:
    frame = await frames.after(number)
    assert frame is not None
    return frame


async def take(frames: Live, count: int) -> list[Frame]:
    """What a listener gets that is always ready for more."""
    taken: list[Frame] = []
    with frames.joined(Client()):
        while len(taken) < count:
            taken.append(await frame_after(frames, taken[-1].number if taken else 0))
    return taken


def test_any_number_of_listeners_for_one_question_a_frame() -> None:
    async def test(frames: Live, asked: Asked) -> None:
        taken = await asyncio.gather(*(take(frames, 5) for _ in range(500)))
        assert {tuple(frame.encoded for frame in one) for one in taken} == {
            (b"1", b"2", b"3", b"4", b"5")
        }
        assert len({id(one[0].encoded) for one in taken}) == 1  # encoded once
        assert asked.times == 5

    live_test(test)


def test_a_slow_listener_gets_the_newest_frame_and_holds_no_one_up() -> None:
    async def test(frames: Live, asked: Asked) -> None:
        with frames.joined(Client()):
            first = await frame_after(frames, 0)
            quick = await take(frames, 8)  # meanwhile the one above takes nothing
            second = await frame_after(frames, first.number)
            assert [frame.number for frame in quick] == list(range(1, 9))
            assert second.number == asked.times >= 8

    live_test(test)


def test_who_comes_later_gets_the_frame_that_is_there_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "PERIOD_S", 60)

    async def test(frames: Live, asked: Asked) -> None:
        with frames.joined(Client()):
            frame = await frame_after(frames, 0)
            with frames.joined(Client()):
                assert await frame_after(frames, 0) is frame
            assert asked.times == 1

    live_test(test)


def test_nothing_is_asked_while_no_one_listens() -> None:
    async def test(frames: Live, asked: Asked) -> None:
        last = (await take(frames, 3))[-1]
        await asyncio.sleep(0.1)
        rested = asked.times
        assert rested <= 4
        await asyncio.sleep(0.1)
        assert asked.times == rested
        (frame,) = await take(frames, 1)
        assert frame.encoded == b"%d" % (rested + 1) != last.encoded  # not what was long ago

    live_test(test)


def test_coming_and_going_asks_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PERIOD_S", 60)

    async def test(frames: Live, asked: Asked) -> None:
        for _ in range(200):
            await take(frames, 1)
        assert asked.times == 1

    live_test(test)


def test_a_listener_that_goes_while_it_waits_is_forgotten() -> None:
    async def test(frames: Live, _: Asked) -> None:
        waiting = [asyncio.create_task(take(frames, 10**9)) for _number in range(10)]
        await take(frames, 2)
        assert len(frames) == 10
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(frames) == 0
        await take(frames, 2)

    live_test(test)


def test_closing_ends_those_who_wait_and_cuts_those_who_do_not_listen() -> None:
    async def test(frames: Live, _: Asked) -> None:
        ready, stuck = Client(), Client()
        stuck.is_stalled = True
        with frames.joined(ready), frames.joined(stuck):
            frame = await frame_after(frames, 0)
            end = asyncio.create_task(frames.after(frame.number))
            await asyncio.sleep(0)
            frames.close()
            assert await end is None
            assert (ready.is_cut, stuck.is_cut) == (False, True)
            assert await frames.after(0) is None  # a late one, too

    live_test(test)


def test_requests_get_a_turn_between_many_listeners() -> None:
    async def test(frames: Live, _: Asked) -> None:
        woken = 0
        most = 0

        async def listen() -> None:
            nonlocal woken
            with frames.joined(Client()):
                await frame_after(frames, 1)
                woken += 1

        async def be_a_request() -> None:
            nonlocal woken, most
            while True:
                most, woken = max(most, woken), 0
                await asyncio.sleep(0)

        request = asyncio.create_task(be_a_request())
        await asyncio.gather(*(listen() for _ in range(1000)))
        request.cancel()
        assert 0 < most <= 2 * live.WOKEN_TOGETHER

    live_test(test)


# The frame


async def never(_: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def parse(frame: bytes) -> tuple[str, Any]:
    """The name and the data of a server-sent event."""
    lines = frame.removesuffix(b"\n\n").split(b"\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    return fields.get(b"event", b"message").decode(), msgspec.json.decode(fields[b"data"])


def test_a_frame_is_the_state_of_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ANSWER_S", 60)  # kernels are loaded meanwhile

    async def run() -> None:
        shards = [Shard(settings_of(tmp_path, number)) for number in range(2)]
        lanes = [Lane(number, shard.handle, QueueLimits()) for number, shard in enumerate(shards)]
        router = Router(lanes)
        slugs = {f"m{n:02}": 10 * n for n in range(15)} | {'"<b>\n': 300}
        for user in range(3):
            for slug, stop in slugs.items():
                await router.submit(watch(f"u{user}", slug, 0, stop), None, 1)
        name, frame = parse(await next_frame(router))
        await router.close()
        for shard in shards:
            await shard.close()
        assert name == "message"
        top = [(movie["slug"], movie["watch_seconds"]) for movie in frame["top"]]
        assert top == [('"<b>\n', 900)] + [(f"m{n:02}", 30 * n) for n in range(14, 5, -1)]
        assert {movie["watching_now"] for movie in frame["top"]} == {3}
        assert (frame["users"], frame["movies"], frame["pairs"]) == (3, 16, 48)
        assert frame["watching_now"] == 48
        assert frame["events"] == 3 * (sum(10 * n + 10 for n in range(15)) // 10 + 31)

    asyncio.run(run())


def test_a_shard_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ANSWER_S", 1)
    warm_up()  # else the shard that is there would be late too

    async def run() -> None:
        shard = Shard(settings_of(tmp_path))
        router = Router([Lane(0, shard.handle, QueueLimits()), Lane(1, never, QueueLimits())])
        name, problem = parse(await next_frame(router))
        await router.close()
        await shard.close()
        assert name == "problem"
        assert (problem["status"], problem["title"]) == (503, "Service Unavailable")
        assert "shard 1 " in problem["detail"]
        assert "no reply" in problem["detail"]

    asyncio.run(run())


def test_a_fault_of_our_own_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    name, problem = parse(asyncio.run(next_frame(None)))  # type: ignore[arg-type]
    assert name == "problem"
    assert "fault of playhead's own" in problem["detail"]
    assert "no frame" in caplog.text
