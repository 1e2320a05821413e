"""Simulated people: the same for the same seed, and doing all that real ones do."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from statistics import quantiles

import pytest

from benchmarks.player import BREAK_S, HEARTBEAT_MAX_S, HEARTBEAT_MIN_S, Heartbeat
from benchmarks.viewers import Viewers

BASE_36 = set("0123456789abcdefghijklmnopqrstuvwxyz")
#: Simulated seconds count from here in `ts`, so that `ts` show when something happened.
START_MS = 1_700_000_000_000
IDLE_S = 30 * 60
MAX_GAP_S = 60

Timed = tuple[float, Heartbeat]


def living(seed: int, users: int = 100, movies: int = 10, with_sessions: bool = True) -> Viewers:
    """Viewers in real time: their clock is that of the simulation."""
    viewers = Viewers(
        seed, users, movies, with_sessions, lambda: START_MS + round(viewers.now_s * 1000)
    )
    return viewers


def take(viewers: Viewers, events: int) -> list[Timed]:
    return [(now_s, beat) for now_s, beat in islice(viewers, events)]


@dataclass
class Playback:
    """The heartbeats of one session as they happened, each once, and as they were sent."""

    sent: list[Timed] = field(default_factory=list)

    @property
    def beats(self) -> list[tuple[float, Heartbeat]]:
        by_id = {beat.id: (_happened_s(beat), beat) for _, beat in self.sent}
        return sorted(by_id.values(), key=lambda one: one[0])

    @property
    def steps(self) -> list[float]:
        return [later.at - earlier.at for (_, earlier), (_, later) in pairwise(self.beats)]

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for (earlier, _), (later, _) in pairwise(self.beats)]

    @property
    def span_s(self) -> tuple[float, float]:
        return self.beats[0][0], self.beats[-1][0]


def _happened_s(beat: Heartbeat) -> float:
    assert beat.ts is not None
    return (beat.ts - START_MS) / 1000


@pytest.fixture(scope="module")
def sample() -> list[Timed]:
    return take(living(seed=1), 200_000)


@pytest.fixture(scope="module")
def playbacks(sample: list[Timed]) -> list[Playback]:
    """Those of players that stamp what they send, without the last ones, which go on."""
    found: dict[str, Playback] = defaultdict(Playback)
    for now_s, beat in sample:
        if beat.ts is not None and beat.session is not None:
            found[beat.session].sent.append((now_s, beat))
    return list(found.values())[:-100]


def test_same_seed_same_events() -> None:
    assert take(living(7), 5_000) == take(living(7), 5_000)


def test_other_seed_other_people() -> None:
    one, other = living(7), living(8)
    assert not set(one.users) & set(other.users)
    assert take(one, 100) != take(other, 100)


def test_names_are_short_and_base_36(sample: list[Timed]) -> None:
    names = {name for _, beat in sample for name in (beat.user, beat.slug)}
    assert {len(name) for name in names} == {12, 13}
    assert set().union(*names) <= BASE_36


def test_there_are_no_more_users_and_movies_than_asked_for(sample: list[Timed]) -> None:
    assert len({beat.user for _, beat in sample}) == 100
    assert len({beat.slug for _, beat in sample}) == 10


def test_some_movies_are_far_more_popular(sample: list[Timed]) -> None:
    viewers: dict[str, set[str | None]] = defaultdict(set)
    for _, beat in sample:
        viewers[beat.slug].add(beat.session)
    counts = sorted(len(sessions) for sessions in viewers.values())
    assert counts[-1] > 3 * counts[0]


def test_time_only_goes_forward(sample: list[Timed]) -> None:
    assert all(earlier <= later for (earlier, _), (later, _) in pairwise(sample))


def test_positions_lie_in_the_movie(sample: list[Timed]) -> None:
    lengths = {movie.slug: movie.length_s for movie in living(seed=1).catalogue.movies}
    assert all(0 <= beat.at <= lengths[beat.slug] for _, beat in sample)
    assert all(beat.duration in (None, lengths[beat.slug]) for _, beat in sample)
    assert any(beat.duration for _, beat in sample)


def test_heartbeats_come_every_5_to_10_seconds(playbacks: list[Playback]) -> None:
    gaps_s = [gap for playback in playbacks for gap in playback.gaps_s]
    assert min(gaps_s) > HEARTBEAT_MIN_S - 0.01
    assert quantiles(gaps_s, n=20)[18] < HEARTBEAT_MAX_S + 0.01


def test_the_position_advances_with_time(playbacks: list[Playback]) -> None:
    steady = [
        step == pytest.approx(gap, abs=0.01)
        for playback in playbacks
        for step, gap in zip(playback.steps, playback.gaps_s, strict=True)
    ]
    assert sum(steady) > 0.75 * len(steady)


def test_plain_events_have_user_slug_and_at_alone() -> None:
    for _, beat in take(living(1, with_sessions=False), 20_000):
        assert (beat.session, beat.id, beat.ts, beat.duration) == (None, None, None, None)


def test_a_users_events_all_have_a_ts_or_none_has(sample: list[Timed]) -> None:
    """Else what counts as their latest would depend on the exact time of receipt."""
    kinds = defaultdict(set)
    for _, beat in sample:
        kinds[beat.user].add((beat.id is None, beat.ts is None))
    assert set.union(*kinds.values()) == {(True, True), (False, False)}
    assert all(len(kind) == 1 for kind in kinds.values())


def test_ts_lies_in_the_past(sample: list[Timed]) -> None:
    assert all(beat.ts is None or _happened_s(beat) <= now_s + 0.001 for now_s, beat in sample)


# What people do. Each of these would fail if nobody did it.


def test_they_pause(playbacks: list[Playback]) -> None:
    assert any(step == 0 for playback in playbacks for step in playback.steps)


def test_they_seek_both_ways(playbacks: list[Playback]) -> None:
    steps = [step for playback in playbacks for step in playback.steps]
    assert any(step < 0 for step in steps)
    assert any(step > MAX_GAP_S for step in steps)


def test_they_fall_asleep(playbacks: list[Playback]) -> None:
    """For longer than ends a view, and then go on where they were."""
    gaps_s = [gap for playback in playbacks for gap in playback.gaps_s if gap > IDLE_S]
    assert gaps_s
    assert max(gaps_s) < BREAK_S[1] + HEARTBEAT_MAX_S


def test_they_leave(playbacks: list[Playback]) -> None:
    ends = [(p.beats[-1][1].at, _length_s(p)) for p in playbacks]
    assert any(at < 0.5 * length_s for at, length_s in ends)
    assert any(at == length_s for at, length_s in ends)


def test_they_watch_again_and_go_on(playbacks: list[Playback]) -> None:
    finished: set[tuple[str, str]] = set()
    starts_of_finished: set[float] = set()
    starts: set[float] = set()
    for playback in sorted(playbacks, key=lambda one: one.span_s):
        first, last = playback.beats[0][1], playback.beats[-1][1]
        pair = first.user, first.slug
        (starts_of_finished if pair in finished else starts).add(first.at)
        if last.at == _length_s(playback):
            finished.add(pair)
    assert 0 in starts_of_finished
    assert max(starts) > 0


def test_they_have_two_devices_on(playbacks: list[Playback]) -> None:
    by_user: dict[str, list[Playback]] = defaultdict(list)
    for playback in playbacks:
        if not _is_flight(playback):
            by_user[playback.beats[0][1].user].append(playback)
    is_same = [
        earlier.beats[0][1].slug == later.beats[0][1].slug
        for of_user in by_user.values()
        for earlier, later in pairwise(sorted(of_user, key=lambda one: one.span_s))
        if later.span_s[0] < earlier.span_s[1]
    ]
    assert 0.25 < sum(is_same) / len(is_same) < 0.75


def test_they_upload_later_in_order_or_not(playbacks: list[Playback]) -> None:
    uploads = [upload for p in playbacks if not _is_flight(p) for upload in _uploads(p.sent)]
    assert {_is_in_order(upload) for upload in uploads} == {True, False}


def test_they_watch_on_flights(playbacks: list[Playback]) -> None:
    """All of a movie at once, with a break of its own that ends a view."""
    flights = [playback for playback in playbacks if _is_flight(playback)]
    assert any(len(p.beats) > 100 for p in flights)
    assert any(max(p.gaps_s, default=0) > IDLE_S for p in flights)


def test_they_send_again(playbacks: list[Playback]) -> None:
    again = [p for p in playbacks if len(p.sent) > len(p.beats)]
    assert again
    for playback in again:
        copies: dict[str | None, Heartbeat] = {}
        assert all(copies.setdefault(beat.id, beat) == beat for _, beat in playback.sent)


def _length_s(playback: Playback) -> float:
    movies = {movie.slug: movie.length_s for movie in living(seed=1).catalogue.movies}
    return movies[playback.beats[0][1].slug]


def _is_flight(playback: Playback) -> bool:
    return len({now_s for now_s, _ in playback.sent}) == 1


def _uploads(sent: Iterable[Timed]) -> list[list[Heartbeat]]:
    """Heartbeats of several moments that were sent in one."""
    by_moment: dict[float, list[Heartbeat]] = defaultdict(list)
    for now_s, beat in sent:
        by_moment[now_s].append(beat)
    return [beats for beats in by_moment.values() if len(beats) > 1]


def _is_in_order(beats: list[Heartbeat]) -> bool:
    return all(_happened_s(earlier) <= _happened_s(later) for earlier, later in pairwise(beats))
