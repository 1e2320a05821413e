"""An export: all that is kept of a user, page by page, from stored events and then the log."""

import asyncio
from pathlib import Path

import pytest

from aggregator import shard as shard_module
from aggregator.commands import (
    Describe,
    Erase,
    Hide,
    MarkCompleted,
    SetPosition,
    UnmarkCompleted,
)
from aggregator.event import Event
from aggregator.messages import (
    Exported,
    ExportRequest,
    Fact,
    Refused,
    decode_reply,
    encode_export,
)
from aggregator.shard import Shard
from tests.shards import (
    NOW_MS,
    Clock,
    crash,
    export_pages,
    order,
    send,
    settings_of,
    watch,
)


async def exported(shard: Shard, user: str, limit: int = 3) -> list[Fact]:
    return [fact for page in await export_pages(shard, user, limit) for fact in page]


async def page(shard: Shard, user: str, after: tuple[int, int], limit: int) -> Exported:
    frame = encode_export(ExportRequest(user, after, limit))
    reply = decode_reply(await shard.handle(frame))
    assert isinstance(reply, Exported)
    return reply


def test_an_export_has_everything_that_counted(tmp_path: Path) -> None:
    async def run() -> None:
        clock = Clock()
        shard = Shard(settings_of(tmp_path), clock)
        first = Event("u", "m", 1.5, "tv", "id", float(NOW_MS - 5), 90.0)
        await send(shard, 1, [first, Event("v", "m", 2.0), first, Event("u", "n", 3.0)])
        await order(
            shard,
            1,
            Describe("m", 5_000, "Title"),
            SetPosition("u", "m", 7_000, if_versions=[5]),
            SetPosition("u", "m", 8_000, if_versions=[1]),
            SetPosition("v", "m", 9_000),
            Hide("u", "never seen"),
        )
        await shard.checkpoint()
        clock.now_ms += 1
        await order(shard, 2, MarkCompleted("u", "o"), UnmarkCompleted("u", "m"), Hide("u", "n"))
        await send(shard, 2, [first, Event("u", "m", 4.0, id="other")])
        later = clock.now_ms
        expected = [
            Fact(NOW_MS, "event", "m", "tv", 1_500, NOW_MS - 5, 90_000),
            Fact(NOW_MS, "event", "n", None, 3_000, None, None),
            Fact(NOW_MS, "position", "m", None, 8_000, None, None),
            Fact(later, "completed", "o", None, None, None, None),
            Fact(later, "uncompleted", "m", None, None, None, None),
            Fact(later, "hidden", "n", None, None, None, None),
            Fact(later, "event", "m", None, 4_000, None, None),
        ]
        assert await exported(shard, "u") == expected
        crash(shard)
        shard = Shard(settings_of(tmp_path), clock)
        assert await exported(shard, "u") == expected
        await shard.checkpoint()
        assert await exported(shard, "u") == expected
        assert [fact.at_ms for fact in await exported(shard, "v")] == [2_000, 9_000]
        assert await export_pages(shard, "nobody", 10) == [[]]
        await shard.close()

    asyncio.run(run())


def test_pages_end_where_they_should(tmp_path: Path) -> None:
    """Wherever the store ends and the log goes on."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        for sequence in range(1, 7):
            await send(shard, sequence, watch("v", "m", 0, 20) + watch("u", "m", 0, 10))
            if sequence in (2, 4):
                await shard.checkpoint()
        facts = await exported(shard, "u", 100)
        assert len(facts) == 12
        for limit in range(1, 15):
            pages = await export_pages(shard, "u", limit)
            assert [fact for page in pages for fact in page] == facts
            assert [len(page) for page in pages[:-1]] == [limit] * ((12 - 1) // limit)
            assert len(pages[-1]) == (12 - 1) % limit + 1
        await shard.close()

    asyncio.run(run())


def test_pages_go_on_after_a_checkpoint_and_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        for sequence in range(1, 5):
            await send(shard, sequence, watch("u", "m", sequence * 100, sequence * 100 + 20))
        first = await page(shard, "u", (0, 0), 4)
        assert first.next == (2, 0)
        await shard.checkpoint()
        second = await page(shard, "u", first.next, 4)
        crash(shard)
        shard = Shard(settings_of(tmp_path), Clock())
        assert second.next is not None
        third = await page(shard, "u", second.next, 4)
        assert third.next is None
        found = [fact.at_ms for part in (first, second, third) for fact in part.facts]
        assert found == [s * 100_000 + at for s in range(1, 5) for at in (0, 10_000, 20_000)]
        await shard.close()

    asyncio.run(run())


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
def test_what_is_erased_is_not_in_it(tmp_path: Path, limit: int) -> None:
    """Where a page of stored events was all erased, the export left out those behind it."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, watch("u", "x", 0, 100) + watch("u", "y", 0, 30))
        await shard.checkpoint()
        await send(shard, 2, watch("u", "x", 200, 230) + watch("u", "z", 0, 10))
        await order(shard, 1, Erase("u", "x"))
        await send(shard, 3, [Event("u", "x", 5.0)])
        expected = [("y", at) for at in (0, 10, 20, 30)] + [("z", 0), ("z", 10), ("x", 5)]
        for _ in range(2):
            facts = await exported(shard, "u", limit)
            assert [(fact.slug, (fact.at_ms or 0) // 1000) for fact in facts] == expected
            await shard.checkpoint()
        await order(shard, 2, Erase("u"))
        for _ in range(2):
            assert await exported(shard, "u", limit) == []
            await shard.checkpoint()
        await shard.close()

    asyncio.run(run())


def test_what_comes_meanwhile_is_in_it_once_or_not_at_all(tmp_path: Path) -> None:
    """Of a record that was on its way, duplicates were exported too."""

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, [Event("u", "m", 1.0, id="x")])
        expected = [1_000]
        for sequence in range(2, 30):
            again = [Event("u", "m", 1.0, id="x"), Event("u", "m", float(sequence))]
            exporting = asyncio.create_task(exported(shard, "u"))
            await asyncio.gather(exporting, send(shard, sequence, again))
            after = [*expected, sequence * 1_000]
            assert [fact.at_ms for fact in exporting.result()] in (expected, after)
            expected = after
        assert [fact.at_ms for fact in await exported(shard, "u")] == expected
        await shard.close()

    asyncio.run(run())


def test_no_more_exports_than_others_can_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up by their clients they were still made, with erases behind them."""
    monkeypatch.setattr(shard_module, "EXPORTS_MAX", 2)

    async def run() -> None:
        shard = Shard(settings_of(tmp_path), Clock())
        await send(shard, 1, watch("u", "m", 0, 50))
        frame = encode_export(ExportRequest("u", (0, 0), 3))
        async with shard._files.reading():
            waiting = [asyncio.create_task(shard.handle(frame)) for _ in range(2)]
            await asyncio.sleep(0)
            assert decode_reply(await shard.handle(frame)) == Refused("2 exports are under way")
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            waiting.append(asyncio.create_task(shard.handle(frame)))
        for task in waiting[1:]:
            assert isinstance(decode_reply(await task), Exported)
        crash(shard)

    asyncio.run(run())
