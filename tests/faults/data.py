"""A data directory with all its shards in this process, and a scalar model of what it must hold."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aggregator import audit, recent
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
from aggregator.messages import (
    Applied,
    Done,
    Reply,
    decode_reply,
    encode_commands,
    encode_events,
)
from aggregator.recovery import PRODUCER_AGE_MS
from aggregator.reference import Reference
from aggregator.regeneration import regenerate
from aggregator.router import shard_of
from aggregator.rules import Rules
from aggregator.shard import Shard
from persistence.directory import DataDirectory, Manifest, read_manifest
from tests import comparison
from tests.comparison import facts_of_reference, facts_of_state
from tests.disk import KilledError, release_locks
from tests.facts import Fact
from tests.shards import Clock, crash, export_pages, facts_kept, settings_of, state_of

T = TypeVar("T")
#: A user, "id" or "key", and which.
Name = tuple[str, str, str]

KEPT_DAYS = 2
SEGMENT_BYTES = 2_000
#: Facts that are exported at a time: so few pages of anyone, as each reads all files.
PAGE = 40
#: A producer of events, and one of commands.
EVENTS, COMMANDS = 1, 2
_KINDS = {
    SetPosition: "position",
    MarkCompleted: "completed",
    UnmarkCompleted: "uncompleted",
    Hide: "hidden",
    Describe: "movie",
}


# The model


@dataclass
class Known:
    """What a shard remembers of ids and keys: for one day at least, until there were two others."""

    young: set[Name] = field(default_factory=set)
    old: set[Name] = field(default_factory=set)
    young_since_ms: int = 0

    def __contains__(self, name: Name) -> bool:
        return name in self.young or name in self.old

    def add(self, names: set[Name], received_ms: int) -> None:
        if names and self.young and received_ms - self.young_since_ms > recent.WINDOW_MS:
            self.old, self.young = self.young, set()
        if names and not self.young:
            self.young_since_ms = received_ms
        self.young |= names


@dataclass
class ModelShard:
    """What is each shard's own, besides the users it has."""

    received_ms: int = 0
    #: When the last event that counted was received: days are folded by it.
    counted_ms: int = 0
    known: Known = field(default_factory=Known)
    facts: list[Fact] = field(default_factory=list)


class Model:
    """All that was acknowledged, counted one by one; assumed to be right."""

    def __init__(self, shards: int = 1, rules: Rules | None = None) -> None:
        self.clock = Clock()
        self.reference = Reference(rules)
        self.shards = [ModelShard() for _ in range(shards)]
        #: How many frames were sent; and of each shard and producer the last, with its reply.
        self.frames = 0
        self.last: dict[tuple[int, int], tuple[bytes, Reply]] = {}

    def receive(self, shard: int) -> int:
        own = self.shards[shard]
        own.received_ms = max(own.received_ms, self.clock.now_ms)
        return own.received_ms

    def count(self, shard: int, events: list[Event], key: str | None) -> Applied:
        """Counts a frame of events; what the reply to it must be."""
        received_ms, own = self.receive(shard), self.shards[shard]
        keys = {(event.user, "key", key) for event in events} if key else set[Name]()
        repeated = {user for user, *_ in keys if (user, "key", key or "") in own.known}
        fresh = {name for name in keys if name not in own.known}
        duplicates = []
        for index, event in enumerate(events):
            name = (event.user, "id", event.id or "")
            if event.user in repeated or name in own.known or name in fresh:
                duplicates.append(index)
                continue
            if event.id:
                fresh.add(name)
            self._count(own, event, received_ms)
        own.known.add(fresh, received_ms)
        return Applied(received_ms, duplicates)

    def _count(self, own: ModelShard, event: Event, received_ms: int) -> None:
        fact = Fact(
            received_ms,
            "event",
            event.slug,
            event.user,
            event.session,
            round(event.at * 1000),
            None if event.ts is None else round(event.ts),
            None if event.duration is None else round(event.duration * 1000),
        )
        self.reference.apply(
            event.user,
            event.slug,
            fact.at_ms or 0,
            received_ms,
            event.session or "",
            ts_ms=fact.ts_ms,
            duration_ms=fact.duration_ms or 0,
        )
        own.facts.append(fact)
        own.counted_ms = received_ms

    def carry_out(self, shard: int, commands: list[Command]) -> list[str]:
        """Carries out a frame of commands; the outcome of each."""
        received_ms, own = self.receive(shard), self.shards[shard]
        outcomes = []
        for command in commands:
            outcomes.append(self._decide(command, received_ms))
            if isinstance(command, Erase):
                own.facts = [fact for fact in own.facts if not _is_erased(fact, command)]
            elif outcomes[-1] == "done":
                own.facts.append(_fact_of(command, received_ms))
        return outcomes

    def _decide(self, command: Command, received_ms: int) -> str:
        reference = self.reference
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
                reference.set_position(user, slug, at_ms, received_ms)
            case MarkCompleted():
                reference.mark_completed(user, slug, received_ms)
            case _ if pair is None:
                return "unknown"
            case UnmarkCompleted():
                reference.unmark_completed(user, slug)
            case Hide():
                reference.hide(user, slug)
        return "done"

    def split(self, shards: int) -> None:
        """As another number of shards has it: the facts in the order in which they came.

        It begins with a start, so who sent the last frames is gone.
        """
        old = self.shards
        facts = _without_repeats(
            sorted((f for own in old for f in own.facts), key=lambda fact: fact.received_ms)
        )
        young = {name for own in old for name in own.known.young}
        all_old = {name for own in old for name in own.known.old}
        since_ms = [own.known.young_since_ms for own in old if own.known.young]
        self.shards, self.last = [], {}
        for number in range(shards):
            own = [f for f in facts if f.user is None or shard_of(f.user, shards) == number]
            events = [fact.received_ms for fact in own if fact.kind == "event"]
            self.shards.append(
                ModelShard(
                    own[-1].received_ms if own else 0,
                    events[-1] if events else 0,
                    Known(set(young), all_old - young, min(since_ms, default=0)),
                    own,
                )
            )

    def answers(self, shard: int) -> comparison.Facts:
        """All that a shard must answer."""
        part = Reference(self.reference.rules)
        part.pairs = {
            (user, slug): pair
            for (user, slug), pair in self.reference.pairs.items()
            if shard_of(user, len(self.shards)) == shard
        }
        part.catalogue = self.reference.catalogue
        part._received_ms = self.shards[shard].counted_ms
        return facts_of_reference(part, KEPT_DAYS)


def _without_repeats(facts: list[Fact]) -> list[Fact]:
    """All shards had each entry of the catalogue."""
    kept, catalogue = [], dict[str, tuple[int | None, str | None]]()
    for fact in facts:
        entry = fact.duration_ms, fact.title
        if fact.kind != "movie" or catalogue.get(fact.slug) != entry:
            kept.append(fact)
        if fact.kind == "movie":
            catalogue[fact.slug] = entry
    return kept


def _is_erased(fact: Fact, erase: Erase) -> bool:
    return fact.user == erase.user and erase.slug in (None, fact.slug)


def _fact_of(command: Command, received_ms: int) -> Fact:
    return Fact(
        received_ms,
        _KINDS[type(command)],
        command.slug or "",
        getattr(command, "user", None),
        at_ms=getattr(command, "at_ms", None),
        duration_ms=getattr(command, "duration_ms", None),
        title=getattr(command, "title", None),
    )


# The real thing


class Data:
    """A data directory to `open`, which may make it. What is sent to it goes to the model too."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder, self.model = folder, model
        self._runner = asyncio.Runner()
        self.shards: list[Shard] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    # From start to end

    def open(self) -> None:
        rules = self.model.reference.rules
        self._directory = DataDirectory.open(self.folder, rules.as_dict(), len(self.model.shards))
        root = self._directory.manifest.root(self.folder)
        for number in range(self._directory.manifest.shards):
            settings = settings_of(
                root,
                number,
                rules=rules,
                segment_bytes=SEGMENT_BYTES,
                hours_kept_days=KEPT_DAYS,
            )
            self.shards.append(Shard(settings, self.model.clock))

    def crash(self) -> None:
        """Lets go of everything as a killed process does."""
        self._runner.run(_cancel_all())
        for shard in self.shards:
            crash(shard)
        self.shards = []
        release_locks(self.folder)

    def crash_and_open(self) -> None:
        self.crash()
        self.open()

    def close(self) -> None:
        """A clean stop."""
        for shard in self.shards:
            self.run(shard.close())
        self.shards = []
        self._directory.close()

    def end(self) -> None:
        """As `crash`, for good."""
        self.crash()
        self._runner.close()

    def split(self, shards: int) -> None:
        """Makes the data anew with so many shards, and opens it. It is stopped as killed."""
        self.crash()
        self.regenerate(shards)
        self.model.split(shards)
        self.open()

    def regenerate(self, shards: int) -> None:
        """What a start with another number of shards does first."""
        directory = DataDirectory.open(self.folder, rules=None)
        try:
            regenerate(directory, shards, self.model.reference.rules, KEPT_DAYS, lambda *_: None)
        finally:
            release_locks(self.folder)

    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    # Traffic

    def submit(self, events: list[Event], key: str | None = None) -> None:
        for shard, part in self.by_shard(events, lambda event: event.user):
            frame = self._frame_of(part, key)
            reply = self._exchange(shard, EVENTS, frame)
            expected = self.model.count(shard, part, key)
            assert reply == expected, f"{reply} in place of {expected}"

    def order(self, *commands: Command) -> None:
        """Each as a frame; what is no one's goes to all shards."""
        for command in commands:
            for shard in range(len(self.shards)):
                if isinstance(command, Describe) or self.shard_of(command.user) == shard:
                    self.order_of(shard, command)

    def order_of(self, shard: int, *commands: Command) -> None:
        """Commands of one shard, as one frame."""
        self.model.frames += 1
        frame = encode_commands(COMMANDS, self.model.frames, [*commands])
        reply = self._exchange(shard, COMMANDS, frame)
        assert isinstance(reply, Done)
        assert [each.status for each in reply.outcomes] == self.model.carry_out(shard, [*commands])
        assert reply.received_ms == self.model.shards[shard].received_ms

    def submit_while(
        self, shard: int, events: list[Event], doing: Coroutine[Any, Any, Any]
    ) -> None:
        """Events of one shard, sent when something else has just begun."""

        async def both() -> Reply:
            begun = asyncio.ensure_future(doing)
            await asyncio.sleep(0)
            reply = decode_reply(await self.shards[shard].handle(frame))
            await begun
            return reply

        frame = self._frame_of(events, None)
        reply = self.run(both())
        self.model.last[shard, EVENTS] = frame, reply
        assert reply == self.model.count(shard, events, None)

    def begin_to_submit(
        self, shard: int, events: list[Event], key: str | None = None
    ) -> tuple[bytes, bool]:
        """Sends events of one shard, which may end before it answers; the frame, and whether not.

        Either way it is to be sent again.
        """

        async def send() -> bool:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()

            def end(_: Any, context: dict[str, Any]) -> None:
                if not ended.done():  # what was still to be done ends as well
                    ended.set_result(context["exception"])

            loop.set_exception_handler(end)
            sending = asyncio.ensure_future(self.shards[shard].handle(frame))
            await asyncio.wait({sending, ended}, return_when=asyncio.FIRST_COMPLETED)
            loop.set_exception_handler(None)
            if ended.done() and not isinstance(ended.result(), KilledError):
                raise ended.result()
            return sending.done()

        frame = self._frame_of(events, key)
        return frame, self.run(send())

    def submit_again(
        self, shard: int, frame: bytes, events: list[Event], key: str | None = None
    ) -> None:
        """What the sender does who had no answer: it counts, and it counts once."""
        reply = self._exchange(shard, EVENTS, frame)
        assert reply == self.model.count(shard, events, key)

    def resend(self) -> None:
        """The last frame of each producer, if it is not too old: the answer is the same."""
        for (shard, _), (frame, reply) in self.model.last.items():
            assert isinstance(reply, Applied | Done)
            if self.model.shards[shard].received_ms - reply.received_ms > PRODUCER_AGE_MS:
                continue
            again = decode_reply(self.run(self.shards[shard].handle(frame)))
            assert again == reply, f"{again} in place of {reply}"

    def shard_of(self, user: str) -> int:
        return shard_of(user, len(self.shards))

    def checkpoint(self) -> None:
        for shard in self.shards:
            self.run(shard.checkpoint())

    def by_shard(self, of_users: list[T], user: Any) -> Iterator[tuple[int, list[T]]]:
        for shard in range(len(self.shards)):
            if part := [each for each in of_users if self.shard_of(user(each)) == shard]:
                yield shard, part

    def _frame_of(self, events: list[Event], key: str | None) -> bytes:
        self.model.frames += 1
        return encode_events(EVENTS, self.model.frames, to_batch([Part(events, key)]).encode())

    def _exchange(self, shard: int, producer: int, frame: bytes) -> Reply:
        reply = decode_reply(self.run(self.shards[shard].handle(frame)))
        self.model.last[shard, producer] = frame, reply
        return reply

    # What is there

    def check(self) -> None:
        """Every answer, and every fact that is kept, is as in the model."""
        for number, shard in enumerate(self.shards):
            assert facts_of_state(state_of(shard)) == self.model.answers(number), f"shard {number}"

    def check_facts(self) -> None:
        """Each fact is kept once, in order of arrival, and exported to its user."""
        for number, shard in enumerate(self.shards):
            kept = facts_kept(shard).to_pylist()
            places = [(row.pop("sequence"), row.pop("index")) for row in kept]
            assert places == sorted(set(places)), f"shard {number}"
            assert _by_user(kept) == _by_user(map(_row, self.model.shards[number].facts))
            for user in {row["user"] for row in kept if row["user"]}:
                pages = self.run(export_pages(shard, user, PAGE))
                assert [
                    (f.received_ms, f.kind, f.slug, f.at_ms) for page in pages for f in page
                ] == [
                    (row["received_ms"], row["kind"], row["slug"], row["at_ms"])
                    for row in kept
                    if row["user"] == user
                ]

    def audit(self) -> None:
        """What `playhead check` finds out: memory is not asked, no server runs."""
        for shard in audit.check(self.folder).shards:
            assert shard.problems == []
            assert "stored events" in shard.compared


def _row(fact: Fact) -> dict[str, Any]:
    row = asdict(fact)
    for name in ("shard", "sequence", "index"):
        del row[name]
    return row


def _by_user(rows: Iterable[dict[str, Any]]) -> dict[str | None, list[dict[str, Any]]]:
    """In order of arrival. What came in one millisecond to two shards has no order between them."""
    found: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["user"], []).append(row)
    return found


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
