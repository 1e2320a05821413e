"""Stored events: what was archived comes back, or the file that is damaged is named."""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.store_size import Traffic
from persistence import facts as stored_facts
from persistence import store as stored_files
from persistence.errors import DamagedError, NewerFormatError
from persistence.facts import WRITING, Origin, encode
from persistence.seal import sealed
from persistence.store import SCHEMA, Store, Totals

#: 2026-11-20, 06:00 UTC
START_MS = 1_795_154_400_000
DAY_MS = 86_400_000

#: In the order of SCHEMA.
Row = tuple[Any, ...]


class CrashError(BaseException):
    """The process ends here."""


def event(
    sequence: int,
    index: int = 0,
    user: str = "anna",
    slug: str = "film",
    session: str | None = None,
    received_ms: int | None = None,
) -> Row:
    received_ms = START_MS + sequence * 1_000 if received_ms is None else received_ms
    at_ms = sequence * 1_000 + index
    return (sequence, index, received_ms, "event", user, slug, session, at_ms, None, None, None)


def movie(sequence: int, slug: str, title: str | None) -> Row:
    received_ms = START_MS + sequence * 1_000
    return (sequence, 0, received_ms, "movie", None, slug, None, None, None, 5_400_000, title)


def table(rows: Iterable[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [
        pa.array(column, pa.string()).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(column, field.type)
        for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.table(arrays, SCHEMA)


def rows(tables: pa.Table | Iterable[pa.Table]) -> list[Row]:
    parts = [tables] if isinstance(tables, pa.Table) else tables
    return [tuple(row.values()) for part in parts for row in part.to_pylist()]


def many(records: int, users: int = 7, events: int = 3) -> list[Row]:
    """Facts of `records` records with `events` each, of users in turn."""
    return [
        event(
            sequence,
            index,
            user=f"user-{(sequence * events + index) * 3 % users}",
            slug=f"film-{sequence % 3}",
            session=None if index else f"session-{sequence % 5}",
        )
        for sequence in range(1, records + 1)
        for index in range(events)
    ]


def archived(folder: Path, facts: list[Row], *lasts: int) -> Store:
    """A store with a file for each of `lasts`, the last records of the files."""
    store = Store(folder, 0)
    first = 1
    for last in lasts:
        store.archive(table(fact for fact in facts if first <= fact[0] <= last), first, last)
        first = last + 1
    return store


def query(store: Store, sql: str) -> list[Any]:
    """What DuckDB says of `facts`, the files of all shards."""
    files = f"read_parquet('{store.folder}/date=*/shard-*.parquet', hive_partitioning=true)"
    with duckdb.connect() as connection:
        return connection.execute(sql.replace("FACTS", files)).fetchall()


@pytest.fixture
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few facts make several row groups."""
    monkeypatch.setattr(stored_facts, "GROUP_ROWS", 8)


EVERYTHING: list[Row] = [
    movie(1, "film", "Der Film"),
    (2, 0, START_MS, "event", "anna", "film", None, 5_000, None, None, None),
    (2, 1, START_MS, "event", "änna", "film", "tv", 5_000, START_MS - 7, 5_400_000, None),
    (2, 4, START_MS, "event", "anna", "film", "phone", 0, START_MS - 9, None, None),
    (5, 0, START_MS, "position", "bob", "film", None, 2**50, None, None, None),
    (6, 0, START_MS, "completed", "anna", "film", None, None, None, None, None),
    (7, 0, START_MS, "uncompleted", "anna", "film", None, None, None, None, None),
    (8, 0, START_MS, "hidden", "anna", "\n'\"film", None, None, None, None, None),
    (9, 0, START_MS, "movie", None, "film", None, None, None, None, None),
]


def test_facts_come_back_as_they_were(tmp_path: Path) -> None:
    store = archived(tmp_path / "events", EVERYTHING, 9)
    (found,) = store.read()
    assert found.schema.equals(SCHEMA)
    assert rows(found) == EVERYTHING
    assert store.archived_sequence() == 9
    assert tmp_path.joinpath("events").stat().st_mode & 0o777 == 0o700


def test_an_unused_store_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "events", 0)
    assert (store.archived_sequence(), store.files(), store.size_bytes) == (0, [], 0)
    assert list(store.read()) == []
    assert rows(store.facts_of_user("anna")) == []
    assert store.purge({"anna": 9}, {}) == 0


def test_reading_begins_after_any_record(tmp_path: Path) -> None:
    facts = many(10)
    store = archived(tmp_path, facts, 3, 4, 10)
    for after in range(11):
        assert rows(store.read(after)) == [fact for fact in facts if fact[0] > after]


def test_shards_do_not_mix(tmp_path: Path) -> None:
    archived(tmp_path, [event(1, user="anna")], 1)
    other = Store(tmp_path, 1)
    assert other.archived_sequence() == 0
    other.archive(table([event(1, user="bob")]), 1, 5)
    assert rows(other.read()) == [event(1, user="bob")]
    assert query(other, "select count(*) from FACTS") == [(2,)]


def test_a_table_of_many_chunks_is_archived(tmp_path: Path) -> None:
    facts = many(10)
    chunks = pa.concat_tables(table([fact]) for fact in facts)
    store = Store(tmp_path, 0)
    store.archive(chunks, 1, 10)
    assert rows(store.read()) == facts
    assert rows(store.facts_of_user("user-3")) == [fact for fact in facts if fact[4] == "user-3"]


def test_a_dictionary_may_say_more_than_the_rows(tmp_path: Path) -> None:
    facts = table([event(1), event(2), event(3)])
    users = pa.DictionaryArray.from_arrays(
        pa.array([2, 0, 2], pa.int32()), ["anna", "nobody", "anna"]
    )
    store = Store(tmp_path, 0)
    store.archive(facts.set_column(4, SCHEMA.field("user"), users), 1, 3)
    assert rows(store.facts_of_user("anna")) == [event(1), event(2), event(3)]
    assert store.purge({"anna": 2}, {}) == 2
    assert rows(store.read()) == [event(3)]


def test_only_what_follows_is_archived(tmp_path: Path) -> None:
    store = archived(tmp_path, many(5), 5)
    for first, last in ((5, 6), (7, 8), (6, 4)):
        with pytest.raises(AssertionError):
            store.archive(SCHEMA.empty_table(), first, last)
    for facts in ([event(8)], [event(5)], [event(7), event(6)], [event(6), event(6)]):
        with pytest.raises(AssertionError):
            store.archive(table(facts), 6, 7)
    with pytest.raises(AssertionError):
        store.archive(table([event(6)]).drop_columns("title"), 6, 6)
    assert store.archived_sequence() == 5


# Files, days, DuckDB


def test_each_day_has_a_file(tmp_path: Path) -> None:
    midnight = START_MS // DAY_MS * DAY_MS + DAY_MS
    times = {2: midnight - 1, 5: midnight, 6: midnight + 1, 9: midnight + 3 * DAY_MS}
    facts = [
        event(sequence, index, received_ms=received_ms)
        for sequence, received_ms in times.items()
        for index in (0, 1)
    ]
    store = archived(tmp_path, facts, 12)
    assert [(file.day, file.first, file.last, file.rows) for file in store.files()] == [
        ("2026-11-20", 1, 4, 2),
        ("2026-11-21", 5, 8, 4),
        ("2026-11-24", 9, 12, 2),
    ]
    assert rows(store.read()) == facts
    assert sum(file.bytes for file in store.files()) == store.size_bytes
    first = tmp_path / "date=2026-11-20" / f"shard-0000-{1:020}-{4:020}.parquet"
    assert first.stat().st_size == store.files()[0].bytes
    days = query(store, "select distinct date = (epoch_ms(received_ms))::date from FACTS")
    assert days == [(True,)]


def test_records_without_facts_are_covered(tmp_path: Path) -> None:
    store = archived(tmp_path, [], 4)
    (file,) = store.files()
    assert (file.first, file.last, file.rows) == (1, 4, 0)
    assert datetime.now(UTC).date().isoformat() == file.day
    assert query(store, "select count(*), sum(at_ms) from FACTS") == [(0, None)]
    assert rows(store.read()) == []
    assert store.purge({"anna": 4}, {("bob", "film"): 4}) == 0


def test_an_empty_file_has_the_day_before_it(tmp_path: Path) -> None:
    store = archived(tmp_path, [event(1), event(9)], 4, 8, 9)
    assert [(file.day, file.rows) for file in store.files()] == [
        ("2026-11-20", 1),
        ("2026-11-20", 0),
        ("2026-11-20", 1),
    ]
    assert query(store, "select user, sequence from FACTS order by sequence") == [
        ("anna", 1),
        ("anna", 9),
    ]


def test_duckdb_reads_the_same(tmp_path: Path) -> None:
    store = archived(tmp_path, EVERYTHING, 4, 9)
    columns = ", ".join(f'"{name}"' for name in SCHEMA.names)
    assert query(store, f"select {columns} from FACTS order by sequence, index") == EVERYTHING  # noqa: S608


@pytest.mark.parametrize("kept", [(0, 2), (1, 2), (2,)])
def test_a_missing_file_is_noticed(tmp_path: Path, kept: tuple[int, ...]) -> None:
    store = archived(tmp_path, many(9), 3, 6, 9)
    files = store.files()
    for number, file in enumerate(files):
        if number not in kept:
            file.path.unlink()
    after_gap = files[2] if kept == (0, 2) else files[kept[0]]
    for ask in (store.archived_sequence, store.files, lambda: list(store.read())):
        with pytest.raises(DamagedError, match="missing, with records") as raised:
            ask()
        assert raised.value.path == after_gap.path


@pytest.mark.parametrize(("first", "last"), [(1, 3), (3, 5), (4, 5), (7, 6)])
def test_files_that_cover_the_same_are_refused(tmp_path: Path, first: int, last: int) -> None:
    store = archived(tmp_path, many(6), 3, 6)
    path = tmp_path / "date=2026-11-21" / f"shard-0000-{first:020}-{last:020}.parquet"
    path.parent.mkdir()
    shutil.copy(store.files()[0].path, path)
    with pytest.raises(DamagedError, match="comes next"):
        store.archived_sequence()


def test_a_strange_name_is_refused(tmp_path: Path) -> None:
    store = archived(tmp_path, many(6), 6)
    strange = store.files()[0].path.with_name("shard-0000-7-8.parquet")
    strange.touch()
    with pytest.raises(DamagedError, match=strange.name):
        store.files()


# Crashes


def fail_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException
) -> None:
    """Makes a call of `owner.name` raise: the first one is 0."""
    real, calls = getattr(owner, name), []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call + 1:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)


FOUR_DAYS = [
    event(sequence, index, received_ms=START_MS + sequence * DAY_MS // 3)
    for sequence in range(1, 10)
    for index in (0, 1)
]


@pytest.mark.parametrize(
    ("owner", "name", "calls"), [(Path, "replace", 4), (Path, "mkdir", 3), (os, "fsync", 13)]
)
def test_a_crash_leaves_the_first_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    found = set[int]()
    for call in range(calls):
        store = archived(tmp_path / f"{call}", FOUR_DAYS, 1)
        with monkeypatch.context() as patch:
            fail_at(patch, owner, name, call, CrashError())
            with pytest.raises(CrashError):
                store.archive(table(FOUR_DAYS[2:]), 2, 9)
        done = store.archived_sequence()
        found.add(done)
        (tmp_path / f"{call}" / f"date={store.files()[0].day}" / "shard-0000-9-9.tmp").touch()
        assert rows(store.read()) == [fact for fact in FOUR_DAYS if fact[0] <= done]
        if done < 9:
            store.archive(table(fact for fact in FOUR_DAYS if fact[0] > done), done + 1, 9)
            assert not list((tmp_path / f"{call}").rglob("*.tmp"))
        assert rows(store.read()) == FOUR_DAYS
    assert found >= {2, 5, 8}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which folders got a rename, and which files and folders a sync, as it goes on."""
    done: list[tuple[str, str]] = []
    replace, fsync = Path.replace, os.fsync

    def noted_replace(path: Path, target: Path) -> Path:
        done.append(("rename", target.parent.name))
        return replace(path, target)

    def noted_fsync(descriptor: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    return done


def test_every_rename_is_followed_by_a_sync_of_its_folder(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    store = archived(tmp_path, FOUR_DAYS, 9)
    names = [file.path.name for file in store.files()]
    days = [f"date={file.day}" for file in store.files()]
    assert [step for step in steps if step != ("sync", tmp_path.name)] == [
        step
        for name, day in zip(names, days, strict=True)
        for step in (("sync", f"{name}.tmp"), ("rename", day), ("sync", day))
    ]
    assert steps.count(("sync", tmp_path.name)) == len(days)


def test_what_a_crash_left_unsynced_is_synced(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    store = archived(tmp_path, FOUR_DAYS, 9)
    days = {f"date={file.day}" for file in store.files()}
    steps.clear()
    store.archived_sequence()
    assert set(steps) == {("sync", max(days)), ("sync", tmp_path.name)}
    steps.clear()
    assert store.purge({"nobody": 9}, {}) == 0
    assert set(steps) == {("sync", day) for day in days}


def test_a_full_disk_keeps_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = archived(tmp_path, many(6), 3)
    with monkeypatch.context() as patch:
        fail_at(patch, os, "fsync", 2, OSError(28, "No space left on device"))
        with pytest.raises(OSError, match="No space"):
            store.archive(table(many(6)[9:]), 4, 6)
    assert store.archived_sequence() == 3
    assert not list(tmp_path.rglob("*.tmp"))


# Damage


def refused(store: Store, path: Path) -> None:
    with pytest.raises(DamagedError, match=path.name) as raised:
        list(store.read())
    assert raised.value.path == path


@pytest.mark.usefixtures("_small_groups")
def test_no_byte_can_change_unnoticed(tmp_path: Path) -> None:
    facts = many(10)
    store = archived(tmp_path, facts, 10)
    path = store.files()[0].path
    content = path.read_bytes()
    wanted = [fact for fact in facts if fact[4] == "user-3"]
    # The first and the last bytes have meanings of their own; in between every 29th is tried.
    for offset in [*range(40), *range(40, len(content), 29), *range(len(content) - 40, -1)]:
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 8
        path.write_bytes(flipped)
        refused(store, path)
        with suppress(DamagedError):
            assert rows(store.facts_of_user("user-3")) == wanted
    path.write_bytes(content)
    assert rows(store.read()) == facts


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, -1, -8, -9, -100])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    store = archived(tmp_path, many(10), 4, 10)
    path = store.files()[1].path
    content = path.read_bytes()
    path.write_bytes(content[: int(kept) if kept < 0 else int(len(content) * kept)])
    refused(store, path)
    with pytest.raises(DamagedError, match=path.name):
        store.facts_of_user("user-3")
    assert len(store.facts_of_user("user-3", limit=1)) == 1  # the other file has one


def test_pages_have_checksums_for_other_tools(tmp_path: Path) -> None:
    store = archived(tmp_path, many(10), 10)
    path = store.files()[0].path
    content = bytearray(path.read_bytes())
    end_of_sequences = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    content[end_of_sequences - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_zeros_and_other_files_are_refused(tmp_path: Path) -> None:
    store = archived(tmp_path, many(10), 10)
    path = store.files()[0].path
    size = path.stat().st_size
    path.write_bytes(bytes(size))
    refused(store, path)
    path.write_bytes(b"PAR1" * (size // 4))
    refused(store, path)
    pq.write_table(table(many(10)), path)  # whole, and not ours
    refused(store, path)
    path.unlink()
    path.mkdir()
    refused(store, path)


@pytest.mark.parametrize(
    "origin", [Origin(0, 1, 9), Origin(0, 2, 10), Origin(1, 1, 10), Origin(0, 1, 11)]
)
def test_a_file_under_another_name_is_refused(tmp_path: Path, origin: Origin) -> None:
    store = archived(tmp_path, many(10), 10)
    path = store.files()[0].path
    path.write_bytes(encode(table([event(2)]), origin))
    refused(store, path)


@pytest.mark.parametrize(
    "facts",
    [
        [event(0)],
        [event(11)],
        [event(3), event(3)],
        [event(3, received_ms=START_MS - DAY_MS)],
        [event(3), event(4, received_ms=START_MS + DAY_MS)],
    ],
)
def test_facts_that_cannot_be_there_are_refused(tmp_path: Path, facts: list[Row]) -> None:
    store = archived(tmp_path, many(10), 10)
    path = store.files()[0].path
    path.write_bytes(encode(table(facts), Origin(0, 1, 10)))
    refused(store, path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    store = archived(tmp_path, many(10), 10)
    path = store.files()[0].path
    sink = pa.BufferOutputStream()
    other = table(many(10)).drop_columns("title")
    with pq.ParquetWriter(sink, other.schema) as writer:
        writer.add_key_value_metadata(Origin(0, 1, 10).metadata())
        writer.write_table(other)
    path.write_bytes(sealed(sink.getvalue()))
    refused(store, path)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stored_facts, "FORMAT", 2)
        store = archived(tmp_path, many(10), 10)
    for ask in (
        lambda: list(store.read()),
        lambda: store.facts_of_user("user-3"),
        lambda: store.purge({"user-3": 10}, {}),
        lambda: store.files()[0].rows,
    ):
        with pytest.raises(NewerFormatError, match="has format 2"):
            ask()


# A user's facts


@pytest.mark.usefixtures("_small_groups")
def test_a_users_facts_page_by_page(tmp_path: Path) -> None:
    facts = [movie(1, "film-1", None), *many(30)[3:]]
    store = archived(tmp_path, facts, 4, 5, 30)
    for user in ("user-0", "user-3", "user-6", "user", "user-33", ""):
        wanted = [fact for fact in facts if fact[4] == user]
        assert rows(store.facts_of_user(user)) == wanted
        found: list[Row] = []
        while page := rows(store.facts_of_user(user, after=(found or [(0, 0)])[-1][:2], limit=4)):
            assert len(page) <= 4
            found += page
        assert found == wanted
        for slug in ("film-1", "film"):
            pair = [fact for fact in wanted if fact[5] == slug]
            assert rows(store.facts_of_user(user, slug)) == pair
    assert rows(store.facts_of_user("user-3", after=(30, 2))) == []
    assert rows(store.facts_of_user("user-3", limit=0)) == []


def test_a_page_may_end_within_a_record(tmp_path: Path) -> None:
    facts = many(4, users=1)
    store = archived(tmp_path, facts, 1, 2, 4)
    for fact, following in pairwise(facts):
        assert rows(store.facts_of_user("user-0", after=fact[:2], limit=1)) == [following]


@pytest.mark.usefixtures("_small_groups")
def test_a_look_up_reads_only_the_row_groups_of_its_user(tmp_path: Path) -> None:
    facts = many(40, users=20)
    store = archived(tmp_path, facts, 40)
    path = store.files()[0].path
    file = pq.ParquetFile(path, read_dictionary=["user"])
    users = [file.read_row_group(group)["user"].chunk(0) for group in range(15)]
    assert [name for part in users for name in part.to_pylist()] == sorted(f[4] for f in facts)
    assert all(part.dictionary.to_pylist() == sorted(set(part.to_pylist())) for part in users)
    content = bytearray(path.read_bytes())
    content[file.metadata.row_group(7).column(0).data_page_offset] ^= 1
    path.write_bytes(content)
    for user in {fact[4] for fact in facts}:
        if user in users[7].to_pylist():
            with pytest.raises(DamagedError):
                store.facts_of_user(user)
        else:
            assert rows(store.facts_of_user(user)) == [fact for fact in facts if fact[4] == user]


# Erasing


def test_a_purge_removes_up_to_the_erase(tmp_path: Path) -> None:
    facts = [movie(1, "film-1", "Film"), *many(30)[3:]]
    store = archived(tmp_path, facts, 4, 20, 30)
    users = {"user-3": 25, "user-0": 3, "nobody": 30}
    pairs = {("user-5", "film-1"): 30, ("user-6", "film-2"): 10, ("user-6", "film"): 30}

    def stays(fact: Row) -> bool:
        limit = max(users.get(fact[4], 0), pairs.get((fact[4], fact[5]), 0))
        return bool(fact[0] > limit)

    kept = [fact for fact in facts if stays(fact)]
    assert store.purge(users, pairs) == len(facts) - len(kept)
    assert rows(store.read()) == kept
    assert rows(store.facts_of_user("user-6")) == [fact for fact in kept if fact[4] == "user-6"]
    assert sum(file.rows for file in store.files()) == len(kept)
    assert store.archived_sequence() == 30
    assert store.purge(users, pairs) == 0
    assert store.purge({}, {}) == 0


def test_a_purge_leaves_other_files_alone(tmp_path: Path) -> None:
    facts = [event(1, user="anna"), event(2, user="bob"), event(3, user="anna"), event(4)]
    store = archived(tmp_path, facts, 1, 2, 3, 4)
    before = [file.path.stat().st_ino for file in store.files()]
    counts = [file.rows for file in store.files()]
    assert store.purge({"anna": 3}, {("bob", "other"): 4}) == 2
    after = [file.path.stat().st_ino for file in store.files()]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, False, True]
    assert counts == [1, 1, 1, 1]
    assert [file.rows for file in store.files()] == [0, 1, 0, 1]


@pytest.mark.usefixtures("_small_groups")
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_purged_name_is_in_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    if compression == "none":  # so that all that is written can be seen
        monkeypatch.setitem(WRITING, "compression", "none")
        monkeypatch.setitem(WRITING, "compression_level", None)
    names = ["user-00", "user-0049", "user-0050", "user-0051", "user-0052", "user-1"]
    facts = [
        event(sequence, user=user, slug=f"film of {user}", session=f"session of {user}")
        for sequence, user in enumerate(names * 9, 1)
    ]
    store = archived(tmp_path, facts, 20, 54)
    draft = store.files()[0].path.with_name(f"shard-0000-{55:020}-{60:020}.parquet.tmp")
    shutil.copy(store.files()[0].path, draft)  # as a crash would leave it

    def found(name: str) -> int:
        name_bytes = name.encode()
        return sum(
            name_bytes in str(path).encode() or name_bytes in path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file()
        )

    assert found("user-0050") == 3
    assert store.purge({"user-0050": 54, "user-0049": 54}, {}) == 18
    assert found("user-0050") == found("user-0049") == 0
    assert found("user-0051") > 0
    assert store.purge({}, {("user-0051", "film of user-0051"): 54}) == 9
    assert found("user-0051") == 0
    assert store.purge(dict.fromkeys(names, 54), {}) == 27
    assert found("user-") == 0
    assert store.archived_sequence() == 54
    assert query(store, "select count(*) from FACTS") == [(0,)]


@pytest.mark.parametrize("call", range(4))
def test_a_purge_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    facts = many(12)
    store = archived(tmp_path, facts, 3, 6, 9, 12)
    with monkeypatch.context() as patch:
        fail_at(patch, Path, "replace", call, CrashError())
        with pytest.raises(CrashError):
            store.purge({"user-3": 12}, {})
    kept = [fact for fact in facts if fact[4] != "user-3"]
    assert [row for row in rows(store.read()) if row[4] != "user-3"] == kept
    store.purge({"user-3": 12}, {})
    assert rows(store.read()) == kept
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_file_does_not_keep_a_name_in_the_others(tmp_path: Path) -> None:
    store = archived(tmp_path, many(12), 3, 6, 9, 12)
    damaged = store.files()[1].path
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=damaged.name):
        store.purge({"user-3": 12}, {})
    assert rows(store.read(6)) == [fact for fact in many(12) if fact[0] > 6 and fact[4] != "user-3"]


def test_names_may_be_long_and_many(tmp_path: Path) -> None:
    """More bytes of names than a dictionary page has by default."""
    facts = [
        event(sequence, user=f"{sequence:0256}", slug="ü" * 128, session=f"{sequence:0128}")
        for sequence in range(1, 6_001)
    ]
    store = archived(tmp_path, facts, 6_000)
    assert rows(store.read()) == facts
    assert rows(store.facts_of_user(f"{77:0256}")) == [facts[76]]
    assert store.purge({f"{77:0256}": 6_000}, {}) == 1
    assert rows(store.read()) == facts[:76] + facts[77:]


def test_an_event_takes_few_bytes(tmp_path: Path) -> None:
    facts = Traffic("as generated", users=1_000, movies=200, speedup=7.5).facts(150_000)
    store = Store(tmp_path, 0)
    store.archive(facts, 1, facts["sequence"][-1].as_py())
    assert store.size_bytes < 6.2 * len(facts)


# Anything


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Row], list[int]]:
    """Facts of a log, some of its records without any, and where it is cut into files."""
    names = st.sampled_from(["a", "b", "ab", "ä", "\u00ff", "𝕒", "b\0"])
    last = draw(st.integers(1, 25))
    facts: list[Row] = []
    received_ms = START_MS
    for sequence in range(1, last + 1):
        received_ms += draw(st.sampled_from([0, 1, DAY_MS // 4, 3 * DAY_MS]))
        indexes = sorted(draw(st.sets(st.integers(0, 2**31 - 1), max_size=3)))
        facts += [
            (
                sequence,
                index,
                received_ms,
                draw(st.sampled_from(["event", "position", "hidden"])),
                draw(st.none() | names),
                draw(names),
                draw(st.none() | names),
                *(draw(st.none() | st.integers(-(2**63), 2**63 - 1)) for _ in range(3)),
                draw(st.none() | st.text(max_size=3)),
            )
            for index in indexes
        ]
    return facts, sorted({*draw(st.sets(st.integers(1, last))), last})


@given(
    logs(),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 30)),
    st.dictionaries(st.tuples(st.sampled_from("abä"), st.sampled_from("abä")), st.integers(0, 30)),
    st.integers(0, 26),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_was_archived_and_purged(
    tmp_path_factory: pytest.TempPathFactory,
    log: tuple[list[Row], list[int]],
    users: dict[str, int],
    pairs: dict[tuple[str, str], int],
    after: int,
) -> None:
    facts, lasts = log
    store = archived(tmp_path_factory.mktemp("store"), facts, *lasts)
    assert rows(store.read()) == facts
    kept = [
        fact
        for fact in facts
        if fact[0] > max(users.get(fact[4], 0), pairs.get((fact[4], fact[5]), 0))
    ]
    assert store.purge(users, pairs) == len(facts) - len(kept)
    assert rows(store.read(after)) == [fact for fact in kept if fact[0] > after]
    assert rows(store.facts_of_user("a")) == [fact for fact in kept if fact[4] == "a"]
    assert store.archived_sequence() == lasts[-1]
    assert sum(file.rows for file in store.files()) == len(kept)


def test_only_days_that_changed_are_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the statistics opened, or listed, all files of all years."""
    times = [START_MS + number * DAY_MS for number in range(4)]
    facts = [event(sequence, received_ms=at) for sequence, at in enumerate(times, 1)]
    store = archived(tmp_path, facts, 4)
    days = sorted(tmp_path.iterdir())
    for day in days:
        os.utime(day, ns=(0, time.time_ns() - 2 * 10**9))  # it has been so for a while
    counted: list[Path] = []
    real = stored_files._totals

    def note(day: Path, shard: int) -> Totals | None:
        counted.append(day)
        return real(day, shard)

    monkeypatch.setattr(stored_files, "_totals", note)
    assert store.totals() == Totals(1, 4, 4, store.size_bytes)
    assert sorted(counted) == days
    assert store.totals().facts == 4
    assert sorted(counted) == days
    store.archive(table([event(6, received_ms=times[-1])]), 5, 6)
    assert store.totals() == Totals(1, 6, 5, store.size_bytes)
    assert sorted(counted) == [*days, days[-1]]
    assert Store(tmp_path / "none", 0).totals() == Totals(1, 0, 0, 0)


@pytest.mark.parametrize("gone", range(3))
def test_totals_are_not_of_files_of_which_some_are_missing(tmp_path: Path, gone: int) -> None:
    times = [START_MS, START_MS + 1, START_MS + DAY_MS, START_MS + 2 * DAY_MS]
    facts = [event(sequence, received_ms=at) for sequence, at in enumerate(times, 1)]
    store = archived(tmp_path, facts[:1], 1)
    store.archive(table(facts[1:]), 2, 4)
    store.files()[gone].path.unlink()
    with pytest.raises(DamagedError, match="the file before it is missing"):
        store.totals()
