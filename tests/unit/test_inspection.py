"""A data directory read beside its shards: what they have in memory, and nothing changed."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from aggregator import checkpoint, inspection, recovery
from aggregator.checkpoint import Frozen
from aggregator.commands import Describe, Erase, Hide, MarkCompleted, SetPosition
from aggregator.event import Event
from aggregator.inspection import Inspection, folded, inspect, joined
from aggregator.messages import (
    Applied,
    Done,
    Held,
    HoldRequest,
    Refused,
    Tabled,
    TablesRequest,
    decode_reply,
    encode_hold,
    encode_tables_request,
)
from aggregator.rules import Rules
from aggregator.shard import Shard
from aggregator.sql_rules import first_difference, totals
from aggregator.state import State
from aggregator.tables import tables_of
from persistence import log
from persistence.directory import DataDirectory, NoDataError
from persistence.errors import DamagedError
from tests.shards import Clock, crash, order, send, settings_of, state_of, watch


@asynccontextmanager
async def shards_in(folder: Path, number: int = 1, **changes: Any) -> AsyncIterator[list[Shard]]:
    """Shards of a data directory, which end without a checkpoint."""
    directory = DataDirectory.open(folder, Rules().as_dict(), number)
    shards = [Shard(settings_of(folder, n, **changes), Clock()) for n in range(number)]
    yield shards
    for shard in shards:
        crash(shard)
    directory.close()


async def live(shard: Shard, user: str, first: int = 1) -> None:
    """Some of everything: nine records, the fifth of which erases what came before."""
    steps: list[Any] = [
        [*watch(user, "m", 0, 100), *watch(f"gone {user}", "m", 0, 50)],
        [Describe("m", 200_000, "A title"), SetPosition(user, "y", 5_000)],
        [*watch(f"half {user}", "m", 0, 50), *watch(f"half {user}", "x", 0, 50)],
        [Event(user, "m", 110.0, id="i"), Event(user, "m", 110.0, id="i")],
        [Erase(f"gone {user}"), Erase(f"half {user}", "m")],
        [MarkCompleted(user, "z"), Hide(user, "m"), Hide(user, "never")],
        watch(f"gone {user}", "m", 0, 20),
        [Event(user, "m", 120.0, id="i"), Event(user, "m", 185.0, session="tv")],
        watch(user, "m", 0, 190),
    ]
    for sequence, step in enumerate(steps, start=first):
        if isinstance(step[0], Event):
            assert isinstance(await send(shard, sequence, step), Applied)
        else:
            assert isinstance(await order(shard, sequence, *step), Done)


def by_sql(content: Inspection) -> dict[str, pa.Table]:
    with duckdb.connect() as connection:
        content.create_facts(connection)
        return totals(connection, "facts", content.rules, content.fold_before)


def assert_same(one: dict[str, pa.Table], other: dict[str, pa.Table]) -> None:
    assert first_difference(one, other) is None


def everything_in(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_is_what_the_shards_have_in_memory(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path, 3) as shards:
            for number, shard in enumerate(shards):
                await live(shard, f"user{number}")
            for stored in (0, 9, 18):
                content = inspect(tmp_path)
                memory = [tables_of(state_of(shard)) for shard in shards]
                for in_memory, on_disk in zip(memory, content.shards, strict=True):
                    assert_same(
                        in_memory | {"hours": folded(in_memory["hours"], content.fold_before)},
                        on_disk.tables | {"hours": folded(on_disk.tables["hours"], 0)},
                    )
                    assert on_disk.stored == [] or on_disk.stored[-1].last == stored
                assert_same(content.tables(), by_sql(content))
                (movie,) = (
                    content.tables()["movies"].filter(pa.compute.field("slug") == "m").to_pylist()
                )
                assert (movie["viewers"], movie["title"]) == (6, "A title")
                for number, shard in enumerate(shards):
                    await shard.checkpoint()
                    await live(shard, f"user{number}", first=stored + 10)

    asyncio.run(run())


def test_facts_erased_are_left_out_of_files_that_still_have_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await send(shard, 1, [*watch("u", "m", 0, 50), *watch("v", "m", 0, 50)])
            await send(shard, 2, watch("w", "m", 0, 50) + watch("w", "x", 0, 50))
            await shard.checkpoint()
            await order(shard, 3, Erase("u"), Erase("w", "x"))
            await send(shard, 4, watch("u", "m", 0, 10))
            content = inspect(tmp_path)
            with duckdb.connect() as connection:
                content.create_facts(connection)
                counts = connection.sql(
                    'FROM facts SELECT "user", slug, count(*) GROUP BY ALL ORDER BY ALL'
                ).fetchall()
            assert counts == [("u", "m", 2), ("v", "m", 6), ("w", "m", 6)]
            assert_same(content.tables(), by_sql(content))

    asyncio.run(run())


def test_every_record_can_be_the_last(tmp_path: Path) -> None:
    """Also within what a replay would apply at once."""

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")
            await shard.checkpoint()
            kept = {9: tables_of(state_of(shard))}
            for sequence in range(10, 18):
                await send(shard, sequence, watch("u", "m", sequence, sequence + 30))
                kept[sequence] = tables_of(state_of(shard))
            for sequence, tables in kept.items():
                content = inspect(tmp_path, {0: sequence})
                assert content.shards[0].last == sequence
                assert_same(tables, content.tables())
                assert_same(tables, by_sql(content))
            await shard.checkpoint()
            with pytest.raises(DamagedError, match="newer than record 12"):
                inspect(tmp_path, {0: 12})

    asyncio.run(run())


def test_stored_facts_after_the_last_record_do_not_count(tmp_path: Path) -> None:
    """There are some where a checkpoint was cut short."""

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await send(shard, 1, watch("u", "m", 0, 50))
            tables = tables_of(state_of(shard))
            await send(shard, 2, watch("u", "m", 60, 90))
            checkpoint.archive(shard._folders, Frozen(2, {}, {}))
            content = inspect(tmp_path, {0: 1})
            assert content.shards[0].stored[-1].last == 2
            assert_same(tables, by_sql(content))
            assert_same(inspect(tmp_path).tables(), tables_of(state_of(shard)))

    asyncio.run(run())


def test_nothing_is_changed(tmp_path: Path) -> None:
    """Not even a torn tail is cut: it may be a record that is being written."""

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")
            await shard.checkpoint()
            await live(shard, "u", first=10)
            newest = log.segments(tmp_path / "shard-0000" / "log")[-1]
            with newest.open("ab") as segment:
                segment.write(newest.read_bytes()[16:100])
            before = everything_in(tmp_path)
            content = inspect(tmp_path)
            assert content.shards[0].last == 18
            assert_same(content.tables(), by_sql(content))
            assert everything_in(tmp_path) == before

    asyncio.run(run())


def test_a_checkpoint_meanwhile_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot that was loaded, and the log after it, go at the worst moment."""
    loaded, go_on = threading.Event(), threading.Event()
    real = recovery.replayed

    def wait_first(*arguments: Any) -> Any:
        if not loaded.is_set():
            loaded.set()
            assert go_on.wait(20)
        return real(*arguments)

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")
            monkeypatch.setattr(inspection, "replayed", wait_first)
            inspecting = asyncio.create_task(asyncio.to_thread(inspect, tmp_path))
            assert await asyncio.to_thread(loaded.wait, 20)
            await order(shard, 10, Erase("u", "z"))
            await shard.checkpoint()  # with an erase, so that no older log is kept
            assert int(log.segments(tmp_path / "shard-0000" / "log")[0].stem) == 11
            go_on.set()
            content = await inspecting
            assert content.shards[0].snapshot_sequence == 10
            assert_same(tables_of(state_of(shard)), content.tables())

    asyncio.run(run())


def test_damage_is_no_reason_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")

    asyncio.run(run())
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    (segment,) = log.segments(tmp_path / "shard-0000" / "log")
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)
    with pytest.raises(DamagedError, match=str(segment)):
        inspect(tmp_path)


def test_stored_files_that_are_missing_are_noticed(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")
            await shard.checkpoint()

    asyncio.run(run())
    for path in tmp_path.glob("events/*/*.parquet"):
        path.unlink()
    with pytest.raises(DamagedError, match="files after record 0 are missing"):
        inspect(tmp_path)


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoDataError, match=f"{tmp_path} holds no data of playhead's"):
        inspect(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_shards_that_have_not_begun_are_empty(tmp_path: Path) -> None:
    DataDirectory.open(tmp_path, Rules().as_dict(), 2).close()
    content = inspect(tmp_path)
    assert [table.num_rows for table in content.tables().values()] == [0] * 5
    assert_same(content.tables(), by_sql(content))


def test_hours_of_shards_that_fold_at_different_times_are_joined() -> None:
    def tables(hours: list[int]) -> dict[str, pa.Table]:
        names = {"slug": ["m"] * len(hours), "hour": hours, "watch_ms": [1_000] * len(hours)}
        return tables_of(State(Rules())) | {"hours": pa.table(names)}

    together = joined([tables([24, 25, 50]), tables([24, 47, 48])], 48)["hours"]
    rows = sorted(zip(*together.select(["hour", "watch_ms"]).to_pydict().values(), strict=True))
    assert rows == [(24, 4_000), (48, 1_000), (50, 1_000)]


# What a running shard does for it


async def tables_from(shard: Shard, folder: Path) -> Any:
    return decode_reply(await shard.handle(encode_tables_request(TablesRequest(str(folder)))))


async def hold(shard: Shard, folder: Path, holder: int, seconds: float) -> Any:
    request = HoldRequest(str(folder), holder, seconds)
    return decode_reply(await shard.handle(encode_hold(request)))


def test_a_shard_says_all_that_it_has_in_memory(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await live(shard, "u")
            reply = await tables_from(shard, tmp_path / "shard-0000")
            assert isinstance(reply, Tabled)
            assert reply.sequence == 9
            assert_same(tables_of(state_of(shard)), reply.decoded())
            assert reply.fold_before == state_of(shard).hours.fold_before > 0

    asyncio.run(run())


def test_tables_are_of_the_moment_of_their_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that come in while they are encoded are not among them."""
    encoding, go_on = threading.Event(), threading.Event()
    real = asyncio.to_thread

    async def slowly(function: Any, *arguments: Any) -> Any:
        if function.__name__ != "encode_tables":
            return await real(function, *arguments)
        encoding.set()
        await real(go_on.wait, 20)
        return await real(function, *arguments)

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            await send(shard, 1, watch("u", "m", 0, 50))
            before = tables_of(state_of(shard))
            monkeypatch.setattr(asyncio, "to_thread", slowly)
            asking = asyncio.create_task(tables_from(shard, tmp_path / "shard-0000"))
            assert await real(encoding.wait, 20)
            await send(shard, 2, watch("u", "m", 60, 90) + watch("v", "x", 0, 90))
            go_on.set()
            reply = await asking
            assert isinstance(reply, Tabled)
            assert reply.sequence == 1
            assert_same(before, reply.decoded())

    asyncio.run(run())


def test_a_shard_of_other_data_refuses(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path / "one") as (shard,):
            copy = tmp_path / "copy" / "shard-0000"
            copy.mkdir(parents=True)
            for folder in (copy, tmp_path / "nowhere"):
                for reply in (await tables_from(shard, folder), await hold(shard, folder, 1, 9)):
                    assert isinstance(reply, Refused)
                    assert str(tmp_path / "one" / "shard-0000") in reply.reason

    asyncio.run(run())


def test_checkpoints_wait_for_who_holds_the_files(tmp_path: Path) -> None:
    async def run() -> None:
        async with shards_in(tmp_path, erase_delay_s=0.0) as (shard,):
            folder = tmp_path / "shard-0000"
            await send(shard, 1, watch("u", "m", 0, 50))
            assert await hold(shard, folder, 1, 30.0) == Held()
            assert await hold(shard, folder, 2, 30.0) == Held()
            await order(shard, 2, Erase("u"))
            for holder in (1, 2):
                await asyncio.sleep(0.05)
                assert not [*folder.glob("snapshots/*")]
                await hold(shard, folder, holder, 0)
            assert shard._checkpoints._making is not None
            await shard._checkpoints._making
            assert [*folder.glob("snapshots/*")]

    asyncio.run(run())


def test_a_hold_ends_also_when_its_holder_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        folder = tmp_path / "shard-0000"
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, watch("u", "m", 0, 50))
        await hold(shard, folder, 1, 0.05)
        await asyncio.wait_for(shard.checkpoint(), 20)
        assert len([*folder.glob("snapshots/*")]) == 1
        await send(shard, 2, watch("u", "m", 0, 50))
        await hold(shard, folder, 1, 30.0)
        await asyncio.wait_for(shard.close(), 20)
        assert len([*folder.glob("snapshots/*")]) == 2

    asyncio.run(run())


def test_damaged_snapshots_that_no_log_makes_up_for_are_named(tmp_path: Path) -> None:
    """The log was, as it lacks what they had."""

    async def run() -> None:
        async with shards_in(tmp_path) as (shard,):
            for sequence in range(1, 4):
                await send(shard, sequence, watch("u", "m", sequence * 100, sequence * 100 + 50))
                await shard.checkpoint()

    asyncio.run(run())
    manifests = sorted(tmp_path.glob("shard-0000/snapshots/*/MANIFEST.json"), reverse=True)
    manifests[0].write_bytes(b"{}")
    assert inspect(tmp_path).shards[0].snapshot_sequence == 2
    manifests[1].write_bytes(b"{}")
    with pytest.raises(DamagedError, match=str(manifests[0])):
        inspect(tmp_path)
