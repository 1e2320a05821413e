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
from persistence.batch import Batch, BatchError, Encoded
from persistence.errors import DamagedError
from persistence.facts import NAMES, SCHEMA
from persistence.log import Record
from persistence.strings import Strings

#: The indexes in each record, by its sequence, of what had no effect.
Skipped = Mapping[int, Sequence[int]]

#: Facts are made for so many events at a time.
_CHUNK_EVENTS = 100_000

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
    """A record of a log; a batch is left encoded, to be decoded with its neighbours."""

    record: Record
    content: Encoded | list[Command]
    folder: Path


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
    for record in log.replay(folder, owner, after_sequence, repair):
        if up_to is not None and record.sequence > up_to:
            return
        if naming is None or _may_hold(record.payload, naming):
            try:
                yield Found(record, _open(record), folder)
            except (BatchError, msgspec.MsgspecError, ValueError) as error:
                raise DamagedError(folder, 0, f"record {record.sequence}: {error}") from error
        if record.sequence == up_to:
            return  # the segment after it is not read for nothing


def _may_hold(payload: bytes | memoryview, name: str) -> bool:
    """By its bytes, as far faster than decoding: names are UTF-8 in both kinds of records."""
    return name.encode() in bytes(payload)


def _open(record: Record) -> Encoded | list[Command]:
    if record.kind == log.EVENTS:
        return Encoded.of(record.payload)
    decoded = decode(record.kind, record.payload)
    assert isinstance(decoded, list)
    return decoded


def checked(kind: int, payload: bytes | memoryview) -> Encoded | list[Command]:
    """As `decode`, with a batch left encoded of which it is known that it can be decoded."""
    if kind != log.EVENTS:
        return commands.decode(payload)
    batch = Encoded.of(payload)
    batch.check()
    return batch


def joined(chunk: Sequence[Found]) -> Batch:
    """The events of neighbours that `read` gave; raises `DamagedError`."""
    batches = [entry.content for entry in chunk if isinstance(entry.content, Encoded)]
    try:
        return Encoded.join(batches)
    except BatchError as error:
        for entry, batch in zip(chunk, batches, strict=True):
            try:
                batch.decode()
            except BatchError as cause:
                what = f"record {entry.record.sequence}: {cause}"
                raise DamagedError(entry.folder, 0, what) from cause
        what = f"record {chunk[0].record.sequence} or one after it: {error}"
        raise DamagedError(chunk[0].folder, 0, what) from error


def decode(kind: int, payload: bytes | memoryview) -> Batch | list[Command]:
    """Raises `BatchError`, `MsgspecError` or `ValueError`."""
    if kind == log.EVENTS:
        return Batch.decode(payload)
    if kind == log.COMMANDS:
        return commands.decode(payload)
    raise ValueError(f"its kind is {kind}, which this playhead does not know")


def facts_of(entries: Iterable[Found], skipped: Skipped) -> pa.Table:
    """The facts of `entries`, in order, without what is `skipped`; each column is one chunk."""
    known = {column: Names() for column in NAMES}
    tables = [_CODED.empty_table()]
    for chunk in _chunks(entries):
        if isinstance(chunk[0].content, Encoded):
            tables.append(_facts_of_events(chunk, skipped, known))
        else:
            tables += [_facts_of_commands(entry, skipped, known) for entry in chunk]
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


def _chunks(entries: Iterable[Found]) -> Iterator[list[Found]]:
    """Neighbours of the same kind."""
    chunk: list[Found] = []
    events = 0
    for entry in entries:
        is_events = isinstance(entry.content, Encoded)
        if chunk and (
            is_events != isinstance(chunk[0].content, Encoded) or events >= _CHUNK_EVENTS
        ):
            yield chunk
            chunk, events = [], 0
        chunk.append(entry)
        events += len(entry.content)
    if chunk:
        yield chunk


def _facts_of_events(chunk: list[Found], skipped: Skipped, known: Known) -> pa.Table:
    batch = joined(chunk)
    lengths = [len(entry.content) for entry in chunk]
    starts = np.cumsum([0, *lengths[:-1]])
    counted = np.ones(len(batch), np.bool_)
    for entry, start in zip(chunk, starts.tolist(), strict=True):
        counted[start + np.array(skipped.get(entry.record.sequence, ()), np.int64)] = False
    table = _table(
        sequence=np.repeat([entry.record.sequence for entry in chunk], lengths),
        index=np.arange(len(batch)) - np.repeat(starts, lengths),
        received_ms=np.repeat([entry.record.received_ms for entry in chunk], lengths),
        kind=_codes(known["kind"], Strings.of(["event"]), np.zeros(len(batch), np.int32)),
        user=_codes(known["user"], batch.users, batch.user),
        slug=_codes(known["slug"], batch.slugs, batch.slug),
        session=_codes(known["session"], batch.sessions, batch.session),
        at_ms=batch.at_ms,
        ts_ms=_given(batch.ts_ms, -1),
        duration_ms=_given(batch.duration_ms, 0),
    )
    return table if counted.all() else table.filter(pa.array(counted))


def _facts_of_commands(entry: Found, skipped: Skipped, known: Known) -> pa.Table:
    assert isinstance(entry.content, list)
    without = set(skipped.get(entry.record.sequence, ()))
    carried_out: list[tuple[int, Command]] = []
    for index, command in enumerate(entry.content):
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
        sequence=[entry.record.sequence] * len(kept),
        index=[index for index, _ in carried_out],
        received_ms=[entry.record.received_ms] * len(kept),
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
