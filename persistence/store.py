"""Stored events: the facts of a shard's log, kept as Parquet when segments of it go.

`events/date=YYYY-MM-DD/shard-SSSS-FIRST-LAST.parquet` has the facts of the
records FIRST to LAST of a shard's log, both included, that were received on that
day (UTC). The ranges of a shard's files follow one another from record 1 on
without gaps, also where records hold no facts, so their names tell how far it is
archived. `facts.py` has what is in a file.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from persistence.erasure import Erasure
from persistence.errors import DamagedError
from persistence.facts import SCHEMA, FactFile, Origin, encode, in_order, one_chunk
from persistence.files import make_folder, replace_file, sync_folder

__all__ = ["SCHEMA", "Store", "StoredFile"]

_NAME = re.compile(r"shard-(\d{4})-(\d{20})-(\d{20})\.parquet")
_DAY = "date="
#: A folder that changed more lately may change again without another time of change.
_SETTLED_NS = 10**9


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the store, and the records `first` to `last` that it covers."""

    path: Path
    shard: int
    first: int
    last: int
    bytes: int
    #: Of its last change: what tells a file from the one that replaced it.
    changed_ns: int

    @property
    def rows(self) -> int:
        """How many facts are in it; the file is read the first time that someone asks."""
        return _rows(self)

    @property
    def day(self) -> str:
        return self.path.parent.name.removeprefix(_DAY)

    def check(self) -> None:
        """Raises `DamagedError` unless all of it is what was written."""
        with self.open() as opened:
            opened.check()

    def open(self) -> AbstractContextManager[FactFile]:
        return FactFile.open(self.path, Origin(self.shard, self.first, self.last))


@dataclass(frozen=True, slots=True)
class Store:
    """The stored facts of one shard, in `folder`. One writer at a time, readers at any."""

    folder: Path
    shard: int

    def archived_sequence(self) -> int:
        """The last record that the files cover, durably; 0 when there are none.

        Raises `DamagedError` where a file is missing, or two have the same records.
        """
        files = self.files()
        if not files:
            return 0
        # A writer before this one may have ended between a rename and its sync.
        sync_folder(files[-1].path.parent)
        sync_folder(self.folder)
        return files[-1].last

    def archive(self, facts: pa.Table, first: int, last: int) -> None:
        """Stores `facts`: all those of the records `first` to `last`, in order of arrival.

        1. Remove the drafts that a crash left.
        2. Cut the range where a day begins.
        3. Day by day: write a draft, sync it, rename it, sync its folder.

        After a crash or an OSError some days may be there, never one without those
        before it: go on from `archived_sequence() + 1`.
        """
        archived = self.archived_sequence()
        assert first == archived + 1 <= last + 1, f"{first} to {last} do not follow {archived}"
        assert facts.schema.equals(SCHEMA), f"these are no facts: {facts.schema}"
        assert _is_in_order(facts, first, last), f"facts are not those of {first} to {last}"
        self._remove_drafts()
        for day, start, end, part in self._by_day(facts, first, last):
            folder = self.folder / f"{_DAY}{day}"
            make_folder(folder)
            path = folder / f"shard-{self.shard:04}-{start:020}-{end:020}.parquet"
            self._write(path, encode(part, Origin(self.shard, start, end)))
        _release_memory()

    def read(self, after_sequence: int = 0) -> Iterator[pa.Table]:
        """The facts of the records after `after_sequence` in order of arrival, a table a file.

        Raises `DamagedError` that names the file.
        """
        for file in self.files():
            if file.last > after_sequence:
                facts = _read(file)
                known = np.searchsorted(facts["sequence"].to_numpy(), after_sequence, "right")
                yield facts.slice(int(known))
        _release_memory()

    def facts_of_user(
        self,
        user: str,
        slug: str | None = None,
        after: tuple[int, int] = (0, 0),
        limit: int | None = None,
    ) -> pa.Table:
        """The first `limit` facts of a user or a pair after (sequence, index), as they arrived."""
        found = [SCHEMA.empty_table()]
        for file in self.files():
            if limit is not None and sum(map(len, found)) >= limit:
                break
            if file.last >= after[0]:
                with file.open() as opened:
                    found.append(_after(opened.of_user(user, slug), after))
        return one_chunk(pa.concat_tables(found).slice(0, limit))

    def purge(self, users: Mapping[str, int], pairs: Mapping[tuple[str, str], int]) -> int:
        """Removes the facts of users and (user, slug) pairs up to the sequences of their erases.

        Returns how many there were. Only files that hold any are written anew, each
        whole or not at all, so a purge that was cut short can be called again. One
        file that is damaged does not keep the others: the `DamagedError` comes last.
        """
        self._remove_drafts()
        erasure = Erasure(users, pairs)
        files = [file for file in self.files() if file.first <= erasure.newest]
        removed, damage = 0, None
        for file in files:
            try:
                removed += self._purge(file, erasure)
            except DamagedError as error:
                damage = damage or error
        for folder in {file.path.parent for file in files}:
            sync_folder(folder)  # for a rename that an earlier call did not live to sync
        _release_memory()
        if damage:
            raise damage
        return removed

    def files(self) -> list[StoredFile]:
        """The files in order of their records, which follow one another without gaps.

        Raises `DamagedError` where they do not.
        """
        files = sorted(self._files(), key=lambda file: file.first)
        _check_order(files, 1)
        return files

    def totals(self) -> "Totals":
        """Of all files. Of days that have not changed they are remembered: there may be years.

        Raises `DamagedError` as `files` does, and where a file does not tell how much it has.
        """
        found = (self._totals_of(day) for day in self.folder.glob(f"{_DAY}*"))
        days = sorted(day for day in found if day is not None)
        nothing = Totals(1, 0, 0, 0)
        if any(before.last + 1 != day.first for before, day in pairwise([nothing, *days])):
            self.files()  # which says what is missing
        last = days[-1].last if days else 0
        return Totals(1, last, sum(day.facts for day in days), sum(day.bytes for day in days))

    def _totals_of(self, day: Path) -> "Totals | None":
        changed_ns = day.stat().st_mtime_ns
        if abs(time.time_ns() - changed_ns) < _SETTLED_NS:
            return _totals(day, self.shard)
        return _settled_totals(day, self.shard, changed_ns)

    def newest(self) -> StoredFile | None:
        """The file with the latest records, whether or not others are missing."""
        return max(self._files(), key=lambda file: file.last, default=None)

    @property
    def size_bytes(self) -> int:
        return sum(file.bytes for file in self.files())

    def _files(self) -> Iterator[StoredFile]:
        return map(_stored, self.folder.glob(f"{_DAY}*/{_pattern(self.shard)}"))

    def _by_day(
        self, facts: pa.Table, first: int, last: int
    ) -> Iterator[tuple[str, int, int, pa.Table]]:
        """Day, first and last record, and facts of each file; together they cover all records."""
        if not len(facts):
            yield self._newest_day(), first, last, facts
            return
        days = _days(facts)
        rows = np.flatnonzero(days[1:] != days[:-1]) + 1
        firsts = [first, *facts["sequence"].to_numpy()[rows].tolist(), last + 1]
        bounds = [0, *rows.tolist(), len(facts)]
        for (row, end), (start, after) in zip(pairwise(bounds), pairwise(firsts), strict=True):
            yield str(days[row]), start, after - 1, facts.slice(row, end - row)

    def _newest_day(self) -> str:
        """That of the newest file, for records that have no time; today if there is none."""
        files = self.files()
        return files[-1].day if files else f"{datetime.now(UTC):%Y-%m-%d}"

    def _purge(self, file: StoredFile, erasure: Erasure) -> int:
        with file.open() as opened:
            groups = opened.groups_with(erasure.names)
            if not groups or not erasure.hits(opened.read(erasure.COLUMNS, groups)).any():
                return 0
            facts = opened.read()
        hits = erasure.hits(facts)
        kept = facts.filter(pa.array(~hits))
        self._write(file.path, encode(kept, Origin(file.shard, file.first, file.last)))
        return int(hits.sum())

    def _write(self, path: Path, content: pa.Buffer) -> None:
        try:
            replace_file(path, content)
        except OSError:
            self._remove_drafts()  # it may be what fills the disk
            raise

    def _remove_drafts(self) -> None:
        for draft in self.folder.glob(f"{_DAY}*/shard-{self.shard:04}-*.tmp"):
            draft.unlink()


class Totals(NamedTuple):
    """Of files with the records `first` to `last`."""

    first: int
    last: int
    facts: int
    bytes: int


def _totals(day: Path, shard: int) -> Totals | None:
    """Of the files in a folder; None if there are none."""
    files = sorted(map(_stored, day.glob(_pattern(shard))), key=lambda file: file.first)
    if not files:
        return None
    _check_order(files, files[0].first)
    facts, size = sum(file.rows for file in files), sum(file.bytes for file in files)
    return Totals(files[0].first, files[-1].last, facts, size)


@lru_cache(maxsize=1 << 14)
def _settled_totals(day: Path, shard: int, _changed_ns: int) -> Totals | None:
    return _totals(day, shard)


def _pattern(shard: int) -> str:
    return f"shard-{shard:04}-*.parquet"


def _check_order(files: list[StoredFile], expected: int) -> None:
    """Raises `DamagedError` unless files follow one another from the record `expected` on."""
    for file in files:
        if file.first > expected:
            what = f"the file before it is missing, with records {expected} to {file.first - 1}"
            raise DamagedError(file.path, 0, what)
        if file.first < expected or file.last < file.first:
            what = f"its name says {file.first} to {file.last}, and {expected} comes next"
            raise DamagedError(file.path, 0, what)
        expected = file.last + 1


def _stored(path: Path) -> StoredFile:
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise DamagedError(path, 0, "its name is not that of stored facts")
    status = path.stat()
    shard, first, last = map(int, named.groups())
    return StoredFile(path, shard, first, last, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _rows(file: StoredFile) -> int:
    with file.open() as opened:
        return opened.rows


def _read(file: StoredFile) -> pa.Table:
    """All of a file, in order of arrival, and as it must be."""
    with file.open() as opened:
        facts = in_order(opened.read())
    if not len(facts):
        return facts
    if not _is_in_order(facts, file.first, file.last):
        what = "it holds facts of records that its name does not cover, or one twice"
        raise DamagedError(file.path, 0, what)
    days = _days(facts)
    if {str(days.min()), str(days.max())} != {file.day}:
        raise DamagedError(file.path, 0, "it holds facts of another day than its folder")
    return facts


def _release_memory() -> None:
    """Gives back what is kept for next time: that is long from now, and much."""
    pa.default_memory_pool().release_unused()


def _is_in_order(facts: pa.Table, first: int, last: int) -> bool:
    """Whether facts are those of records `first` to `last`, as they arrived, each once."""
    sequence, index = facts["sequence"].to_numpy(), facts["index"].to_numpy()
    steps = np.diff(sequence)
    is_rising = (steps > 0) | ((steps == 0) & (np.diff(index) > 0))
    is_within = not len(facts) or first <= sequence[0] <= sequence[-1] <= last
    return bool(is_rising.all() and is_within)


def _after(facts: pa.Table, place: tuple[int, int]) -> pa.Table:
    """What comes after (sequence, index), of facts in order of arrival."""
    sequence, index = facts["sequence"].to_numpy(), facts["index"].to_numpy()
    known = (sequence < place[0]) | ((sequence == place[0]) & (index <= place[1]))
    return facts.slice(int(known.sum()))


def _days(facts: pa.Table) -> NDArray[np.datetime64]:
    """The UTC days on which facts were received."""
    days: NDArray[np.datetime64] = (
        facts["received_ms"].to_numpy().astype("datetime64[ms]").astype("datetime64[D]")
    )
    return days
