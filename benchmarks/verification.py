"""Whether the server's totals are those of the events that it took.

The same events go to the scalar reference of the rules, each with the time at
which the server received it; then all that the API says of every movie, user
and pair is compared with it. That a large request is spread over shards, whose
answers' latest time `now` is, does no harm: no total depends on a few
milliseconds, as long as one user's events either all have a `ts` or none has.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from aggregator.reference import Pair, Reference
from aggregator.rules import DAY_HOURS, HOURS_KEPT_DAYS
from benchmarks.player import Heartbeat

#: Questions asked at once.
QUESTIONS_MAX = 64
#: Of longer lists of a user's, the newest.
LISTED_MAX = 1000

Facts = dict[str, Any]
#: The API's answer to a GET of a path; None when it knows nothing of it.
Ask = Callable[[str], Awaitable[Facts | None]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not as it must be; `found` is None too when the server has no answer."""

    path: str
    fact: str
    expected: Any
    found: Any


class Verification:
    """`record` what the server counted; then `expected` is what it must say.

    That takes the default rules, and clocks that agree: a `ts` later than the
    server's time counts as received then. Every id is remembered, so memory
    grows with the events.
    """

    def __init__(self) -> None:
        self._reference = Reference()
        self.events = 0

    def record(self, events: Iterable[Heartbeat], now: str) -> None:
        """Counts the events of a request; a user's requests in the order of their answers."""
        received_ms = _unix_ms(now)
        for event in events:
            self.events += 1
            self._reference.apply(
                event.user,
                event.slug,
                _to_ms(event.at),
                received_ms,
                event.session or "",
                event.id,
                event.ts,
                _to_ms(event.duration or 0),
            )

    def expected(self) -> dict[str, Facts]:
        """What the server must say, by the path to ask."""
        facts: dict[str, Facts] = {}
        hours = self._reference.hours(HOURS_KEPT_DAYS)
        watch_ms_by_day: dict[str, Counter[int]] = defaultdict(Counter)
        for (slug, hour), watch_ms in hours.items():
            watch_ms_by_day[slug][hour // DAY_HOURS] += watch_ms
        for slug, pairs in self._pairs_by(1):
            facts[movie_path(slug)] = _movie_facts(pairs)
            viewers, plays = self._reference.retention(slug)
            facts[f"{movie_path(slug)}/retention"] = {"viewers": viewers, "plays": plays}
        for slug, by_day in watch_ms_by_day.items():
            facts |= _days_facts(slug, by_day)
        for user, pairs in self._pairs_by(0):
            facts[user_path(user)] = _user_facts(pairs)
            for path, slugs in (
                ("movies", self._reference.history(user)),
                ("continue", self._reference.continue_list(user)),
            ):
                newest = {"movies[].slug": slugs[:LISTED_MAX]}
                facts[f"{user_path(user)}/{path}?limit={LISTED_MAX}"] = newest
        for (user, slug), pair in self._reference.pairs.items():
            resume_ms = self._reference.resume_ms(user, slug)
            facts[f"{user_path(user)}/movies/{slug}"] = _pair_facts(pair, resume_ms)
        return facts

    def _pairs_by(self, part: int) -> Iterator[tuple[str, list[Pair]]]:
        """All pairs by user (part 0) or by slug (1)."""

        def name_of(item: tuple[tuple[str, str], Pair]) -> str:
            return item[0][part]

        for name, items in groupby(sorted(self._reference.pairs.items(), key=name_of), name_of):
            yield name, [pair for _, pair in items]


async def differences(expected: dict[str, Facts], ask: Ask) -> AsyncIterator[list[Difference]]:
    """For each path, once it has been asked, what is not as it must be."""
    async for path, found in answers_to(list(expected), ask):
        yield list(_compare(path, expected[path], found))


async def answers_to(paths: Sequence[str], ask: Ask) -> AsyncIterator[tuple[str, Facts | None]]:
    """Each path and its answer, in order."""
    for start in range(0, len(paths), QUESTIONS_MAX):
        asked = paths[start : start + QUESTIONS_MAX]
        for path, answer in zip(asked, await asyncio.gather(*map(ask, asked)), strict=True):
            yield path, answer


def movie_path(slug: str) -> str:
    return f"v1/movies/{slug}"


def user_path(user: str) -> str:
    return f"v1/users/{user}"


def _movie_facts(pairs: list[Pair]) -> Facts:
    return {
        "watch_seconds": _seconds(sum(pair.watch_ms for pair in pairs)),
        "viewers": len(pairs),
        "views": sum(pair.views for pair in pairs),
        "completions": sum(pair.completed_t is not None for pair in pairs),
        "events": sum(pair.events for pair in pairs),
    }


def _days_facts(slug: str, watch_ms_by_day: Mapping[int, int]) -> dict[str, Facts]:
    first, end = min(watch_ms_by_day), max(watch_ms_by_day) + 1
    dates = [datetime.fromtimestamp(day * DAY_HOURS * 3600, UTC) for day in (first, end)]
    span = f"from={dates[0]:%Y-%m-%d}&to={dates[1]:%Y-%m-%d}"
    sums = [_seconds(watch_ms_by_day.get(day, 0)) for day in range(first, end)]
    return {f"{movie_path(slug)}/timeseries?step=day&{span}": {"points[].watch_seconds": sums}}


def _user_facts(pairs: list[Pair]) -> Facts:
    return {
        "watch_seconds": _seconds(sum(pair.watch_ms for pair in pairs)),
        "movies": len(pairs),
        "completed": sum(pair.completed_t is not None for pair in pairs),
        "events": sum(pair.events for pair in pairs),
    }


def _pair_facts(pair: Pair, resume_ms: int) -> Facts:
    return {
        "watch_seconds": _seconds(pair.watch_ms),
        "unique_seconds": _seconds(pair.unique_ms()),
        "latest.at": _seconds(pair.latest_ms),
        "furthest": _seconds(pair.furthest_ms),
        "resume_at": _seconds(resume_ms),
        "completed": pair.completed_t is not None,
        "views": pair.views,
        "events": pair.events,
        "duration": _seconds(pair.duration_ms) if pair.duration_ms else None,
    }


def _compare(path: str, expected: Facts, answer: Facts | None) -> Iterator[Difference]:
    if answer is None:
        yield Difference(path, "known", expected=True, found=False)
        return
    for fact, value in expected.items():
        found = _look_up(answer, fact.split("."))
        if found != value:
            yield Difference(path, fact, value, found)


def _look_up(answer: Any, keys: list[str]) -> Any:
    """What is at `keys`; one that ends with [] is a list, of whose items the rest is."""
    for index, key in enumerate(keys):
        answer = answer.get(key.removesuffix("[]")) if isinstance(answer, dict) else None
        if key.endswith("[]") and isinstance(answer, list):
            return [_look_up(item, keys[index + 1 :]) for item in answer]
    return answer


def _to_ms(seconds: float) -> int:
    return round(seconds * 1000)


def _seconds(ms: int) -> float:
    return ms / 1000


def _unix_ms(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
