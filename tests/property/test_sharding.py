"""The same traffic, to 1, 2 and 5 shards: the answers are the same, also after crashes."""

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.event import Event
from aggregator.messages import (
    ContinueQuery,
    HistoryQuery,
    HoursQuery,
    Place,
    Sort,
    TopQuery,
)
from aggregator.router import Router, shard_of
from aggregator.rules import Rules
from aggregator.shard import Shard
from kernels.rows import HOUR_MS
from tests.disk import never_syncing
from tests.shards import Clock, crash, router_of, settings_of, watch

SHARDS = (1, 2, 5)
KEPT_DAYS = 2
NAMES = ["a", "b", "c", "e", "g"]
MOVIES = ["x", "y", "z"]
SORTS: tuple[Sort, ...] = ("watch_seconds", "viewers", "views", "completions")

USERS, SLUGS = st.sampled_from(NAMES), st.sampled_from(MOVIES)
LATENESS_MS = st.sampled_from([None, None, 0, 5_000, HOUR_MS, 30 * HOUR_MS, 90 * HOUR_MS])
EVENTS = st.tuples(
    st.builds(
        Event,
        USERS,
        SLUGS,
        st.integers(0, 12).map(lambda n: n * 20.0),
        session=st.sampled_from([None, None, "tv"]),
        duration=st.sampled_from([None, None, 250.0]),
    ),
    LATENESS_MS,
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        SetPosition,
        USERS,
        SLUGS,
        st.sampled_from([0, 5_000, 120_000, 240_000]),
        st.sampled_from([None, None, [], [1], [2, 3]]),
    ),
    st.builds(MarkCompleted, USERS, SLUGS),
    st.builds(MarkCompleted, USERS, SLUGS),
    st.builds(UnmarkCompleted, USERS, SLUGS),
    st.builds(Hide, USERS, SLUGS),
    st.builds(Erase, USERS, st.sampled_from([None, *MOVIES])),
    st.builds(Describe, SLUGS, st.sampled_from([None, 250_000]), st.sampled_from([None, "Title"])),
)


@dataclass(frozen=True)
class Upload:
    events: list[tuple[Event, int | None]]
    key: str | None


#: Someone plays on, which random positions hardly ever make up.
PLAYS = st.builds(
    lambda user, slug, start, late_ms: [
        (event, late_ms) for event in watch(user, slug, start * 20, start * 20 + 60, 20)
    ],
    USERS,
    SLUGS,
    st.integers(0, 12),
    LATENESS_MS,
)
UPLOADS = st.builds(
    Upload,
    st.lists(EVENTS, min_size=1, max_size=8) | PLAYS,
    st.sampled_from([None, None, "k", "l"]),
)
STEPS = st.one_of(
    UPLOADS, UPLOADS, UPLOADS, COMMANDS, COMMANDS, st.sampled_from(["checkpoint", "crash", "ask"])
)
RULES = st.sampled_from([Rules(), Rules(), Rules(credit="duration")])
PAUSES_MS = st.sampled_from([0, 0, 1, 20_000, 60_000, 1_800_001, 25 * HOUR_MS, 80 * HOUR_MS])


def test_the_names_are_on_all_shards() -> None:
    assert {shard_of(name, 5) for name in NAMES} == set(range(5))
    assert {shard_of(name, 2) for name in NAMES} == {0, 1}


class Site:
    """Stands for a shard that may end and come back."""

    def __init__(self, folder: Path, number: int, rules: Rules, clock: Clock) -> None:
        self._settings = settings_of(
            folder,
            number,
            rules=rules,
            segment_bytes=2_000,
            hours_kept_days=KEPT_DAYS,
        )
        self._clock = clock
        self._open()

    def _open(self) -> None:
        self.shard = Shard(self._settings, self._clock)

    async def handle(self, frame: bytes) -> bytes:
        return await self.shard.handle(frame)

    async def crash(self) -> None:
        crash(self.shard)
        self._open()


async def carry_out(router: Router, step: Any, now_ms: int) -> Any:
    if isinstance(step, Upload):
        events = [
            Event(
                event.user,
                event.slug,
                event.at,
                event.session,
                None,
                None if late_ms is None else float(now_ms - late_ms),
                event.duration,
            )
            for event, late_ms in step.events
        ]
        return await router.submit(events, step.key, 100)
    if isinstance(step, Describe):
        return await router.describe(step)
    return await router.command(step)


async def answers(router: Router, now_ms: int) -> dict[Any, Any]:
    """All that can be asked, by what it is."""
    found: dict[Any, Any] = {"movies": await router.movies([*MOVIES, "?"])}
    for user in NAMES:
        found["user", user] = await router.user(user)
        found["continue", user] = await router.continue_list(ContinueQuery(user, 2))
        for limit in (1, 2):
            found["history", user, limit] = await history(router, user, limit)
        for slug in MOVIES:
            found["progress", user, slug] = await router.progress(user, slug)
    for slug in MOVIES:
        curves = await router.retention(slug)
        found["retention", slug] = curves and [curve.tolist() for curve in curves]
        for back, ahead in ((200, 1), (77, -30)):  # whole days, and parts of them
            hour = now_ms // HOUR_MS
            hours = await router.hours(HoursQuery(slug, hour - back, hour + ahead))
            found["hours", slug, back] = None if hours is None else hours.tolist()
    for limit in (1, 2, 20):
        for sort in SORTS:
            found["top", sort, limit] = await router.top(TopQuery(sort, limit))
        for hours_back in (0, 24):
            query = TopQuery("watch_seconds", limit, now_ms // HOUR_MS - hours_back)
            found["window", hours_back, limit] = await router.top(query)
    return found


async def history(router: Router, user: str, limit: int) -> list[Any]:
    pages, after = [], None
    while True:
        page = await router.history(HistoryQuery(user, limit, after))
        pages.append(page and page.movies)
        if page is None or page.next is None:
            return pages
        assert isinstance(page.next, Place)
        after = page.next


async def live(folder: Path, rules: Rules, steps: Sequence[tuple[int, Any]]) -> None:
    clock = Clock()
    async with AsyncExitStack() as stack:
        sites = [
            [Site(folder / str(shards), number, rules, clock) for number in range(shards)]
            for shards in SHARDS
        ]
        routers = [await stack.enter_async_context(router_of(site)) for site in sites]
        places = [place for site in sites for place in site]
        for pause_ms, step in [*steps, (0, "ask"), (0, "crash"), (0, "ask")]:
            clock.now_ms += pause_ms
            if step == "checkpoint":
                for place in places:
                    await place.shard.checkpoint()
            elif step == "crash":
                for place in places:
                    await place.crash()
            elif step == "ask":
                one, *others = [await answers(router, clock.now_ms) for router in routers]
                for shards, other in zip(SHARDS[1:], others, strict=True):
                    assert other == one, f"{shards} shards differ from 1"
            else:
                one, *others = [await carry_out(router, step, clock.now_ms) for router in routers]
                assert others == [one, one]
        for place in places:
            crash(place.shard)


@settings(max_examples=30)
@given(RULES, st.lists(st.tuples(PAUSES_MS, STEPS), max_size=30))
def test_answers_do_not_depend_on_the_number_of_shards(
    rules: Rules, steps: list[tuple[int, Any]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="playhead-sharding-") as folder, never_syncing():
        asyncio.run(live(Path(folder), rules, steps))
