"""Which shard is asked what, and how the answers of several make one."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from aggregator.commands import Describe, Erase, PairCommand
from aggregator.errors import NoAnswerError, ShardsUnavailableError
from aggregator.event import Event, Part
from aggregator.lane import Lane, Receipt
from aggregator.messages import (
    ContinueQuery,
    Exported,
    ExportRequest,
    HistoryPage,
    HistoryQuery,
    HoursQuery,
    Listed,
    MoviesQuery,
    MovieTotals,
    Outcome,
    Progress,
    ProgressQuery,
    Query,
    Ranked,
    Retention,
    RetentionQuery,
    ShardStats,
    StatsQuery,
    TopQuery,
    UserQuery,
    UserTotals,
    decode_answer,
)
from kernels.batches import hash_names
from persistence.batch import Batch
from persistence.strings import Strings

#: Slots are fixed for ever, as data is kept by them; shards own ranges of them.
SLOTS, SLOT_SEED = 4096, 2

Int64s = NDArray[np.int64]

T = TypeVar("T")


def shard_of(user: str, shards: int) -> int:
    """Shards own contiguous ranges of slots, as even as can be."""
    return xxhash.xxh64_intdigest(user.encode(), SLOT_SEED) % SLOTS * shards // SLOTS


def shards_of(users: Strings, shards: int) -> NDArray[np.int64]:
    """`shard_of` each."""
    hashes = hash_names(users.offsets, users.data, np.uint64(SLOT_SEED))
    return (hashes % SLOTS).astype(np.int64) * shards // SLOTS


def _split(events: list[Event] | Batch, shards: int) -> Mapping[int, list[Event] | Batch]:
    """The events by shard, in order; none for a shard that gets none."""
    if isinstance(events, Batch):
        return _split_columns(events, shards)
    by_shard: dict[int, list[Event]] = {}
    for event in events:
        by_shard.setdefault(shard_of(event.user, shards), []).append(event)
    return by_shard


def _split_columns(batch: Batch, shards: int) -> dict[int, Batch]:
    """Looks at each distinct user once."""
    shard = shards_of(batch.users, shards).astype(np.int16)[batch.user]
    order = np.argsort(shard, kind="stable")
    ends = np.cumsum(np.bincount(shard, minlength=shards))
    return {
        number: batch.take(which)
        for number, which in enumerate(np.split(order, ends[:-1]))
        if len(which)
    }


class Router:
    """The API's one way to the shards. All methods raise `NoAnswerError`."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    @property
    def shards(self) -> int:
        return len(self._lanes)

    def submit(
        self, events: list[Event] | Batch, key: str | None, size: int
    ) -> asyncio.Future[Receipt]:
        """Has the events of one request counted; with the receipt, all are durable.

        `key` is the request's idempotency key, `size` its bytes. The future may get
        `NoAnswerError`. If a shard fails, others may have counted their part: with
        ids or a key it is safe to submit all again.
        """
        if len(self._lanes) == 1:
            return self._lanes[0].submit(Part(events, key), size)
        receipts = [
            self._lanes[shard].submit(Part(part, key), size * len(part) // len(events))
            for shard, part in _split(events, self.shards).items()
        ]
        return receipts[0] if len(receipts) == 1 else asyncio.ensure_future(_sum_up(receipts))

    async def command(self, command: PairCommand | Erase) -> Outcome:
        """Has a user's command carried out."""
        return await self._lane_of(command.user).command(command)

    async def describe(self, command: Describe) -> None:
        """Has every shard know a movie's entry in the catalogue."""
        await _all(lane.command(command) for lane in self._lanes)

    async def progress(self, user: str, slug: str) -> Progress | None:
        answer: Progress | None = await self._ask_about(user, ProgressQuery(user, slug))
        return answer

    async def user(self, user: str) -> UserTotals | None:
        answer: UserTotals | None = await self._ask_about(user, UserQuery(user))
        return answer

    async def history(self, query: HistoryQuery) -> HistoryPage | None:
        answer: HistoryPage | None = await self._ask_about(query.user, query)
        return answer

    async def continue_list(self, query: ContinueQuery) -> list[Listed] | None:
        answer: list[Listed] | None = await self._ask_about(query.user, query)
        return answer

    async def export(self, request: ExportRequest) -> Exported:
        return await self._lane_of(request.user).export(request)

    async def movies(self, slugs: list[str]) -> dict[str, MovieTotals]:
        """The totals over all shards of those movies that any has seen."""
        parts: list[list[MovieTotals]] = await self._ask_all(MoviesQuery(slugs))
        totals: dict[str, MovieTotals] = {}
        for movie in (movie for part in parts for movie in part):
            known = totals.get(movie.slug)
            totals[movie.slug] = movie if known is None else _sum(known, movie)
        return totals

    async def retention(self, slug: str) -> tuple[Int64s, Int64s] | None:
        """Viewers and plays of each bucket; None for a movie that no shard knows."""
        parts: list[Retention | None] = await self._ask_all(RetentionQuery(slug))
        known = [part for part in parts if part is not None]
        if not known:
            return None
        viewers = _add_up([part.viewers for part in known])
        plays = _add_up([part.plays for part in known])
        return viewers, plays

    async def hours(self, query: HoursQuery) -> Int64s | None:
        """Watch time of each hour; None for a movie that no shard knows."""
        parts: list[bytes | None] = await self._ask_all(query)
        known = [part for part in parts if part is not None]
        return _add_up(known) if known else None

    async def top(self, query: TopQuery) -> list[Ranked]:
        """The movies with the most over all shards, exactly, ties by slug.

        A shard lists its own leaders; a movie that none lists has at most the sum
        of the last values listed. Lists grow until that is below the result's end
        (the bound of Cao and Wang, "Efficient top-K query calculation in
        distributed networks", 2004).
        """
        wanted = query.limit
        while True:
            lists: list[list[Ranked]] = await self._ask_all(query)
            if self.shards == 1:
                return lists[0]
            last = [ranked[-1] for ranked in lists if len(ranked) == query.limit]
            unlisted_max = sum(movie.value for movie in last)
            first_unlisted = min((movie.slug for movie in last), default="")
            slugs = list({movie.slug for ranked in lists for movie in ranked})
            exact = await self._ask_all(msgspec.structs.replace(query, slugs=slugs))
            result = _rank(exact)[:wanted]
            end = result[-1] if len(result) == wanted else Ranked("", -1)
            # At a tie, what a shard did not list comes behind the last slug that it did.
            if not last or (-end.value, end.slug) <= (-unlisted_max, first_unlisted):
                return result
            query = msgspec.structs.replace(query, limit=query.limit * 4)

    async def stats(self) -> list[ShardStats]:
        return await self._ask_all(StatsQuery())

    async def stats_of_each(self, timeout_s: float) -> list[ShardStats | NoAnswerError]:
        """By shard, its statistics, or why there are none by then."""

        query = StatsQuery()

        async def ask(lane: Lane) -> ShardStats | NoAnswerError:
            try:
                async with asyncio.timeout(timeout_s):
                    stats: ShardStats = decode_answer(query, await lane.ask(query))
                    return stats
            except TimeoutError:
                return ShardsUnavailableError({lane.shard: f"no reply within {timeout_s:g} s"})
            except NoAnswerError as error:
                return error

        return await asyncio.gather(*map(ask, self._lanes))

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self._lanes))

    def ask_about(self, user: str, query: Query) -> asyncio.Future[msgspec.Raw]:
        """Gets what `decode_answer` reads, or `NoAnswerError`."""
        return self._lane_of(user).ask(query)

    async def _ask_about(self, user: str, query: Query) -> Any:
        return decode_answer(query, await self.ask_about(user, query))

    def _lane_of(self, user: str) -> Lane:
        shards = len(self._lanes)
        return self._lanes[shard_of(user, shards) if shards > 1 else 0]

    async def _ask_all(self, query: Query) -> list[Any]:
        if len(self._lanes) == 1:
            return [decode_answer(query, await self._lanes[0].ask(query))]
        encoded = await _all(lane.ask(query) for lane in self._lanes)
        return [decode_answer(query, one) for one in encoded]


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


async def _sum_up(receipts: list[asyncio.Future[Receipt]]) -> Receipt:
    of_shards = await _all(receipts)
    return Receipt(
        max(receipt.received_ms for receipt in of_shards),
        sum(receipt.duplicates for receipt in of_shards),
    )


def _rank(lists: list[list[Ranked]]) -> list[Ranked]:
    totals: Counter[str] = Counter()
    for movie in (movie for ranked in lists for movie in ranked):
        totals[movie.slug] += movie.value
    ranked = [Ranked(slug, value) for slug, value in totals.items()]
    return sorted(ranked, key=lambda movie: (-movie.value, movie.slug))


def _add_up(parts: list[bytes]) -> Int64s:
    """The sum of int64 arrays, each as bytes; shorter ones go on with 0."""
    arrays = [np.frombuffer(part, np.int64) for part in parts]
    total = np.zeros(max(map(len, arrays)), np.int64)
    for array in arrays:
        total[: len(array)] += array
    return total


def _sum(one: MovieTotals, other: MovieTotals) -> MovieTotals:
    return MovieTotals(
        slug=one.slug,
        watch_ms=one.watch_ms + other.watch_ms,
        viewers=one.viewers + other.viewers,
        views=one.views + other.views,
        completions=one.completions + other.completions,
        events=one.events + other.events,
        watching_now=one.watching_now + other.watching_now,
        first_t=min(_known(one.first_t, other.first_t), default=None),
        last_t=max(_known(one.last_t, other.last_t), default=None),
        # The catalogue is in every shard.
        duration_ms=one.duration_ms or other.duration_ms,
        title=other.title if one.title is None else one.title,
    )


def _known(*times: int | None) -> list[int]:
    return [time for time in times if time is not None]
