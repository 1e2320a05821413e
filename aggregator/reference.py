"""The rules of watch time for one event at a time, as plainly as they can be said.

`kernels.watching` is what runs; this is what it must equal. The numbers
in comments are those of the rules in docs/watch-time.md.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.rules import WATCHING_NOW_MS, Rules, hour_kept
from kernels.rows import BUCKET_MS, HOUR_MS

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
    latest_order: int = -1
    furthest_ms: int = 0
    duration_ms: int = 0
    completed_t: int | None = None
    first_t: int | None = None
    begun_again: bool = False
    hidden: bool = False
    views: int = 0
    events: int = 0
    version: int = 0
    streams: dict[str, Stream] = field(default_factory=dict)
    closed_runs: list[Interval] = field(default_factory=list)
    hours: Counter[int] = field(default_factory=Counter)

    def runs(self) -> list[Interval]:
        """All runs that cover anything, the open ones included."""
        still_open = [(s.run_start, s.last_at) for s in self.streams.values()]
        return [run for run in self.closed_runs + still_open if run[1] > run[0]]

    def unique_ms(self) -> int:
        return sum(end - start for start, end in union(self.runs()))


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over pairs: of a movie, or of a user (`pairs` are its movies)."""

    watch_ms: int
    viewers: int
    pairs: int
    views: int
    completions: int
    events: int


class Reference:
    """All pairs, by (user, slug)."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.pairs: dict[tuple[str, str], Pair] = {}
        #: The catalogue's duration, 0 for none, and title.
        self.catalogue: dict[str, tuple[int, str | None]] = {}
        self._ids: set[tuple[str, str]] = set()
        self._order = 0
        self._received_ms = 0

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
        pair = self._change(user, slug)
        self._received_ms = max(self._received_ms, received_ms)
        credit = self._credit(pair, session, at_ms, t)
        pair.watch_ms += credit
        if credit:
            pair.hours[t // HOUR_MS] += credit
        pair.events += 1
        pair.first_t = t if pair.first_t is None else min(t, pair.first_t)
        pair.hidden = False
        pair.furthest_ms = max(pair.furthest_ms, at_ms)
        if t >= pair.latest_t:
            pair.latest_ms, pair.latest_t, pair.latest_order = at_ms, t, self._order
        pair.duration_ms = duration_ms or pair.duration_ms
        if pair.completed_t is not None:
            pair.begun_again |= t >= pair.completed_t
        elif self._is_complete(pair, slug, at_ms):
            pair.completed_t = t
        return True

    def set_position(self, user: str, slug: str, at_ms: int, received_ms: int) -> None:
        """Sets the latest moment by hand."""
        pair = self._change(user, slug)
        pair.latest_ms, pair.latest_t, pair.latest_order = at_ms, received_ms, self._order

    def mark_completed(self, user: str, slug: str, received_ms: int) -> None:
        """Completes by hand; of a movie never watched, the latest moment is its start, now."""
        is_new = (user, slug) not in self.pairs
        pair = self._change(user, slug)
        if is_new:
            pair.latest_t, pair.latest_order = received_ms, self._order
        if pair.completed_t is None:
            pair.completed_t = received_ms
        pair.begun_again = False

    def unmark_completed(self, user: str, slug: str) -> None:
        pair = self._change(user, slug)
        pair.completed_t, pair.begun_again = None, False

    def hide(self, user: str, slug: str) -> None:
        self._change(user, slug).hidden = True

    def describe(self, slug: str, duration_ms: int, title: str | None) -> None:
        """Replaces the catalogue entry; a duration of 0 is unknown."""
        self.catalogue[slug] = (duration_ms, title)

    def erase(self, user: str, slug: str | None = None) -> None:
        """Forgets a pair, or all of a user; ids stay known, so nothing erased comes back."""
        self.pairs = {
            key: pair
            for key, pair in self.pairs.items()
            if key[0] != user or (slug is not None and key[1] != slug)
        }

    def _change(self, user: str, slug: str) -> Pair:
        pair = self.pairs.setdefault((user, slug), Pair())
        pair.version += 1
        self._order += 1
        return pair

    def _is_complete(self, pair: Pair, slug: str, at_ms: int) -> bool:
        duration_ms = self._duration_ms(pair, slug)
        return (
            self.rules.credit == "position"
            and duration_ms > 0
            and self.rules.is_complete(at_ms, duration_ms)
        )

    def _duration_ms(self, pair: Pair, slug: str) -> int:
        """The pair's own, else the catalogue's, else 0."""
        return pair.duration_ms or self.catalogue.get(slug, (0, None))[0]

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

    def duration_ms(self, user: str, slug: str) -> int:
        return self._duration_ms(self.pairs[user, slug], slug)

    def resume_ms(self, user: str, slug: str) -> int:
        return self.rules.resume_ms(self.pairs[user, slug].latest_ms, self.duration_ms(user, slug))

    def history(self, user: str) -> list[str]:
        """The user's movies, newest first."""
        pairs = [(slug, pair) for (u, slug), pair in self.pairs.items() if u == user]
        pairs.sort(key=lambda item: (item[1].latest_t, item[1].latest_order), reverse=True)
        return [slug for slug, _ in pairs]

    def continue_list(self, user: str) -> list[str]:
        """What there is to go on with, newest first."""
        if self.rules.credit == "duration":
            return []
        return [
            slug
            for slug in self.history(user)
            if self.resume_ms(user, slug) > 0
            and not (pair := self.pairs[user, slug]).hidden
            and (pair.completed_t is None or pair.begun_again)
        ]

    def hours(self, kept_days: int) -> Counter[tuple[str, int]]:
        """Watch time by movie and UTC hour; old hours fold into the first one of their day."""
        hours: Counter[tuple[str, int]] = Counter()
        for (_, slug), pair in self.pairs.items():
            for hour, credit in pair.hours.items():
                hours[slug, hour_kept(hour, self._received_ms, kept_days)] += credit
        return hours

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
        if self.rules.credit == "duration":
            return [], []
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
        viewers=sum(pair.events > 0 for pair in rows),
        pairs=len(rows),
        views=sum(pair.views for pair in rows),
        completions=sum(pair.completed_t is not None for pair in rows),
        events=sum(pair.events for pair in rows),
    )
