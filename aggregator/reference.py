"""The rules of watch time for one event at a time, as plainly as they can be said.

The vector code in `state` is what runs; this is what it must equal. The numbers
in comments are those of the rules in docs/watch-time.md.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.rules import BUCKET_MS, HOUR_MS, WATCHING_NOW_MS, Rules

Interval = tuple[int, int]


@dataclass(slots=True)
class Stream:
    """The events of one (user, slug, session): where the last one was, and the open run."""

    last_t: int
    last_at: int
    run_start: int


@dataclass(slots=True)
class Pair:
    """One user and one movie. Milliseconds; `completed_t` is None until it is complete."""

    watch_ms: int = 0
    latest_ms: int = 0
    latest_t: int = -1
    furthest_ms: int = 0
    duration_ms: int = 0
    completed_t: int | None = None
    views: int = 0
    events: int = 0
    streams: dict[str, Stream] = field(default_factory=dict)
    closed_runs: list[Interval] = field(default_factory=list)

    def runs(self) -> list[Interval]:
        """All runs that cover anything, the open ones included."""
        still_open = [(s.run_start, s.last_at) for s in self.streams.values()]
        return [run for run in self.closed_runs + still_open if run[1] > run[0]]

    def unique_ms(self) -> int:
        return sum(end - start for start, end in union(self.runs()))


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over pairs: of a movie (`pairs` are its viewers) or of a user (its movies)."""

    watch_ms: int
    pairs: int
    views: int
    completions: int
    events: int


class Reference:
    """All pairs, by (user, slug)."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.pairs: dict[tuple[str, str], Pair] = {}
        self.hours: Counter[tuple[str, int]] = Counter()
        self._ids: set[tuple[str, str]] = set()

    def apply(
        self,
        user: str,
        slug: str,
        at_ms: int,
        received_ms: int,
        session: str = "",
        id: str | None = None,
        ts_ms: int | None = None,
        duration_ms: int = 0,
    ) -> bool:
        """Counts one event; False if its id was seen before."""
        if id is not None:
            if (user, id) in self._ids:
                return False
            self._ids.add((user, id))
        t = received_ms if ts_ms is None else min(ts_ms, received_ms)
        pair = self.pairs.setdefault((user, slug), Pair())
        credit = self._credit(pair, session, at_ms, t)
        pair.watch_ms += credit
        if credit:
            self.hours[slug, t // HOUR_MS * HOUR_MS] += credit
        pair.events += 1
        pair.furthest_ms = max(pair.furthest_ms, at_ms)
        if t >= pair.latest_t:
            pair.latest_ms, pair.latest_t = at_ms, t
        pair.duration_ms = duration_ms or pair.duration_ms
        if (
            self.rules.credit == "position"
            and pair.completed_t is None
            and pair.duration_ms
            and self.rules.is_complete(at_ms, pair.duration_ms)
        ):
            pair.completed_t = t
        return True

    def _credit(self, pair: Pair, session: str, at_ms: int, t: int) -> int:
        stream = pair.streams.get(session)
        if stream is None:  # 1
            pair.views += 1
            pair.streams[session] = Stream(t, at_ms, at_ms)
            return at_ms if self.rules.credit == "duration" else 0
        if self.rules.credit == "duration":
            pair.views += t > stream.last_t + self.rules.idle_ms
            stream.last_t = max(t, stream.last_t)
            return at_ms
        if t < stream.last_t:  # 2
            return 0
        step = at_ms - stream.last_at
        is_idle = t - stream.last_t > self.rules.idle_ms
        continues = not is_idle and 0 <= step <= self.rules.max_gap_ms
        pair.views += is_idle  # 3
        if not continues:  # 3, 4
            pair.closed_runs.append((stream.run_start, stream.last_at))
            stream.run_start = at_ms
        stream.last_t, stream.last_at = t, at_ms
        return step if continues else 0

    def resume_ms(self, user: str, slug: str) -> int:
        pair = self.pairs[user, slug]
        return self.rules.resume_ms(pair.latest_ms, pair.duration_ms)

    def movie(self, slug: str) -> Totals:
        return _sum(pair for (_, s), pair in self.pairs.items() if s == slug)

    def user(self, user: str) -> Totals:
        return _sum(pair for (u, _), pair in self.pairs.items() if u == user)

    def watching_now(self, slug: str, now_ms: int) -> int:
        return sum(
            stream.last_t >= now_ms - WATCHING_NOW_MS
            for (_, s), pair in self.pairs.items()
            if s == slug
            for stream in pair.streams.values()
        )

    def retention(self, slug: str) -> tuple[list[int], list[int]]:
        """Viewers and plays of each bucket, up to the last one that has a viewer."""
        viewers: Counter[int] = Counter()
        plays: Counter[int] = Counter()
        for (_, s), pair in self.pairs.items():
            if s == slug:
                covered = [buckets(run) for run in pair.runs()]
                plays.update(bucket for run in covered for bucket in run)
                viewers.update({bucket for run in covered for bucket in run})
        width = max(viewers, default=-1) + 1
        return [viewers[k] for k in range(width)], [plays[k] for k in range(width)]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same ground in disjoint intervals, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def buckets(run: Interval) -> range:
    """The retention buckets of which a run covers a part of positive length."""
    start, end = run
    return range(start // BUCKET_MS, (end - 1) // BUCKET_MS + 1) if end > start else range(0)


def _sum(pairs: Iterable[Pair]) -> Totals:
    rows = list(pairs)
    return Totals(
        watch_ms=sum(pair.watch_ms for pair in rows),
        pairs=len(rows),
        views=sum(pair.views for pair in rows),
        completions=sum(pair.completed_t is not None for pair in rows),
        events=sum(pair.events for pair in rows),
    )
