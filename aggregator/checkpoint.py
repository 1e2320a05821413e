"""From log to snapshot and stored events: what makes the log short, and erasing final."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from aggregator import entries
from aggregator.commands import Erase
from aggregator.state import State
from persistence import log, snapshot
from persistence.erasure import Erasure
from persistence.facts import one_chunk
from persistence.store import Store

#: In a snapshot's manifest: nothing older may be kept, as it holds what was erased.
ALONE = "alone"
#: Of log in a stored file: the default segments of a checkpoint that did not have to wait.
ARCHIVED_BYTES = 160 << 20

_logger = logging.getLogger(__name__)


class Erasing(msgspec.Struct, frozen=True):
    """An erase whose traces are still on disk: in facts of records up to `sequence`.

    It is in the record after that, and may have others before and behind it. `slug`
    None is all of a user.
    """

    sequence: int
    received_ms: int
    user: str
    slug: str | None


def erasure_of(erasing: Iterable[Erasing]) -> Erasure:
    """What is to go, by the last erase of each."""
    users, pairs = {}, {}
    for each in erasing:
        if each.slug is None:
            users[each.user] = each.sequence
        else:
            pairs[each.user, each.slug] = each.sequence
    return Erasure(users, pairs)


def erases_in(sequence: int, received_ms: int, commands: list[Any]) -> list[Erasing]:
    """Those of a record. `entries.facts_of` leaves out what they erase of the record itself."""
    return [
        Erasing(sequence - 1, received_ms, command.user, command.slug)
        for command in commands
        if isinstance(command, Erase)
    ]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a shard keeps its log and snapshots, and the store of its facts."""

    log: Path
    snapshots: Path
    store: Store
    #: What names the shard in its files.
    owner: str

    @classmethod
    def of(cls, folder: Path, shard: int, owner: str) -> "Folders":
        """`folder` is the shard's; stored events lie beside the shards."""
        store = Store(folder.parent / "events", shard)
        return cls(folder / "log", folder / "snapshots", store, owner)


@dataclass(slots=True)
class Frozen:
    """All that a checkpoint writes: copies, so that the shard goes on meanwhile."""

    sequence: int
    tables: dict[str, pa.Table]
    extra: dict[str, Any]
    skipped: dict[int, list[int]] = field(default_factory=dict)
    erasing: list[Erasing] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        state: State,
        sequence: int,
        received_ms: int,
        producers: list[list[Any]],
        skipped: dict[int, list[int]],
        erasing: list[Erasing],
    ) -> "Frozen":
        """A copy of `state` and what belongs to it, after the record `sequence`."""
        extra = {"received_ms": received_ms, "state": state.extra(), "producers": producers}
        return cls(sequence, state.to_arrow(), extra, dict(skipped), list(erasing))


def write(folders: Folders, frozen: Frozen) -> None:
    """Makes a snapshot of `frozen`, and drops what it and the store make superfluous.

    1. Store the facts of the records up to the snapshot's, without those erased.
    2. Take the facts erased out of what was stored before.
    3. Write the snapshot. It says whether anything was erased.
    4. Tidy up: older snapshots, and the segments that those kept do not need.

    A crash in between leaves nothing that a later checkpoint does not do again. The
    segment that the snapshot ends with must be complete: rotate the log before.
    """
    archive(folders, frozen)
    if frozen.erasing:
        erasure = erasure_of(frozen.erasing)
        removed = folders.store.purge(erasure.users, erasure.pairs)
        if removed:
            _logger.info("erased %d stored facts of %s", removed, folders.store.folder)
    extra = frozen.extra | {ALONE: bool(frozen.erasing)}
    snapshot.write(folders.snapshots, folders.owner, frozen.sequence, frozen.tables, extra)
    tidy_up(folders, alone=bool(frozen.erasing))


def archive(folders: Folders, frozen: Frozen) -> None:
    """Stores the facts of the records after those stored, up to the frozen one.

    Those of `ARCHIVED_BYTES` of log at a time, as they are all in memory then.
    """
    begin = folders.store.archived_sequence() + 1
    if begin > frozen.sequence:
        return
    for first, last in log.parts(folders.log, begin, frozen.sequence, ARCHIVED_BYTES):
        facts = facts_between(folders, first, last, frozen.skipped, frozen.erasing)
        folders.store.archive(facts, first, last)


def facts_between(
    folders: Folders,
    first: int,
    last: int,
    skipped: entries.Skipped,
    erasing: Iterable[Erasing],
    user: str | None = None,
) -> pa.Table:
    """The facts of records `first` to `last` in the log, without those erased.

    With `user`, all of that user's are there, and some of others'.
    """
    found = entries.read(folders.log, folders.owner, first - 1, last, repair=False, naming=user)
    facts = entries.facts_of(found, skipped)
    erased = erasure_of(erasing).hits(facts)
    return one_chunk(facts.filter(pa.array(~erased))) if erased.any() else facts


def tidy_up(folders: Folders, alone: bool) -> None:
    """Removes what the newest snapshot makes superfluous; all else if it stands alone.

    What a crash left unfinished after that snapshot stays, as it has nothing of what was erased.
    """
    oldest = snapshot.prune(folders.snapshots, alone)
    needed = min(oldest, folders.store.archived_sequence()) + 1
    log.drop_before(folders.log, needed)
    if alone:
        log.drop_broken_tails(folders.log, up_to=oldest)
