"""Which shard is asked what, and how the answers of several make one."""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from aggregator.errors import ShardsUnavailableError
from aggregator.event import Event, Part
from aggregator.lane import Lane, Outcome
from aggregator.messages import (
    MoviesQuery,
    MovieTotals,
    Progress,
    ProgressQuery,
    Query,
    Ranked,
    ShardStats,
    StatsQuery,
    TopQuery,
    UserQuery,
    UserTotals,
)

#: Slots are fixed for ever; shards own ranges of them.
SLOTS = 4096

T = TypeVar("T")


def shard_of(user: str, shards: int) -> int:
    """Shards own contiguous ranges of slots, as even as can be."""
    return zlib.crc32(user.encode()) % SLOTS * shards // SLOTS


class Router:
    """The API's one way to the shards. All methods raise `NoAnswerError`."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    @property
    def shards(self) -> int:
        return len(self._lanes)

    async def submit(self, events: list[Event], key: str | None, size: int) -> Outcome:
        """Has the events of one request counted; when it returns, all are durable.

        `key` is the request's idempotency key, `size` its bytes. If a shard
        fails, others may have counted their part: with ids or a key it is safe
        to submit all again.
        """
        if len(self._lanes) == 1:
            return await self._lanes[0].submit(Part(events, key), size)
        by_shard: dict[int, list[Event]] = {}
        for event in events:
            by_shard.setdefault(shard_of(event.user, self.shards), []).append(event)
        outcomes = await _all(
            self._lanes[shard].submit(Part(part, key), size * len(part) // len(events))
            for shard, part in by_shard.items()
        )
        return Outcome(
            max(outcome.received_ms for outcome in outcomes),
            sum(outcome.duplicates for outcome in outcomes),
        )

    async def progress(self, user: str, slug: str) -> Progress | None:
        answer: Progress | None = await self._ask_about(
            user, ProgressQuery(user, slug), Progress | None
        )
        return answer

    async def user(self, user: str) -> UserTotals | None:
        answer: UserTotals | None = await self._ask_about(user, UserQuery(user), UserTotals | None)
        return answer

    async def movies(self, slugs: list[str]) -> dict[str, MovieTotals]:
        """The totals over all shards of those movies that any has seen."""
        parts = await self._ask_all(MoviesQuery(slugs), list[MovieTotals])
        totals: dict[str, MovieTotals] = {}
        for movie in (movie for part in parts for movie in part):
            known = totals.get(movie.slug)
            totals[movie.slug] = movie if known is None else _sum(known, movie)
        return totals

    async def top(self, query: TopQuery) -> list[Ranked]:
        """The movies with the most over all shards, exactly, ties by slug.

        A shard lists its own leaders; a movie that none lists has at most the sum
        of the last values listed. Lists grow until that is below the result's end
        (the bound of Cao and Wang, "Efficient top-K query calculation in
        distributed networks", 2004).
        """
        wanted = query.limit
        while True:
            lists: list[list[Ranked]] = await self._ask_all(query, list[Ranked])
            if self.shards == 1:
                return lists[0]
            last = [ranked[-1] for ranked in lists if len(ranked) == query.limit]
            unlisted_max = sum(movie.value for movie in last)
            first_unlisted = min((movie.slug for movie in last), default="")
            slugs = list({movie.slug for ranked in lists for movie in ranked})
            exact = await self._ask_all(msgspec.structs.replace(query, slugs=slugs), list[Ranked])
            result = _rank(exact)[:wanted]
            end = result[-1] if len(result) == wanted else Ranked("", -1)
            # At a tie, what a shard did not list comes behind the last slug that it did.
            if not last or (-end.value, end.slug) <= (-unlisted_max, first_unlisted):
                return result
            query = msgspec.structs.replace(query, limit=query.limit * 4)

    async def stats(self) -> list[ShardStats]:
        return await self._ask_all(StatsQuery(), ShardStats)

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    async def _ask_about(self, user: str, query: Query, answer: Any) -> Any:
        lane = self._lanes[shard_of(user, self.shards)]
        return msgspec.msgpack.decode(await lane.ask(query), type=answer)

    async def _ask_all(self, query: Query, answer: Any) -> list[Any]:
        encoded = await _all(lane.ask(query) for lane in self._lanes)
        return [msgspec.msgpack.decode(one, type=answer) for one in encoded]


async def _all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """All results; when shards are missing, one error that names each of them."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    reasons: dict[int, str] = {}
    for result in results:
        if isinstance(result, ShardsUnavailableError):
            reasons |= result.reasons
        elif isinstance(result, BaseException):
            raise result
    if reasons:
        raise ShardsUnavailableError(reasons)
    return [result for result in results if not isinstance(result, BaseException)]


def _rank(lists: list[list[Ranked]]) -> list[Ranked]:
    totals: Counter[str] = Counter()
    for movie in (movie for ranked in lists for movie in ranked):
        totals[movie.slug] += movie.value
    ranked = [Ranked(slug, value) for slug, value in totals.items()]
    return sorted(ranked, key=lambda movie: (-movie.value, movie.slug))


def _sum(one: MovieTotals, other: MovieTotals) -> MovieTotals:
    return MovieTotals(
        slug=one.slug,
        watch_ms=one.watch_ms + other.watch_ms,
        viewers=one.viewers + other.viewers,
        views=one.views + other.views,
        completions=one.completions + other.completions,
        events=one.events + other.events,
        watching_now=one.watching_now + other.watching_now,
        first_t=min(one.first_t, other.first_t),
        last_t=max(one.last_t, other.last_t),
    )
