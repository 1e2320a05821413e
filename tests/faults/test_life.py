"""A data directory through all that can happen to it, against the model."""

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
from aggregator.router import shard_of
from aggregator.rules import Rules
from kernels.rows import HOUR_MS
from tests.disk import KilledError, failing_at, files_with, never_syncing
from tests.faults.conftest import rounds
from tests.faults.data import Data, Model
from tests.shards import facts_kept

#: Names that are found in no file by chance.
NAMES = ["anna-2f91", "bert-77c0", "cleo-5d3e", "dora-e184", "emil-09ab"]
MOVIES = ["x", "y"]
USERS, SLUGS = st.sampled_from(NAMES), st.sampled_from(MOVIES)
KEYS = st.sampled_from([None, None, "k", "l"])
EVENTS = st.lists(
    st.builds(
        Event,
        USERS,
        SLUGS,
        st.integers(0, 12).map(lambda n: n * 20.0),
        session=st.sampled_from([None, None, "tv"]),
        id=st.sampled_from([None, None, "1", "2", "3"]),
        ts=st.sampled_from([None, None, 0.0, 5_000.0, 60_000.0, 1_800_001.0, 70.0 * HOUR_MS]),
        duration=st.sampled_from([None, None, 250.0]),
    ),
    min_size=1,
    max_size=8,
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        SetPosition,
        USERS,
        SLUGS,
        st.sampled_from([0, 5_000, 120_000, 240_000]),
        st.sampled_from([None, None, [], [1], [2, 3, 4]]),
    ),
    st.builds(MarkCompleted, USERS, SLUGS),
    st.builds(UnmarkCompleted, USERS, SLUGS),
    st.builds(Hide, USERS, SLUGS),
    st.builds(Erase, USERS, SLUGS),
    st.builds(Erase, USERS),
)
PAUSES_MS = st.sampled_from([0, 1_000, 20_000, 60_000, 1_800_001])
STEPS_MS = st.sampled_from([-90 * HOUR_MS, -HOUR_MS, -5_000, 5_000, HOUR_MS, 25 * HOUR_MS])
SHARDS = st.integers(1, 3)
#: Also for making a failure short.
pytestmark = pytest.mark.timeout(rounds(600))
#: There are about as many steps in an append, in a recovery, a checkpoint, and a new split.
IN_AN_APPEND, IN_A_RECOVERY = st.integers(1, 6), st.integers(1, 16)
IN_A_CHECKPOINT, IN_A_SPLIT = st.integers(1, 110), st.integers(1, 300)


def test_the_names_are_on_all_shards() -> None:
    for shards in (1, 2, 3):
        assert {shard_of(name, shards) for name in NAMES} == set(range(shards))


def test_a_split_keeps_an_entry_of_the_catalogue_once(tmp_path: Path) -> None:
    data = Data(tmp_path / "data", Model(2))
    with never_syncing():
        data.open()
        data.order(Describe("x", 250_000, "Title"))
        for shards in (3, 2):
            data.split(shards)
        kinds = [row["kind"] for row in facts_kept(data.shards[0]).to_pylist()]
        data.end()
    assert kinds == ["movie"]


class Life(RuleBasedStateMachine):
    """What was acknowledged is counted, once, whatever happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="playhead-life-"))
        self.syncing = never_syncing()
        self.syncing.__enter__()

    @initialize(
        shards=SHARDS,
        rules=st.sampled_from([Rules(), Rules(), Rules(max_gap_ms=0, credit="duration")]),
        is_audited=st.sampled_from([False, False, True]),
    )
    def begin(self, shards: int, rules: Rules, is_audited: bool) -> None:
        """The audit takes longer than a life: it comes after a third of them."""
        self.is_audited = is_audited
        self.model = Model(shards, rules)
        self.data = Data(self.folder / "data", self.model)
        self.data.open()

    # Traffic

    @rule(events=EVENTS, key=KEYS, pause_ms=PAUSES_MS)
    def submit(self, events: list[Event], key: str | None, pause_ms: int) -> None:
        self.model.clock.now_ms += pause_ms
        self.data.submit(self.dated(events), key)

    @rule(commands=st.lists(COMMANDS, min_size=1, max_size=4), pause_ms=PAUSES_MS)
    def order(self, commands: list[Command], pause_ms: int) -> None:
        self.model.clock.now_ms += pause_ms
        for shard, part in self.data.by_shard(commands, lambda command: command.user):
            self.data.order_of(shard, *part)

    @rule(
        slug=SLUGS,
        duration_ms=st.sampled_from([None, 250_000]),
        title=st.sampled_from([None, "Title"]),
    )
    def describe(self, slug: str, duration_ms: int | None, title: str | None) -> None:
        """At a time of its own in all shards, which are in agreement only then."""
        newest_ms = max(shard.received_ms for shard in self.model.shards)
        self.model.clock.now_ms = max(newest_ms, self.model.clock.now_ms) + 1
        self.data.order(Describe(slug, duration_ms, title))
        self.model.clock.now_ms += 1

    @rule()
    def resend(self) -> None:
        self.data.resend()

    @rule(step_ms=STEPS_MS)
    def step_the_clock(self, step_ms: int) -> None:
        self.model.clock.now_ms += step_ms

    @rule(user=USERS, events=EVENTS, key=KEYS, step=IN_AN_APPEND, pause_ms=PAUSES_MS)
    def die_in_an_append(
        self, user: str, events: list[Event], key: str | None, step: int, pause_ms: int
    ) -> None:
        """The sender has no answer, or does not get it; it sends again."""
        self.model.clock.now_ms += pause_ms
        shard = self.data.shard_of(user)
        events = [event for event in self.dated(events) if self.data.shard_of(event.user) == shard]
        if not events:
            return
        with failing_at(step, KilledError()):
            frame, _ = self.data.begin_to_submit(shard, events, key)
        self.data.crash_and_open()
        self.data.submit_again(shard, frame, events, key)

    # Checkpoints

    @rule(user=USERS, events=st.none() | EVENTS)
    def checkpoint(self, user: str, events: list[Event] | None) -> None:
        """Also while events come; of those who were erased nothing is left."""
        number = self.data.shard_of(user)
        shard = self.data.shards[number]
        erasing = bool(shard._checkpoints.erasing)
        own = [e for e in self.dated(events or []) if self.data.shard_of(e.user) == number]
        if own:
            self.data.submit_while(number, own, shard.checkpoint())
            return
        self.data.run(shard.checkpoint())
        assert shard._checkpoints.sequence == shard._applied_sequence
        if erasing:
            self.check_that_the_erased_are_gone(number)

    @rule(user=USERS, step=IN_A_CHECKPOINT)
    def die_in_a_checkpoint(self, user: str, step: int) -> None:
        shard = self.data.shards[self.data.shard_of(user)]
        with failing_at(step, KilledError()), contextlib.suppress(KilledError):
            self.data.run(shard.checkpoint())
        self.data.crash_and_open()

    @rule(user=USERS, step=IN_A_CHECKPOINT)
    def fail_in_a_checkpoint(self, user: str, step: int) -> None:
        shard = self.data.shards[self.data.shard_of(user)]
        with failing_at(step, OSError(errno.EIO, "Input/output error")):
            self.data.run(shard.checkpoint())

    # Ends and starts

    @rule()
    def crash(self) -> None:
        self.data.crash_and_open()
        self.data.check_facts()

    @rule(step=IN_A_RECOVERY)
    def crash_and_die_in_the_recovery(self, step: int) -> None:
        self.data.crash()
        with failing_at(step, KilledError()), contextlib.suppress(KilledError):
            self.data.open()
        self.data.crash_and_open()

    @rule()
    def stop_and_start(self) -> None:
        self.data.close()
        self.data.open()
        assert not any(shard._checkpoints.erasing for shard in self.data.shards)

    @rule(shards=SHARDS)
    def split(self, shards: int) -> None:
        self.data.split(shards)
        self.check_that_the_erased_are_gone()

    @rule(shards=SHARDS, step=IN_A_SPLIT)
    def die_in_a_split(self, shards: int, step: int) -> None:
        self.data.crash()
        generation = self.data.manifest().generation
        with failing_at(step, KilledError()), contextlib.suppress(KilledError):
            self.data.regenerate(shards)
        if self.data.manifest().generation > generation:
            self.model.split(shards)
        self.data.open()

    # What must be

    @invariant()
    def every_answer_is_as_in_the_model(self) -> None:
        self.data.check()

    def check_that_the_erased_are_gone(self, shard: int | None = None) -> None:
        present = {user for user, _ in self.model.reference.pairs}
        for user in set(NAMES) - present:
            if shard in (None, self.data.shard_of(user)):
                assert files_with(self.folder, user) == []

    def dated(self, events: list[Event]) -> list[Event]:
        """The events with a `ts` in place of how late they are."""
        return [
            event
            if event.ts is None
            else Event(
                event.user,
                event.slug,
                event.at,
                event.session,
                event.id,
                self.model.clock.now_ms - event.ts,
                event.duration,
            )
            for event in events
        ]

    def teardown(self) -> None:
        try:
            self.data.check_facts()
            self.data.crash_and_open()
            self.data.check()
            if self.is_audited:
                self.data.audit()
        finally:
            self.data.end()
            self.syncing.__exit__(None, None, None)
            shutil.rmtree(self.folder)


Life.TestCase.settings = settings(max_examples=rounds(20), stateful_step_count=30, print_blob=True)
TestLife = Life.TestCase
