"""A shard through events, resends, crashes, restarts and snapshots, against the scalar model."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.event import Event, Part, to_batch
from aggregator.messages import Applied, decode_reply, encode_events
from aggregator.reference import Reference
from aggregator.shard import Shard
from tests.comparison import facts_of_reference, facts_of_state
from tests.shards import Clock, crash, settings_of

T = TypeVar("T")

EVENTS = st.builds(
    Event,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "y"]),
    st.integers(0, 12).map(lambda n: n * 20.0),
    session=st.sampled_from([None, None, "tv"]),
    id=st.sampled_from([None, None, "1", "2", "3"]),
    duration=st.sampled_from([None, None, 250.0]),
)


class ShardLife(RuleBasedStateMachine):
    """What was acknowledged is counted, once, whatever happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="playhead-life-"))
        self.clock = Clock()
        self.reference = Reference()
        self.keys: set[tuple[str, str]] = set()
        self.sequence = 0
        self.last: tuple[bytes, Applied] | None = None
        self.loop = asyncio.new_event_loop()
        self.shard = self.open()

    def open(self) -> Shard:
        return Shard(settings_of(self.folder, segment_bytes=2_000, snapshot_events=40), self.clock)

    def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    @rule(
        events=st.lists(EVENTS, min_size=1, max_size=8),
        key=st.sampled_from([None, None, "k", "l"]),
        pause_ms=st.sampled_from([0, 1_000, 60_000, 1_800_001]),
    )
    def send(self, events: list[Event], key: str | None, pause_ms: int) -> None:
        self.clock.now_ms += pause_ms
        self.sequence += 1
        frame = encode_events(1, self.sequence, to_batch([Part(events, key)]).encode())
        reply = decode_reply(self.run_async(self.shard.handle(frame)))
        assert isinstance(reply, Applied)
        assert reply.duplicates == self.expect(events, key)
        self.last = (frame, reply)

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
                None,
                round((event.duration or 0) * 1000),
            ):
                duplicates.append(index)
        if key is not None:
            self.keys |= {(event.user, key) for event in events}
        return duplicates

    @precondition(lambda self: self.last is not None)
    @rule()
    def resend(self) -> None:
        assert self.last is not None
        frame, reply = self.last
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

    @rule()
    def snapshot(self) -> None:
        self.run_async(self.shard.checkpoint())

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        assert facts_of_state(self.shard._state) == facts_of_reference(self.reference)

    def end_tasks(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))

    def teardown(self) -> None:
        self.end_tasks()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        crash(self.shard)
        shutil.rmtree(self.folder)


ShardLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestShardLife = ShardLife.TestCase
