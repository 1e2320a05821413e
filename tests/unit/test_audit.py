"""What `check` finds out about shards in this process, at moments that a test chooses."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator import audit, sockets, wire
from aggregator.audit import ShardReport
from aggregator.commands import Describe, Erase, MarkCompleted, SetPosition
from aggregator.fact_copy import FactCopy
from aggregator.rules import Rules
from aggregator.shard import Shard
from persistence import log
from persistence.directory import DataDirectory
from tests.shards import Clock, crash, in_tasks, order, send, settings_of, state_of, watch


@asynccontextmanager
async def served_shard(folder: Path, **changes: Any) -> AsyncIterator[Shard]:
    """A shard of a data directory that is reached over its socket, as in a server."""
    directory = DataDirectory.open(folder, Rules().as_dict())
    namespace = sockets.namespace_of(directory.manifest.id)
    runtime = Path(tempfile.mkdtemp(prefix=sockets.folder_prefix(namespace)))
    shard = Shard(settings_of(folder, **changes), Clock())
    server = await wire.serve(sockets.socket_path(runtime, 0), in_tasks(shard.handle))
    yield shard
    server.close()
    shutil.rmtree(runtime)
    crash(shard)
    directory.close()


async def live(shard: Shard, first: int = 1, records: int = 10) -> None:
    for sequence in range(first, first + records):
        user = f"user{sequence % 4}"
        if sequence % 5:
            await send(shard, sequence, watch(user, f"movie{sequence % 3}", sequence, 90))
        else:
            described = Describe("movie0", 80_000, None)
            position = SetPosition(user, "movie1", 1_000)
            await order(shard, sequence, described, position, MarkCompleted(user, "movie2"))


async def checked(folder: Path) -> ShardReport:
    (report,) = (await asyncio.to_thread(audit.check, folder)).shards
    return report


def test_all_that_is_known_of_a_shard_is_compared(tmp_path: Path) -> None:
    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            report = await checked(tmp_path)
            assert (report.last, report.problems) == (0, [])
            for snapshots in range(3):
                await live(shard, snapshots * 10 + 1)
                report = await checked(tmp_path)
                last = snapshots * 10 + 10
                kept = [s for s in (20, 10) if s < last]
                after = "with the log after it"
                assert report.compared == [
                    "memory",
                    *([f"snapshot {sequence} {after}" for sequence in kept] or ["the log"]),
                    "stored events",
                ]
                assert (report.last, report.problems, report.left_out) == (last, [], [])
                await shard.checkpoint()

    asyncio.run(run())


def test_without_a_server_its_memory_is_left_out_and_said_so(tmp_path: Path) -> None:
    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            await live(shard)
        report = await checked(tmp_path)
        assert report.compared == ["the log", "stored events"]
        assert report.left_out == ["memory: no server of this data was found here"]

    asyncio.run(run())


def test_memory_that_differs_is_found(tmp_path: Path) -> None:
    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            await live(shard)
            await shard.checkpoint()
            await live(shard, 11)
            pairs = state_of(shard).pairs
            pairs.more["watch_ms"][pairs.more_of(np.array([0]))] += 1
            (problem,) = (await checked(tmp_path)).problems
            assert problem.startswith("progress: watch_ms of user")
            assert ". Most agree with snapshot 10 with the log after it: " in problem
            assert problem.endswith(": look at the running server")

    asyncio.run(run())


def test_a_difference_between_two_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FactCopy.finish

    def lose_one(copy: FactCopy, *arguments: Any) -> None:
        real(copy, *arguments)
        copy._connection.execute("DELETE FROM facts WHERE sequence = 1 AND index = 3")

    async def run() -> str:
        async with served_shard(tmp_path) as shard:
            await live(shard)
            await shard.checkpoint()
        monkeypatch.setattr(FactCopy, "finish", lose_one)
        (problem,) = (await checked(tmp_path)).problems
        return problem

    problem = asyncio.run(run())
    (stored,) = tmp_path.glob("events/*/*.parquet")
    assert problem.startswith("progress: ")
    assert "of user 'user1', slug 'movie1'" in problem
    assert "in snapshot 10 with the log after it and " in problem
    assert "in stored events. One of them is wrong: look at " in problem
    name = f"{stored.parent.name}/{stored.name}"
    assert problem.endswith(f"snapshots/{10:019}; {tmp_path / 'events'}: {name}")


def call_once(function: Callable[[], Any]) -> Callable[[], Any]:
    """Calls it the first time only."""
    left = [function]
    return lambda: left.pop()() if left else None


def test_an_erase_made_final_after_facts_were_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is gone with the log by the time that the server's files are held."""

    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            await live(shard)
            await shard.checkpoint()
            loop = asyncio.get_running_loop()
            real = FactCopy.catch_up

            async def erase() -> None:
                await order(shard, 11, Erase("user1"))
                await shard.checkpoint()

            erase_once = call_once(
                lambda: asyncio.run_coroutine_threadsafe(erase(), loop).result(20)
            )

            def then_erase(copy: FactCopy, *arguments: Any) -> None:
                real(copy, *arguments)
                erase_once()

            monkeypatch.setattr(FactCopy, "catch_up", then_erase)
            report = await checked(tmp_path)
            assert (report.last, report.problems) == (11, [])
            assert len(report.compared) == 3

    asyncio.run(run())


def test_erases_wait_while_files_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes right after the server said what is in memory, and is to be final at once."""

    async def run() -> None:
        async with served_shard(tmp_path, erase_delay_s=0.0) as shard:
            await live(shard)
            await shard.checkpoint()
            loop = asyncio.get_running_loop()
            real = sockets.RunningShard.tables

            async def erase() -> None:
                await order(shard, 11, Erase("user1"))
                await asyncio.sleep(0.2)

            def then_erase(running: sockets.RunningShard) -> Any:
                reply = real(running)
                asyncio.run_coroutine_threadsafe(erase(), loop).result(20)
                return reply

            monkeypatch.setattr(sockets.RunningShard, "tables", then_erase)
            report = await checked(tmp_path)
            assert (report.last, report.problems) == (10, [])
            assert shard._checkpoints._making is not None
            await shard._checkpoints._making
            assert int(log.segments(tmp_path / "shard-0000" / "log")[0].stem) == 12

    asyncio.run(run())


def test_a_server_that_does_not_wait_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were replaced each time are said to be so, and not compared."""

    async def run() -> None:
        async with served_shard(tmp_path, erase_delay_s=3600.0) as shard:
            await live(shard, records=40)
            await shard.checkpoint()
            loop = asyncio.get_running_loop()
            real = sockets.RunningShard.tables
            sequences = iter(range(41, 60))

            async def erase() -> None:
                sequence = next(sequences)
                await order(shard, sequence, Erase(f"user{sequence % 4}", f"movie{sequence % 3}"))
                await shard.checkpoint()

            def then_erase(running: sockets.RunningShard) -> Any:
                reply = real(running)
                asyncio.run_coroutine_threadsafe(erase(), loop).result(20)
                return reply

            monkeypatch.setattr(sockets.RunningShard, "hold", lambda *_: True)
            monkeypatch.setattr(sockets.RunningShard, "tables", then_erase)
            report = await checked(tmp_path)
            assert report.problems
            assert not any("look at" in problem for problem in report.problems)

    asyncio.run(run())


def test_a_server_of_a_copy_is_not_asked(tmp_path: Path) -> None:
    async def run() -> None:
        async with served_shard(tmp_path / "data") as shard:
            await live(shard)
            copy_tree(tmp_path / "data", tmp_path / "copy")
            await live(shard, 11)
            report = await checked(tmp_path / "copy")
            assert (report.last, report.problems) == (10, [])
            assert report.compared == ["the log", "stored events"]

    asyncio.run(run())


def copy_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("pattern", "at", "what"),
    [
        ("events/*/*.parquet", 40, "checksum"),
        ("shard-0000/snapshots/*10/pairs.parquet", 40, "the table is not what the manifest says"),
        ("shard-0000/snapshots/*20/pairs.parquet", 40, "the table is not what the manifest says"),
        ("shard-0000/log/*11.log", 100, "a log record fails its checksum"),
    ],
)
def test_each_damaged_file_is_named(tmp_path: Path, pattern: str, at: int, what: str) -> None:
    """Also one that nothing needs at present; the others are still compared."""

    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            for first in (1, 11):
                await live(shard, first)
                await shard.checkpoint()
            await live(shard, 21)

    asyncio.run(run())
    path = min(tmp_path.glob(pattern))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    report = asyncio.run(checked(tmp_path))
    assert report.problems
    assert all(str(path) in problem for problem in report.problems)
    assert all(what in problem for problem in report.problems)
    assert any("with the log after it" in source for source in report.compared)


def test_a_log_that_lost_its_end_is_noticed(tmp_path: Path) -> None:
    """Its records are whole, and what was stored and in memory is newer."""

    async def run() -> None:
        async with served_shard(tmp_path) as shard:
            await live(shard)
            (segment,) = log.segments(tmp_path / "shard-0000" / "log")
            size = segment.stat().st_size
            await live(shard, 11)
            with segment.open("r+b") as file:
                file.truncate(size)
            report = await checked(tmp_path)
            assert "records 11 to 20 were acknowledged and are not there" in report.problems[0]
            segment.with_name(log.SYNCED).unlink()
            report = await checked(tmp_path)
            assert "SYNCED is missing" in report.problems[0]
            assert "log ends with record 10, and the server has record 20" in report.problems[1]

    asyncio.run(run())


def problems_after(folder: Path, harm: Callable[[Path], object]) -> tuple[list[str], list[str]]:
    """What is said of a shard with ten records, and what was left out but for memory."""

    async def run() -> None:
        async with served_shard(folder) as shard:
            await live(shard)

    asyncio.run(run())
    harm(folder / "shard-0000")
    report = asyncio.run(checked(folder))
    return report.problems, report.left_out[1:]


def test_an_acknowledged_record_that_is_cut_is_a_problem(tmp_path: Path) -> None:
    """Though a shard would start without it."""

    def cut(folder: Path) -> None:
        (segment,) = log.segments(folder / "log")
        segment.write_bytes(segment.read_bytes()[:-1])

    (problem,), _ = problems_after(tmp_path, cut)
    assert "the last record, 10, was acknowledged and is cut" in problem


def test_what_follows_the_last_record_is_no_problem_and_is_told(tmp_path: Path) -> None:
    def append(folder: Path) -> None:
        (segment,) = log.segments(folder / "log")
        segment.write_bytes(segment.read_bytes() + bytes(7))

    problems, (told,) = problems_after(tmp_path, append)
    assert not problems
    assert "it holds no whole record" in told


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("EPOCH", None, "EPOCH has epoch 0, and the log has records of 1"),
        ("EPOCH", b"12", "EPOCH is damaged"),
        ("log/SYNCED", None, "SYNCED is missing"),
        ("log/SYNCED", bytes(13) + b"1", "SYNCED is damaged"),
    ],
)
def test_numbers_are_looked_at(tmp_path: Path, name: str, content: bytes | None, what: str) -> None:
    def replace(folder: Path) -> None:
        path = folder / name
        path.unlink() if content is None else path.write_bytes(content)

    problems, _ = problems_after(tmp_path, replace)
    assert what in problems[0]
