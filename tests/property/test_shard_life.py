"""A shard through all that can happen to it, against the model."""

import asyncio
import contextlib
import errno
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.event import Event, Part, to_batch
from aggregator.messages import Applied, Done, Reply, decode_reply, encode_commands, encode_events
from aggregator.reference import Reference
from aggregator.rules import HOUR_MS, Rules
from aggregator.shard import Shard
from tests import facts
from tests.comparison import facts_of_reference, facts_of_state
from tests.disk import KilledError, failing_at, files_with, never_syncing
from tests.shards import Clock, crash, export_pages, facts_kept, settings_of

T = TypeVar("T")

KEPT_DAYS = 2
#: Names that are found in no file by chance.
NAMES, MOVIES = ["anna-2f91", "bert-77c0"], ["x", "y"]
USERS, SLUGS = st.sampled_from(NAMES), st.sampled_from(MOVIES)
EVENTS = st.builds(
    Event,
    USERS,
    SLUGS,
    st.integers(0, 12).map(lambda n: n * 20.0),
    session=st.sampled_from([None, None, "tv"]),
    id=st.sampled_from([None, None, "1", "2", "3"]),
    ts=st.sampled_from([None, None, 0.0, 5_000.0, 60_000.0, 1_800_001.0, 70.0 * HOUR_MS]),
    duration=st.sampled_from([None, None, 250.0]),
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
    st.builds(Describe, SLUGS, st.sampled_from([None, 250_000]), st.sampled_from([None, "Title"])),
)
#: Of files, in a checkpoint; there are about as many.
STEPS = st.integers(1, 80)


def decide(reference: Reference, command: Command, now_ms: int) -> str:
    """Carries out a command in the model; its outcome."""
    if isinstance(command, Describe):
        reference.describe(command.slug, command.duration_ms or 0, command.title)
        return "done"
    if isinstance(command, Erase):
        before = len(reference.pairs)
        reference.erase(command.user, command.slug)
        return "done" if len(reference.pairs) < before else "unknown"
    user, slug = command.user, command.slug
    pair = reference.pairs.get((user, slug))
    match command:
        case SetPosition(_, _, at_ms, versions):
            if versions is not None and (
                pair is None or pair.version not in (versions or [pair.version])
            ):
                return "conflict"
            reference.set_position(user, slug, at_ms, now_ms)
        case MarkCompleted():
            reference.mark_completed(user, slug, now_ms)
        case _ if pair is None:
            return "unknown"
        case UnmarkCompleted():
            reference.unmark_completed(user, slug)
        case Hide():
            reference.hide(user, slug)
    return "done"


class ShardLife(RuleBasedStateMachine):
    """What was acknowledged is counted, once, whatever happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="playhead-life-"))
        self.syncing = never_syncing()
        self.syncing.__enter__()
        self.clock = Clock()
        self.keys: set[tuple[str, str]] = set()
        self.sequence = 0
        #: The last frame of each producer, and the reply to it.
        self.last: dict[int, tuple[bytes, Reply]] = {}
        self.loop = asyncio.new_event_loop()

    @initialize(rules=st.sampled_from([Rules(), Rules(), Rules(max_gap_ms=0, credit="duration")]))
    def begin(self, rules: Rules) -> None:
        self.reference = Reference(rules)
        self.shard = self.open()

    def open(self) -> Shard:
        settings = settings_of(
            self.folder,
            rules=self.reference.rules,
            segment_bytes=2_000,
            snapshot_events=40,
            hours_kept_days=KEPT_DAYS,
        )
        return Shard(settings, self.clock)

    def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def exchange(self, producer: int, frame: bytes) -> Reply:
        reply = decode_reply(self.run_async(self.shard.handle(frame)))
        self.last[producer] = (frame, reply)
        return reply

    @rule(
        events=st.lists(EVENTS, min_size=1, max_size=8),
        key=st.sampled_from([None, None, "k", "l"]),
        pause_ms=st.sampled_from([0, 1_000, 60_000, 1_800_001]),
    )
    def send(self, events: list[Event], key: str | None, pause_ms: int) -> None:
        self.clock.now_ms += pause_ms
        self.sequence += 1
        events = [self.dated(event) for event in events]
        batch = to_batch([Part(events, key)]).encode()
        reply = self.exchange(1, encode_events(1, self.sequence, batch))
        assert reply == Applied(self.clock.now_ms, self.expect(events, key))

    def dated(self, event: Event) -> Event:
        """The event with a `ts` in place of how late it is."""
        if event.ts is None:
            return event
        ts = self.clock.now_ms - event.ts
        return Event(event.user, event.slug, event.at, event.session, event.id, ts, event.duration)

    def expect(self, events: list[Event], key: str | None) -> list[int]:
        """Counts in the model; the indexes of those that are duplicates."""
        seen_before = {user for user, known in self.keys if known == key}
        duplicates = []
        for index, event in enumerate(events):
            if event.user in seen_before or not self.reference.apply(
                event.user,
                event.slug,
                round(event.at * 1000),
                self.clock.now_ms,
                event.session or "",
                event.id,
                None if event.ts is None else round(event.ts),
                round((event.duration or 0) * 1000),
            ):
                duplicates.append(index)
        if key is not None:
            self.keys |= {(event.user, key) for event in events}
        return duplicates

    @rule(
        commands=st.lists(COMMANDS, min_size=1, max_size=4),
        pause_ms=st.sampled_from([0, 1_000, 60_000]),
    )
    def order(self, commands: list[Command], pause_ms: int) -> None:
        self.clock.now_ms += pause_ms
        self.sequence += 1
        reply = self.exchange(2, encode_commands(2, self.sequence, commands))
        assert isinstance(reply, Done)
        assert reply.received_ms == self.clock.now_ms
        for command, outcome in zip(commands, reply.outcomes, strict=True):
            assert outcome.status == decide(self.reference, command, self.clock.now_ms)
            pair = None
            if not isinstance(command, Describe | Erase):
                pair = self.reference.pairs.get((command.user, command.slug))
            told = outcome.progress and (outcome.progress.version, outcome.progress.latest_ms)
            assert told == (pair and (pair.version, pair.latest_ms))

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def resend(self, data: st.DataObject) -> None:
        frame, reply = self.last[data.draw(st.sampled_from(sorted(self.last)))]
        assert decode_reply(self.run_async(self.shard.handle(frame))) == reply

    @rule()
    def crash_and_recover(self) -> None:
        self.end_tasks()
        crash(self.shard)
        self.shard = self.open()

    @rule()
    def stop_and_start(self) -> None:
        self.run_async(self.shard.close())
        self.shard = self.open()
        assert not self.shard._erasing

    @rule()
    def checkpoint(self) -> None:
        erasing = bool(self.shard._erasing)
        self.run_async(self.shard.checkpoint())
        assert self.shard._snapshot_sequence == self.shard._applied_sequence
        self.settle()
        for user in set(NAMES) - {user for user, _ in self.reference.pairs}:
            assert not erasing or files_with(self.folder, user) == []

    @rule(step=STEPS)
    def crash_in_a_checkpoint(self, step: int) -> None:
        self.settle()
        with failing_at(step, KilledError()), contextlib.suppress(KilledError):
            self.run_async(self.shard.checkpoint())
        self.crash_and_recover()

    @rule(step=STEPS)
    def fail_in_a_checkpoint(self, step: int) -> None:
        self.settle()
        with failing_at(step, OSError(errno.EIO, "Input/output error")):
            self.run_async(self.shard.checkpoint())

    @rule()
    def rebuild_from_facts(self) -> None:
        """What is stored and logged, counted anew, comes to the same."""
        self.settle()
        kept = facts_kept(self.shard).to_pylist()
        places = [(row.pop("sequence"), row.pop("index")) for row in kept]
        assert places == sorted(set(places))
        rebuilt = Reference(self.reference.rules)
        for row in kept:
            facts.apply(rebuilt, facts.Fact(**row))
        rebuilt._received_ms = self.reference._received_ms  # its last event may be erased
        expected = facts_of_reference(self.reference, KEPT_DAYS)
        assert facts_of_reference(rebuilt, KEPT_DAYS) == expected
        for user in NAMES:
            exported = [
                f for page in self.run_async(export_pages(self.shard, user, 7)) for f in page
            ]
            assert [(f.received_ms, f.kind, f.slug, f.at_ms) for f in exported] == [
                (row["received_ms"], row["kind"], row["slug"], row["at_ms"])
                for row in kept
                if row["user"] == user
            ]

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        assert facts_of_state(self.shard._state) == facts_of_reference(self.reference, KEPT_DAYS)

    def settle(self) -> None:
        """Waits for a checkpoint that is being written."""
        if self.shard._checkpointing is not None:
            self.run_async(asyncio.wait([self.shard._checkpointing]))

    def end_tasks(self) -> None:
        self.settle()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))

    def teardown(self) -> None:
        try:
            self.rebuild_from_facts()
        finally:
            self.end_tasks()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            crash(self.shard)
            self.syncing.__exit__(None, None, None)
            shutil.rmtree(self.folder)


ShardLife.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestShardLife = ShardLife.TestCase
