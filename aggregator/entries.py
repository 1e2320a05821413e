"""The records of a shard's log with what is in them, and the facts that they became."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator import commands
from aggregator.commands import (
    Command,
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.names import Names
from kernels.rows import NONE
from persistence import log
from persistence.batch import Batch, BatchError, Encoded, EncodedBatches
from persistence.errors import DamagedError
from persistence.facts import NAMES, SCHEMA
from persistence.records import COMMANDS, EVENTS, Record, Run
from persistence.strings import Strings

#: The indexes in each record, by its sequence, of what had no effect.
Skipped = Mapping[int, Sequence[int]]

#: Names that have a code so far, by column.
Known = Mapping[str, Names]
#: Facts are made with codes first: most names come again in many batches.
_CODED = pa.schema(
    [field.with_type(pa.int32()) if field.name in NAMES else field for field in SCHEMA]
)

_KINDS: dict[type[Command], str] = {
    SetPosition: "position",
    MarkCompleted: "completed",
    UnmarkCompleted: "uncompleted",
    Hide: "hidden",
    Describe: "movie",
}


@dataclass(slots=True)
class Entry:
    """A record, decoded."""

    record: Record
    content: Batch | list[Command]


@dataclass(slots=True)
class Found:
    """Records of one kind in a row in a log; batches are left encoded, to be decoded together."""

    run: Run
    content: EncodedBatches | list[list[Command]]
    folder: Path

    def __len__(self) -> int:
        return len(self.run)

    def take(self, which: slice) -> "Found":
        """Those of these indexes."""
        content = self.content
        taken = content.take(which) if isinstance(content, EncodedBatches) else content[which]
        return Found(self.run.take(which), taken, self.folder)

    def joined(self) -> Batch:
        """The events of all; raises `DamagedError`."""
        assert isinstance(self.content, EncodedBatches)
        try:
            return self.content.join()
        except BatchError as error:
            raise _damage(self.run, self.folder, error) from error


def read(
    folder: Path,
    owner: str,
    after_sequence: int,
    up_to: int | None = None,
    repair: bool = True,
    naming: str | None = None,
) -> Iterator[Found]:
    """As `log.replay`; raises `DamagedError` also for records that cannot be decoded.

    What is wrong with the names of a batch shows when it is decoded. The record `up_to`
    is the last. Records that cannot hold the name `naming` are passed over.
    """
    for run in log.replay(folder, owner, after_sequence, repair):
        wanted = _wanted(run, up_to, naming)
        if len(wanted):
            yield _opened(wanted, folder)
        if up_to is not None and run.last >= up_to:
            return  # the segment after it is not read for nothing


def _wanted(run: Run, up_to: int | None, naming: str | None) -> Run:
    if up_to is not None and run.last > up_to:
        run = run.take(slice(max(len(run) - (run.last - up_to), 0)))
    if naming is not None and len(run):
        return run.holding(naming.encode())  # names are UTF-8 in both kinds of records
    return run


def _opened(run: Run, folder: Path) -> Found:
    try:
        if run.kind == EVENTS:
            rows = run.rows
            return Found(run, EncodedBatches.of(run.content, rows["start"], rows["size"]), folder)
        return Found(run, [_decoded_commands(record) for record in run], folder)
    except (BatchError, msgspec.MsgspecError, ValueError) as error:
        raise _damage(run, folder, error) from error


def _decoded_commands(record: Record) -> list[Command]:
    decoded = decode(record.kind, record.payload)
    assert isinstance(decoded, list)
    return decoded


def _damage(run: Run, folder: Path, error: Exception) -> DamagedError:
    """Names the first record that cannot be decoded, and says why it cannot."""
    for record in run:
        try:
            decode(record.kind, record.payload)
        except (BatchError, msgspec.MsgspecError, ValueError) as cause:
            return DamagedError(folder, 0, f"record {record.sequence}: {cause}")
    return DamagedError(folder, 0, f"a record up to {run.last}: {error}")


def checked(kind: int, payload: bytes | memoryview) -> Encoded | list[Command]:
    """As `decode`, with a batch left encoded of which it is known that it can be decoded."""
    if kind != EVENTS:
        return commands.decode(payload)
    batch = Encoded.of(payload)
    batch.check()
    return batch


def decode(kind: int, payload: bytes | memoryview) -> Batch | list[Command]:
    """Raises `BatchError`, `MsgspecError` or `ValueError`."""
    if kind == EVENTS:
        return Batch.decode(payload)
    if kind == COMMANDS:
        return commands.decode(payload)
    raise ValueError(f"its kind is {kind}, which this playhead does not know")


def facts_of(found: Iterable[Found], skipped: Skipped) -> pa.Table:
    """The facts of records, in order, without what is `skipped`; each column is one chunk."""
    known = {column: Names() for column in NAMES}
    tables = [_CODED.empty_table()]
    for some in found:
        if isinstance(some.content, EncodedBatches):
            tables.append(_facts_of_events(some, skipped, known))
        else:
            for record, done in zip(some.run, some.content, strict=True):
                tables.append(_facts_of_commands(record, done, skipped, known))
    coded = pa.concat_tables(tables)
    columns = {name: _one_chunk(coded[name]) for name in SCHEMA.names}
    for name in NAMES:
        dictionary = known[name].to_arrow().cast(pa.string())
        columns[name] = pa.DictionaryArray.from_arrays(columns[name], dictionary)
    return pa.Table.from_pydict(columns, SCHEMA)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """What has no values, as the optional columns of most logs, is not copied."""
    if column.null_count == len(column):
        return pa.nulls(len(column), column.type)
    return column.combine_chunks()


def _facts_of_events(found: Found, skipped: Skipped, known: Known) -> pa.Table:
    assert isinstance(found.content, EncodedBatches)
    batch, rows, lengths = found.joined(), found.run.rows, found.content.events
    starts = lengths.cumsum() - lengths
    counted = np.ones(len(batch), np.bool_)
    for start, sequence in zip(starts.tolist(), rows["sequence"].tolist(), strict=True):
        if sequence in skipped:
            counted[start + np.array(skipped[sequence], np.int64)] = False
    table = _table(
        sequence=rows["sequence"].repeat(lengths),
        index=np.arange(len(batch)) - starts.repeat(lengths),
        received_ms=rows["received_ms"].repeat(lengths),
        kind=_codes(known["kind"], Strings.of(["event"]), np.zeros(len(batch), np.int32)),
        user=_codes(known["user"], batch.users, batch.user),
        slug=_codes(known["slug"], batch.slugs, batch.slug),
        session=_codes(known["session"], batch.sessions, batch.session),
        at_ms=batch.at_ms,
        ts_ms=_given(batch.ts_ms, -1),
        duration_ms=_given(batch.duration_ms, 0),
    )
    return table if counted.all() else table.filter(pa.array(counted))


def _facts_of_commands(
    record: Record, done: list[Command], skipped: Skipped, known: Known
) -> pa.Table:
    without = set(skipped.get(record.sequence, ()))
    carried_out: list[tuple[int, Command]] = []
    for index, command in enumerate(done):
        if isinstance(command, Erase):
            carried_out = [each for each in carried_out if not _is_erased(each[1], command)]
        elif index not in without:
            carried_out.append((index, command))
    kept = [command for _, command in carried_out]
    given = {name: [getattr(command, name, None) for command in kept] for name in _COMMAND_FIELDS}
    given["kind"] = [_KINDS[type(command)] for command in kept]
    names = {
        name: _codes(known[name], Strings.of([each or "" for each in given.pop(name)]))
        for name in NAMES
        if name in given
    }
    return _table(
        sequence=[record.sequence] * len(kept),
        index=[index for index, _ in carried_out],
        received_ms=[record.received_ms] * len(kept),
        **names,
        **given,
    )


def _is_erased(command: Command, erase: Erase) -> bool:
    """Whether what an earlier command of the same record did is erased."""
    return getattr(command, "user", None) == erase.user and erase.slug in (None, command.slug)


_COMMAND_FIELDS = ("user", "slug", "at_ms", "duration_ms", "title")


def _table(**columns: Any) -> pa.Table:
    """A table of facts with codes in place of names; columns not given are null."""
    rows = len(columns["sequence"])
    arrays = [
        pa.nulls(rows, field.type)
        if (column := columns.get(field.name)) is None
        else column
        if isinstance(column, pa.Array)
        else pa.array(column, field.type)
        for field in _CODED
    ]
    return pa.Table.from_arrays(arrays, schema=_CODED)


def _codes(known: Names, strings: Strings, codes: NDArray[np.int32] | None = None) -> pa.Int32Array:
    """Of each fact the code of its name, new ones added; null for an empty name.

    `codes` say which of the strings it has; without them, each has its own.
    """
    found = known.intern(strings, np.diff(strings.offsets) > 0)
    if codes is not None:
        found = found[codes]
    return pa.array(found, mask=found == NONE)


def _given(column: Any, absent: int) -> pa.Array | None:
    return None if column is None else pa.array(column, mask=column == absent)
