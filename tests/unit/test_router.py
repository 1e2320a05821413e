"""The way to the shards: batching, bounds, callers that go away, answers of several shards."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.commands import Command, Describe, Hide, MarkCompleted, decode
from aggregator.errors import OverloadedError, ShardsUnavailableError
from aggregator.event import Event, Part
from aggregator.lane import ALONE_MIN, Lane, QueueLimits
from aggregator.linger import Linger
from aggregator.messages import (
    COMMANDS,
    EVENTS,
    Applied,
    Done,
    Outcome,
    Refused,
    TopQuery,
    decode_appended,
)
from aggregator.router import SLOTS, Router, shard_of, shards_of
from aggregator.shard import Shard
from persistence.batch import Batch
from persistence.strings import Strings
from tests.shards import NOW_MS, Clock, router_of, settings_of, watch


class FakeShard:
    """Takes frames, and answers each only when told to."""

    def __init__(self) -> None:
        self.frames: list[Batch] = []
        self.gate = asyncio.Event()
        self.reply: Applied | Refused = Applied(NOW_MS)

    async def handle(self, frame: bytes) -> bytes:
        self.frames.append(Batch.decode(decode_appended(frame)[2]))
        await self.gate.wait()
        return msgspec.msgpack.encode(self.reply)


def lane_test(test: Callable[[Lane, FakeShard], Any], limits: QueueLimits | None = None) -> None:
    async def run() -> None:
        shard = FakeShard()
        lane = Lane(0, shard.handle, limits or QueueLimits())
        try:
            await test(lane, shard)
        finally:
            await lane.close()

    asyncio.run(run())


def submit(lane: Lane, at: float, key: str | None = None, events: int = 1) -> asyncio.Future[Any]:
    return lane.submit(Part([Event("u", "m", at)] * events, key), 10)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_frame_is_under_way_and_the_rest_makes_up_the_next() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        first = submit(lane, 0)
        await settle()
        others = [submit(lane, at) for at in range(1, 50)]
        await settle()
        assert [len(frame) for frame in shard.frames] == [1]
        shard.gate.set()
        await asyncio.gather(first, *others)
        assert [len(frame) for frame in shard.frames] == [1, 49]
        assert shard.frames[1].at_ms.tolist() == [at * 1000 for at in range(1, 50)]

    lane_test(test)


def test_only_who_sends_events_one_by_one_has_the_reply_waited_for_awake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lingered: list[int] = []

    async def test(lane: Lane, shard: FakeShard) -> None:
        monkeypatch.setattr("aggregator.lane.ALONE_WITHIN_S", 10.0)  # however slow this machine is
        monkeypatch.setattr(Linger, "begin", lambda _: lingered.append(len(shard.frames)))
        shard.gate.set()
        for at in range(ALONE_MIN + 3):
            await submit(lane, at)
        assert lingered == [ALONE_MIN, ALONE_MIN + 1, ALONE_MIN + 2]
        await submit(lane, 0, events=2)
        assert lingered.pop() == ALONE_MIN + 3  # how many it is, it finds out after
        for _ in range(ALONE_MIN):
            shard.gate.clear()
            two = [submit(lane, 0)]
            await settle()
            two.append(submit(lane, 0))
            await settle()
            shard.gate.set()
            await asyncio.gather(*two)
        monkeypatch.setattr("aggregator.lane.ALONE_WITHIN_S", -1.0)  # as if each came late
        for at in range(ALONE_MIN + 3):
            await submit(lane, at)
        assert lingered == [ALONE_MIN, ALONE_MIN + 1, ALONE_MIN + 2]

    lane_test(test)


def test_duplicates_go_to_the_request_they_came_in() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        requests = [submit(lane, at, events=3) for at in range(3)]
        shard.reply = Applied(NOW_MS, [0, 4, 5, 8])
        shard.gate.set()
        outcomes = await asyncio.gather(*requests)
        assert [outcome.duplicates for outcome in outcomes] == [1, 2, 1]

    lane_test(test)


def test_a_caller_that_goes_away_takes_nothing_from_the_others() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        gone, waiting, stays = submit(lane, 0), submit(lane, 1), submit(lane, 2)
        await settle()
        gone.cancel()
        shard.gate.set()
        assert (await waiting).received_ms == (await stays).received_ms == NOW_MS
        assert len(shard.frames[0]) == 3
        assert (await submit(lane, 3)).received_ms == NOW_MS

    lane_test(test)


def test_a_key_is_once_in_a_frame() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        shard.gate.set()
        requests = [submit(lane, at, key) for at, key in enumerate(["a", "b", "a", "c", "b"])]
        await asyncio.gather(*requests)
        assert [frame.at_ms.tolist() for frame in shard.frames] == [[0, 1000], [2000, 3000, 4000]]

    lane_test(test)


@pytest.mark.parametrize(
    "limits", [QueueLimits(events_max=10, bytes_max=10**9), QueueLimits(10**9, bytes_max=100)]
)
def test_past_its_bound_the_queue_takes_no_more(limits: QueueLimits) -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        requests = [submit(lane, at) for at in range(10)]
        await settle()
        with pytest.raises(OverloadedError, match="send slower"):
            await submit(lane, 10)
        shard.gate.set()
        await asyncio.gather(*requests)
        assert (await submit(lane, 11)).received_ms == NOW_MS

    lane_test(test, limits)


def test_a_request_above_the_bound_is_taken_when_nothing_waits() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        shard.gate.set()
        assert (await submit(lane, 0, events=50)).received_ms == NOW_MS

    lane_test(test, QueueLimits(events_max=10))


def test_a_refusal_reaches_each_caller_and_the_lane_goes_on() -> None:
    async def test(lane: Lane, shard: FakeShard) -> None:
        shard.gate.set()
        shard.reply = Refused("no space left")
        results = await asyncio.gather(submit(lane, 0), submit(lane, 1), return_exceptions=True)
        for result in results:
            assert isinstance(result, ShardsUnavailableError)
            assert "shard 0" in str(result)
            assert "no space left" in str(result)
        shard.reply = Applied(NOW_MS)
        assert (await submit(lane, 2)).received_ms == NOW_MS

    lane_test(test)


def test_what_waits_for_a_shard_that_is_away_is_told_so_too() -> None:
    """Each frame waited out the whole deadline after the one before it."""

    async def test(lane: Lane, shard: FakeShard) -> None:
        first = submit(lane, 0, events=60_000)
        await settle()
        others = [submit(lane, at, events=60_000) for at in range(1, 3)]
        await settle()
        shard.reply = Refused("no reply within 10 s")
        shard.gate.set()
        for request in (first, *others):
            with pytest.raises(ShardsUnavailableError):
                await request
        assert len(shard.frames) == 1
        shard.reply = Applied(NOW_MS)
        assert (await submit(lane, 3)).received_ms == NOW_MS

    lane_test(test)


def test_commands_go_together_and_do_not_wait_for_events() -> None:
    """Numbered on their own: an event's frame that is sent again must not hide a command's."""

    async def run() -> None:
        frames: list[tuple[bytes, int, int, list[Command]]] = []
        gate = asyncio.Event()

        async def handle(frame: bytes) -> bytes:
            producer, sequence, encoded = decode_appended(frame)
            if frame[:1] == EVENTS:
                frames.append((EVENTS, producer, sequence, []))
                await asyncio.Event().wait()  # for ever
            commands = decode(encoded)
            frames.append((COMMANDS, producer, sequence, commands))
            await gate.wait()
            outcomes = [Outcome("unknown" if c == Hide("u", "1") else "done") for c in commands]
            return msgspec.msgpack.encode(Done(NOW_MS, outcomes))

        lane = Lane(0, handle, QueueLimits())
        event = submit(lane, 0)
        hidings = [Hide("u", f"{number}") for number in range(5)]
        first = asyncio.create_task(lane.command(hidings[0]))
        await settle()
        others = [asyncio.create_task(lane.command(hiding)) for hiding in hidings[1:]]
        await settle()
        gate.set()
        outcomes = await asyncio.gather(first, *others)
        assert [o.status for o in outcomes] == ["done", "unknown", "done", "done", "done"]
        assert not event.done()
        assert [(kind, sequence) for kind, _, sequence, _ in frames] == [
            (EVENTS, 1),
            (COMMANDS, 1),
            (COMMANDS, 2),
        ]
        assert [commands for *_, commands in frames[1:]] == [hidings[:1], hidings[1:]]
        assert len({producer for _, producer, _, _ in frames}) == 2
        event.cancel()
        await lane.close()

    asyncio.run(run())


def test_slots_are_shared_out_evenly_and_for_ever() -> None:
    for shards in (1, 2, 5, 16):
        counts = [0] * shards
        for slot in range(SLOTS):
            counts[slot * shards // SLOTS] += 1
        assert max(counts) - min(counts) <= 1
    # Fixed for ever: where a user's data is on disk depends on it.
    users = ["username", "a", "کاربر", "user2"]
    assert [shard_of(user, 5) for user in users] == [3, 3, 1, 0]
    assert shards_of(Strings.of(users), 5).tolist() == [3, 3, 1, 0]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_answers_do_not_depend_on_the_number_of_shards(tmp_path: Path, shards: int) -> None:
    async def run() -> None:
        clock = Clock()
        made = [Shard(settings_of(tmp_path, number), clock) for number in range(shards)]
        async with router_of(made) as router:
            events = [
                event
                for user in range(60)
                for event in watch(f"user{user}", f"movie{user % 7}", 0, 10 * (user % 4 + 1))
            ]
            events += watch("user1", "movie2", 0, 30) + watch("user2", "movie2", 0, 50)
            outcome = await router.submit(events, "key", 1000)
            assert (outcome.duplicates, outcome.received_ms) == (0, NOW_MS)
            assert (await router.submit(events, "key", 1000)).duplicates == len(events)
            movies = await router.movies([f"movie{n}" for n in range(9)])
            assert sorted(movies) == [f"movie{n}" for n in range(7)]
            assert sum(movie.events for movie in movies.values()) == len(events)
            for limit in (1, 2, 3, 7, 50):
                for sort, column in (("watch_seconds", "watch_ms"), ("viewers", "viewers")):
                    expected = sorted(
                        ((getattr(movie, column), slug) for slug, movie in movies.items()),
                        key=lambda pair: (-pair[0], pair[1]),
                    )
                    ranked = await router.top(TopQuery(sort, limit))  # type: ignore[arg-type]
                    assert [(m.value, m.slug) for m in ranked] == expected[:limit]
                completions = await router.top(TopQuery("completions", limit))
                assert [m.slug for m in completions] == sorted(movies)[:limit]
            user, pair = await router.user("user2"), await router.progress("user2", "movie2")
            assert user is not None
            assert pair is not None
            assert (user.watch_ms, user.movies, pair.watch_ms) == (80_000, 1, 80_000)
            assert await router.user("nobody") is None
            stats = await router.stats()
            assert [shard.shard for shard in stats] == list(range(shards))
            assert sum(shard.users for shard in stats) == 60
        for shard in made:
            await shard.close()

    asyncio.run(run())


@pytest.mark.parametrize("shards", [1, 2])
def test_top_movies_count_what_was_marked_where_nothing_was_watched(
    tmp_path: Path, shards: int
) -> None:
    """A shard did not list movies that have no event there; so what others did not list won."""
    here, there = "a", "h"
    assert [shard_of(user, 2) for user in (here, there)] == [1, 0]

    async def run() -> None:
        made = [Shard(settings_of(tmp_path, number), Clock()) for number in range(shards)]
        async with router_of(made) as router:
            await router.submit([Event(here, "m1", 1.0), Event(here, "m2", 1.0)], None, 100)
            await router.command(MarkCompleted(here, "m1"))
            for slug in ("m2", "m3"):
                await router.command(MarkCompleted(there, slug))
            await router.command(MarkCompleted(here, "m2"))
            await router.describe(Describe("only described", 1_000, None))
            for limit, expected in ((1, ["m2"]), (2, ["m2", "m1"]), (9, ["m2", "m1", "m3"])):
                ranked = await router.top(TopQuery("completions", limit))
                assert [movie.slug for movie in ranked] == expected
            assert [movie.value for movie in ranked] == [2, 1, 1]
        for shard in made:
            await shard.close()

    asyncio.run(run())


def test_missing_shards_are_all_named() -> None:
    async def run() -> None:
        def away(shard: int) -> Lane:
            async def send(_: bytes) -> bytes:
                raise ShardsUnavailableError({shard: "no reply within 1 s"})

            return Lane(shard, send, QueueLimits())

        router = Router([away(0), away(1)])
        with pytest.raises(ShardsUnavailableError, match="shards 0, 1 not available: no reply"):
            await router.movies(["m"])
        await router.close()

    asyncio.run(run())
