"""A shard on its own: durable before it answers, the same after a crash, exactly once."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator import checkpoint, tally
from aggregator import shard as shard_module
from aggregator.checkpoint import Folders, Frozen
from aggregator.event import Event
from aggregator.messages import (
    Answers,
    Applied,
    MoviesQuery,
    ProgressQuery,
    Refused,
    StatsQuery,
    TopQuery,
    UserQuery,
    decode_reply,
    encode_events,
    encode_queries,
)
from aggregator.shard import Shard
from kernels import live
from persistence import log
from persistence.batch import Batch
from persistence.errors import DamagedError
from tests.comparison import facts_of_state
from tests.shards import (
    NOW_MS,
    Clock,
    ask,
    crash,
    facts_kept,
    poll,
    send,
    settings_of,
    state_of,
    stats_of,
    watch,
)


def events_of(shard: Shard, user: str) -> int:
    """Asked in this thread, whichever it is."""
    reply = decode_reply(shard.answer(encode_queries([UserQuery(user)])))
    assert isinstance(reply, Answers)
    return int(msgspec.msgpack.decode(reply.answers[0])["events"])


def test_what_was_acknowledged_survives_a_crash(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path, segment_bytes=4096)
        shard = Shard(settings, Clock())
        for sequence in range(1, 60):
            events = watch(f"user{sequence % 7}", f"movie{sequence % 3}", sequence, sequence + 40)
            assert isinstance(await send(shard, sequence, events), Applied)
        before = facts_of_state(state_of(shard))
        crash(shard)
        replayed = Shard(settings, Clock())
        assert len(log.segments(tmp_path / "shard-0000" / "log")) > 1
        assert facts_of_state(state_of(replayed)) == before
        await replayed.close()
        loaded = Shard(settings, Clock())
        assert loaded.recovered.startswith("295 events from the snapshot, 0 from the log")
        assert facts_of_state(state_of(loaded)) == before
        await loaded.close()

    asyncio.run(run())


def test_the_answer_comes_after_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        await send(shard, 1, [Event("u", "m", 1.0)])
        (segment,) = log.segments(tmp_path / "shard-0000" / "log")
        assert synced == [segment.stat().st_size]
        (progress,) = await ask(shard, ProgressQuery("u", "m"))
        assert progress["latest_ms"] == 1000

    asyncio.run(run())


def test_frames_that_come_together_share_an_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        calls.append(descriptor)
        real(descriptor)

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        sends = [send(shard, 1, [Event("u", "m", 1.0)], producer=n) for n in range(1, 21)]
        assert all(isinstance(reply, Applied) for reply in await asyncio.gather(*sends))
        assert len(calls) <= 2
        assert (await ask(shard, UserQuery("u")))[0]["events"] == 20

    asyncio.run(run())


def test_a_frame_sent_again_is_counted_once(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        await send(shard, 1, [Event("u", "m", 1.0, id="x")])
        events = [Event("u", "m", 1.0, id="x"), Event("u", "m", 2.0), Event("v", "m", 3.0)]
        first, again = await asyncio.gather(send(shard, 2, events), send(shard, 2, events))
        assert first == again == await send(shard, 2, events)
        assert isinstance(first, Applied)
        assert first.duplicates == [0]
        crash(shard)
        replayed = Shard(settings, Clock())
        assert await send(replayed, 2, events) == first
        await replayed.close()
        loaded = Shard(settings, Clock())
        assert await send(loaded, 2, events) == first
        assert isinstance(await send(loaded, 1, events), Refused)
        assert [a["events"] for a in await ask(loaded, UserQuery("u"), UserQuery("v"))] == [2, 1]
        await loaded.close()

    asyncio.run(run())


def test_ids_and_keys_count_once_also_after_restarts(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        events = [Event("u", "m", 1.0), Event("u", "m", 2.0), Event("v", "m", 3.0, id="i")]
        assert (await send(shard, 1, events, key="k")) == Applied(NOW_MS, [])
        assert (await send(shard, 2, events, key="k")) == Applied(NOW_MS, [0, 1, 2])
        assert (await send(shard, 3, events, key="other")) == Applied(NOW_MS, [2])
        # What went wrong the first time need not go wrong again: the key is per user.
        assert (await send(shard, 4, [*events, Event("w", "m", 1.0)], key="k")) == Applied(
            NOW_MS, [0, 1, 2]
        )
        crash(shard)
        for ended in (crash, None):
            shard = Shard(settings, Clock())
            sequence = 10 if ended else 20
            assert (await send(shard, sequence, events, key="k")) == Applied(NOW_MS, [0, 1, 2])
            assert (await send(shard, sequence + 1, events[2:])) == Applied(NOW_MS, [0])
            await shard.close()

    asyncio.run(run())


def test_received_never_runs_back(tmp_path: Path) -> None:
    async def run() -> None:
        clock, settings = Clock(), settings_of(tmp_path)
        shard = Shard(settings, clock)
        await send(shard, 1, [Event("u", "m", 10.0)])
        clock.now_ms -= 3_600_000
        reply = await send(shard, 2, [Event("u", "m", 20.0)])
        assert reply == Applied(NOW_MS, [])
        crash(shard)
        shard = Shard(settings, clock)
        assert await send(shard, 3, [Event("u", "m", 30.0)]) == Applied(NOW_MS, [])
        assert (await ask(shard, UserQuery("u")))[0]["watch_ms"] == 20_000
        await shard.close()

    asyncio.run(run())


def test_a_full_disk_is_refused_and_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        await send(shard, 1, [Event("u", "m", 0.0)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            reply = await send(shard, 2, [Event("u", "m", 10.0)])
            assert isinstance(reply, Refused)
            assert "no space left" in reply.reason
            monkeypatch.setattr(shard._log, "has_room", lambda: False)
            stats, user = await ask(shard, StatsQuery(), UserQuery("u"))
            assert (stats["writable"], user["events"]) == (False, 1)
        monkeypatch.setattr(shard._log, "has_room", lambda: True)
        (stats,) = await ask(shard, StatsQuery())
        assert stats["writable"]  # said before anything is sent, as nothing is sent until then
        assert isinstance(await send(shard, 2, [Event("u", "m", 10.0)]), Applied)
        crash(shard)
        shard = Shard(settings, Clock())
        assert (await ask(shard, UserQuery("u")))[0]["watch_ms"] == 10_000
        await shard.close()

    asyncio.run(run())


def test_snapshots_are_taken_while_events_come(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path, snapshot_log_bytes=2_000)
        shard = Shard(settings, Clock())
        for sequence in range(1, 41):
            await send(shard, sequence, watch("u", "m", sequence * 10, sequence * 10 + 50))
        before = facts_of_state(state_of(shard))
        # It is begun a moment after the last answer.
        await poll(shard, lambda: shard._checkpoints._making is not None)
        making = shard._checkpoints._making
        assert making is not None
        await making
        crash(shard)
        folders = list((tmp_path / "shard-0000" / "snapshots").iterdir())
        assert 1 <= len([folder for folder in folders if folder.name.isdigit()]) <= 2
        shard = Shard(settings, Clock())
        assert not shard.recovered.startswith("0 events")
        assert facts_of_state(state_of(shard)) == before
        await shard.close()

    asyncio.run(run())


def test_a_snapshot_holds_what_it_says_while_events_come(tmp_path: Path) -> None:
    """A snapshot named by the log's sequence lost the events that were not applied yet."""

    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        await send(shard, 1, [Event("u", "m", 0.0)])
        sending = [asyncio.create_task(send(shard, 2, [Event("u", "m", 10.0)]))]
        await asyncio.sleep(0)
        checkpointing = asyncio.create_task(shard.checkpoint())
        # This one is behind the segment that the checkpoint begins.
        sending.append(asyncio.create_task(send(shard, 3, [Event("u", "m", 20.0)])))
        await asyncio.gather(checkpointing, *sending)
        stats = await stats_of(shard)
        assert stats.log_sequence == 3
        ahead = stats.log_sequence - stats.snapshot_sequence
        assert ahead > 0
        assert len(facts_kept(shard)) == 3
        before = facts_of_state(state_of(shard))
        crash(shard)
        shard = Shard(settings, Clock())
        what = f"{3 - ahead} events from the snapshot, {ahead} from the log"
        assert shard.recovered.startswith(what)
        assert facts_of_state(state_of(shard)) == before
        assert (await ask(shard, UserQuery("u")))[0]["watch_ms"] == 20_000
        await shard.close()

    asyncio.run(run())


def test_while_the_disk_stalls_queries_are_answered_and_someone_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_disk, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def stall(descriptor: int) -> None:
        real(descriptor)
        on_disk.set()
        assert go_on.wait(20)

    def look(shard: Shard) -> tuple[int, list[str]]:
        """From beside the shard's loop, which waits."""
        try:
            assert on_disk.wait(20)
            monkeypatch.setattr(shard_module, "SLOW_SYNC_S", 0.0)
            for _ in range(2):
                shard.warn_of_slow_disk()
            return events_of(shard, "u"), [record.getMessage() for record in caplog.records]
        finally:
            go_on.set()

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, [Event("u", "m", 0.0)])
        shard.warn_of_slow_disk()
        assert not caplog.records
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", stall)
            looking = asyncio.ensure_future(asyncio.to_thread(look, shard))
            await asyncio.sleep(0)
            await send(shard, 2, [Event("u", "m", 10.0)])
        events, (warning,) = await looking
        assert events == 1
        assert "takes longer than" in warning
        assert events_of(shard, "u") == 2
        await shard.close()

    asyncio.run(run())


def test_what_was_answered_is_counted_for_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large batches are counted in a thread, small ones between others, and questions come beside.

    One that comes after an answer knows of what was answered.
    """
    monkeypatch.setattr(tally, "COUNTED_TOGETHER_MIN", 50)
    monkeypatch.setattr(tally, "COUNTED_BESIDE_MIN", 100)
    monkeypatch.setattr(tally, "COUNTED_AT_ONCE", 200)
    monkeypatch.setattr(tally, "COUNTED_BESIDE_MAX", 300)
    acknowledged, ended = [0], threading.Event()

    def look(shard: Shard) -> list[tuple[int, int]]:
        seen = []
        while not ended.is_set():
            before = acknowledged[0]
            seen.append((before, events_of(shard, "u")))
            time.sleep(0.001)  # else the shard's thread hardly ever has the interpreter's lock
        return seen

    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        await send(shard, 1, [Event("u", "m", 0.0)])
        acknowledged[0] = 1
        looking = asyncio.ensure_future(asyncio.to_thread(look, shard))
        for sequence in range(2, 200):
            size = (1, 99, 150, 400)[sequence % 4]
            await send(shard, sequence, [Event("u", f"m{n}", 1.0) for n in range(size)])
            acknowledged[0] += size
            if sequence % 16 == 0:
                assert events_of(shard, "u") == acknowledged[0]
        ended.set()
        seen = await looking
        assert len(seen) > 10
        assert all(before <= events for before, events in seen)
        before = facts_of_state(state_of(shard))
        crash(shard)
        shard = Shard(settings, Clock())
        assert facts_of_state(state_of(shard)) == before
        assert events_of(shard, "u") == acknowledged[0]
        await shard.close()

    asyncio.run(run())


def test_few_events_are_counted_together_soon_after_their_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "COUNTED_TOGETHER_MIN", 6)
    batches: list[int] = []

    async def run() -> None:
        shard, counted = Shard(settings_of(tmp_path), Clock()), asyncio.Event()
        state = state_of(shard)
        count = state.count

        def noting_count(batch: Batch, *others: Any) -> None:
            batches.append(len(batch))
            count(batch, *others)
            counted.set()

        monkeypatch.setattr(state, "count", noting_count)
        for sequence in range(1, 11):  # six of them are enough not to wait for more
            await send(shard, sequence, [Event("u", "m", float(sequence))])
        await asyncio.sleep(0)
        assert batches == [6]
        counted.clear()
        await counted.wait()
        assert batches == [6, 4]
        assert log.synced(tmp_path / "shard-0000" / "log") == 10
        await send(shard, 11, [Event("u", "m", 11.0)])
        assert events_of(shard, "u") == 11
        assert batches == [6, 4, 1]
        await shard.close()

    monkeypatch.setattr(shard_module, "CHORES_DELAY_S", 2.0)
    asyncio.run(run())


def test_a_turn_that_was_asked_for_does_not_come_after_the_close(tmp_path: Path) -> None:
    """It went on with a log that was closed."""

    async def run() -> list[str]:
        faults: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: faults.append(c["message"]))
        shard = Shard(settings_of(tmp_path), Clock())
        await shard.checkpoint()
        shard.start()
        await shard.close()
        shard._log.note_synced = lambda: faults.append("a turn")  # type: ignore[method-assign]
        shard.start()
        await asyncio.sleep(0.01)
        return faults

    assert asyncio.run(run()) == []


def test_a_replay_forgets_the_ids_that_were_forgotten_live(tmp_path: Path) -> None:
    """A replay in one go remembered an id for days, and dropped what had been counted."""

    async def run() -> None:
        clock, settings = Clock(), settings_of(tmp_path)
        shard = Shard(settings, clock)
        for sequence, (hours, identifier) in enumerate([(0, "x"), (36, "y"), (26, "z"), (10, "x")]):
            clock.now_ms += hours * 3_600_000
            await send(shard, sequence + 1, [Event("u", "m", 1.0, id=identifier)])
        before = facts_of_state(state_of(shard))
        assert (await ask(shard, UserQuery("u")))[0]["events"] == 4
        crash(shard)
        shard = Shard(settings, clock)
        assert facts_of_state(state_of(shard)) == before
        await shard.close()

    asyncio.run(run())


def test_statistics_and_movies_of_a_frame_are_of_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an earlier one had all pairs looked at."""

    class Running(Clock):
        def __call__(self) -> int:
            self.now_ms += 1
            return self.now_ms

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Running())
        await send(shard, 1, [Event("u", "m", 1.0)])
        monkeypatch.setattr(live, "mark_all", lambda *_: pytest.fail("all are looked at"))
        for _ in range(2):
            movies, stats, again = await ask(
                shard, MoviesQuery(["m"]), StatsQuery(), MoviesQuery(["m"])
            )
            assert movies == again
            assert movies[0]["watching_now"] == stats["watching_now"] == 1
        await shard.close()

    asyncio.run(run())


def test_an_id_is_never_taken_for_a_key(tmp_path: Path) -> None:
    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        for sequence, text in enumerate(["K", "\nK", "\n\nK"], start=1):
            await send(shard, sequence, [Event("u", "m", 1.0, id=text)])
        for sequence, text in enumerate(["K", "\nK", "\n\nK"], start=4):
            assert await send(shard, sequence, [Event("u", "m", 1.0)], key=text) == Applied(NOW_MS)
        await shard.close()

    asyncio.run(run())


def manifests(folder: Path) -> list[Path]:
    return list(folder.glob("shard-0000/snapshots/*/MANIFEST.json"))


def test_a_damaged_snapshot_is_made_up_for_by_the_one_before_and_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path)
        for sequence in (1, 2, 3):
            shard = Shard(settings, Clock())
            await send(shard, sequence, [Event("u", "m", 10.0 * sequence, id=f"{sequence}")])
            await shard.close()
        before, kept = facts_of_state(state_of(shard)), facts_kept(shard)
        newest = max(manifests(tmp_path))
        newest.write_bytes(b"")
        shard = Shard(settings, Clock())
        assert shard.recovered.startswith("2 events from the snapshot, 1 from the log")
        assert facts_of_state(state_of(shard)) == before
        assert newest.parent.with_suffix(".broken").exists()
        again = [Event("u", "m", 1.0, id=f"{sequence}") for sequence in (1, 2, 3)]
        assert await send(shard, 4, again) == Applied(NOW_MS, [0, 1, 2])
        await shard.close()
        shard = Shard(settings, Clock())
        assert shard.recovered.startswith("3 events from the snapshot, 0 from the log")
        assert facts_of_state(state_of(shard)) == before
        assert facts_kept(shard) == kept
        await shard.close()

    asyncio.run(run())


def test_a_damaged_snapshot_is_made_up_for_by_a_log_that_is_still_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        await send(shard, 1, watch("u", "m", 0, 20))
        with monkeypatch.context() as patch:
            patch.setattr(log, "drop_before", lambda *_: None)  # it ended before that
            await shard.checkpoint()
        before = facts_of_state(state_of(shard))
        crash(shard)
        (manifest,) = manifests(tmp_path)
        manifest.write_text(manifest.read_text().replace('"format": 4', '"format": 2'))
        shard = Shard(settings, Clock())
        assert shard.recovered.startswith("0 events from the snapshot, 3 from the log")
        assert facts_of_state(state_of(shard)) == before
        assert [path.parent.suffix for path in manifests(tmp_path)] == [".broken"]
        await shard.close()

    asyncio.run(run())


@pytest.mark.parametrize("checkpoints", [1, 2, 3])
@pytest.mark.parametrize("with_log", [True, False])
def test_damaged_snapshots_that_nothing_makes_up_for_are_refused(
    tmp_path: Path, checkpoints: int, with_log: bool
) -> None:
    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        for sequence in range(1, checkpoints + 1):
            await send(shard, sequence, [Event("u", "m", 10.0 * sequence)])
            await shard.checkpoint()
        await send(shard, checkpoints + 1, [Event("u", "m", 0.0)])
        crash(shard)

    asyncio.run(run())
    found = manifests(tmp_path)
    assert len(found) == min(checkpoints, 2)
    for manifest in found:
        manifest.write_bytes(b"")
    if not with_log:
        for segment in log.segments(tmp_path / "shard-0000" / "log"):
            segment.unlink()
    before = files_in(tmp_path)
    for _ in range(2):
        with pytest.raises(DamagedError, match=str(max(found))):
            Shard(settings_of(tmp_path), Clock())
        assert files_in(tmp_path) == before


def files_in(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "EPOCH"
    }


def test_what_is_stored_is_its_owners_alone(tmp_path: Path) -> None:
    Shard(settings_of(tmp_path / "data"), Clock())
    for folder in (tmp_path / "data", tmp_path / "data" / "shard-0000"):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_stranger_among_the_segments_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0000" / "log"
    folder.mkdir(parents=True)
    (folder / "notes.log").write_text("not a segment")
    Shard(settings_of(tmp_path), Clock())
    assert (folder / "notes.log").exists()


def test_a_frame_that_makes_no_sense_is_refused_and_not_logged(tmp_path: Path) -> None:
    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        for frame in (b"", b"?", encode_events(1, 1, b"nonsense"), encode_events(1, 1, bytes(200))):
            assert isinstance(decode_reply(await shard.handle(frame)), Refused)
        (stats,) = await ask(shard, StatsQuery())
        assert stats["log_sequence"] == 0
        await shard.close()

    asyncio.run(run())


def test_others_are_answered_while_statistics_look_at_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, watch("u", "m", 0, 10))
        counted: list[int] = []

        def sizes(_: Path) -> list[int]:
            other = threading.Thread(target=lambda: counted.append(events_of(shard, "u")))
            other.start()
            other.join(10)
            return [len(counted)]

        monkeypatch.setattr(log, "sizes", sizes)
        assert (await stats_of(shard)).log_bytes == 1
        await shard.close()
        assert counted == [2]

    asyncio.run(run())


def test_damage_is_refused_and_the_file_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        settings = settings_of(tmp_path)
        shard = Shard(settings, Clock())
        for sequence in range(1, 4):
            await send(shard, sequence, [Event("u", "m", 1.0)])
        crash(shard)

    asyncio.run(run())
    (segment,) = log.segments(tmp_path / "shard-0000" / "log")
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(content)
    for _ in range(2):  # a failed attempt does not hold the folder
        with pytest.raises(DamagedError, match=str(segment)):
            Shard(settings_of(tmp_path), Clock())


def test_queries(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Clock()
        shard = Shard(settings_of(tmp_path), clock)
        await send(shard, 1, watch("u", "x", 0, 100) + watch("u", "y", 0, 50))
        await send(shard, 2, [*watch("v", "y", 0, 20), Event("v", "z", 5.0, session="tv")])
        clock.now_ms += 60_001
        await send(shard, 3, [Event("v", "z", 65.0, session="tv")])
        nobody, nothing, movies = await ask(
            shard, UserQuery("w"), ProgressQuery("u", "z"), MoviesQuery(["y", "?", "z"])
        )
        assert nobody is nothing is None
        y, z = movies
        assert (y["slug"], y["watch_ms"], y["viewers"], y["watching_now"]) == ("y", 70_000, 2, 0)
        assert (z["slug"], z["watch_ms"], z["events"], z["watching_now"]) == ("z", 60_000, 2, 1)
        hour = clock.now_ms // 3_600_000
        top, tied, none, named = await ask(
            shard,
            TopQuery("watch_seconds", 2),
            TopQuery("completions", 5),
            TopQuery("watch_seconds", 5, since_hour=hour + 1),
            TopQuery("viewers", 1, slugs=["z", "y", "?"]),
        )
        assert [(movie["slug"], movie["value"]) for movie in top] == [("x", 100_000), ("y", 70_000)]
        assert [movie["slug"] for movie in tied] == ["x", "y", "z"]
        assert {movie["value"] for movie in none} == {0}
        assert [(movie["slug"], movie["value"]) for movie in named] == [("z", 1), ("y", 2)]
        await shard.close()

    asyncio.run(run())


def test_a_log_that_ends_before_what_was_stored_of_it_is_refused(tmp_path: Path) -> None:
    """Its next records would have numbers that stored ones have."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, watch("u", "m", 0, 20))
        await send(shard, 2, watch("u", "m", 30, 50))
        crash(shard)

    asyncio.run(run())
    folders = Folders.of(tmp_path / "shard-0000", 0, settings_of(tmp_path).owner)
    checkpoint.archive(folders, Frozen(2, {}, {}))
    (segment,) = log.segments(folders.log)
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"ends with record 1, and .* has later ones"):
        Shard(settings_of(tmp_path), Clock())


async def _live_with_checkpoints(folder: Path) -> None:
    shard = Shard(settings_of(folder), Clock())
    for sequence in (1, 2):
        await send(shard, sequence, watch("u", "m", 0, 20))
        await shard.checkpoint()
    await send(shard, 3, watch("u", "m", 30, 50))
    crash(shard)


def test_what_a_snapshot_has_and_is_not_stored_is_missed(tmp_path: Path) -> None:
    """It would be stored again, and of these records it is not known what was a duplicate."""
    asyncio.run(_live_with_checkpoints(tmp_path))
    max((tmp_path / "events").glob("*/*.parquet")).unlink()
    with pytest.raises(DamagedError, match=r"events is .* after record 1 are missing"):
        Shard(settings_of(tmp_path), Clock())


def test_the_segment_that_a_snapshot_has_begun_is_missed(tmp_path: Path) -> None:
    """It had one record, and the log before it ends as if only that was cut."""
    asyncio.run(_live_with_checkpoints(tmp_path))
    before, last = log.segments(tmp_path / "shard-0000" / "log")
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(DamagedError, match=r"log is .* after record 2, .* is missing"):
        Shard(settings_of(tmp_path), Clock())
    assert before.exists()
    last.write_bytes(content)
    crash(Shard(settings_of(tmp_path), Clock()))
