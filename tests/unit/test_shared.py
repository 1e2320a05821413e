"""Those who ask the same at once share an answer, which is never older than a question."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest
from sanic import HTTPResponse, Request

from aggregator.errors import ShardsUnavailableError
from api.answer import JsonAnswer
from api.shared import Shared, shared


class Source:
    """Each answer says how many were begun before it; it is given when the test lets it."""

    def __init__(self) -> None:
        self.begun = 0
        self.let = asyncio.Semaphore(0)

    async def __call__(self) -> bytes:
        self.begun += 1
        number = self.begun
        await self.let.acquire()
        return b"%d" % number


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Callable[[Shared, Source], Awaitable[None]]) -> None:
    async def whole() -> None:
        answers, source = Shared(), Source()
        await scenario(answers, source)
        await settle()
        assert (answers._making, answers._next) == ({}, {})

    asyncio.run(whole())


def test_those_who_come_while_an_answer_is_made_share_the_next() -> None:
    async def scenario(answers: Shared, source: Source) -> None:
        first = asyncio.create_task(answers.get("q", source))
        await settle()
        later = [asyncio.create_task(answers.get("q", source)) for _ in range(5)]
        other = asyncio.create_task(answers.get("another", source))
        await settle()
        assert source.begun == 2  # the first, and the other question's
        source.let.release()
        assert await first == b"1"
        await settle()
        assert source.begun == 3
        newest = asyncio.create_task(answers.get("q", source))
        await settle()
        assert source.begun == 3
        for _ in range(3):
            source.let.release()
        assert await other == b"2"
        assert await asyncio.gather(*later) == [b"3"] * 5
        assert await newest == b"4"
        source.let.release()
        assert await answers.get("q", source) == b"5"  # nothing is kept

    run(scenario)


def test_who_goes_away_takes_nothing_from_the_others() -> None:
    async def scenario(answers: Shared, source: Source) -> None:
        asked = [asyncio.create_task(answers.get("q", source))]
        await settle()
        asked += [asyncio.create_task(answers.get("q", source)) for _ in range(3)]
        await settle()
        for gone in (asked[0], asked[1]):
            gone.cancel()
        await settle()
        source.let.release()
        source.let.release()
        assert await asyncio.gather(*asked[2:]) == [b"2"] * 2

    run(scenario)


def test_an_error_is_for_those_who_shared_it_alone() -> None:
    async def scenario(answers: Shared, source: Source) -> None:
        async def fail() -> bytes:
            await source.let.acquire()
            raise ValueError("no")

        failing = asyncio.create_task(answers.get("q", fail))
        await settle()
        waiting = [asyncio.create_task(answers.get("q", source)) for _ in range(2)]
        await settle()
        source.let.release()
        with pytest.raises(ValueError, match="no"):
            await failing
        source.let.release()
        assert await asyncio.gather(*waiting) == [b"1"] * 2

    run(scenario)


def test_who_waited_for_a_shard_that_is_away_does_not_wait_again() -> None:
    async def scenario(answers: Shared, source: Source) -> None:
        async def fail() -> bytes:
            await source.let.acquire()
            raise ShardsUnavailableError({0: "away"})

        asked = [asyncio.create_task(answers.get("q", fail))]
        await settle()
        asked += [asyncio.create_task(answers.get("q", source)) for _ in range(2)]
        await settle()
        source.let.release()
        errors = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in errors] == [ShardsUnavailableError] * 3
        assert source.begun == 0
        source.let.release()
        assert await answers.get("q", source) == b"1"

    run(scenario)


def test_no_error_is_said_to_be_lost_when_all_who_asked_have_gone() -> None:
    said: list[str] = []

    async def scenario(answers: Shared, source: Source) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: said.append(c["message"]))

        async def fail() -> bytes:
            await source.let.acquire()
            raise ValueError("no")

        asked = [asyncio.create_task(answers.get("q", fail))]
        await settle()
        asked.append(asyncio.create_task(answers.get("q", fail)))
        await settle()
        for gone in asked:
            gone.cancel()
        await settle()
        for _ in asked:
            source.let.release()
        await settle()
        gc.collect()

    run(scenario)
    assert said == []


def test_a_handler_answers_each_question_once_at_a_time() -> None:
    begun: list[str] = []

    @shared
    async def handler(request: Request, slug: str) -> HTTPResponse:
        question = f"{slug}?{request.query_string}"
        begun.append(question)
        await asyncio.sleep(0)
        return JsonAnswer(question.encode())

    async def scenario() -> list[bytes | None]:
        app = SimpleNamespace(ctx=SimpleNamespace(shared=Shared()))
        asked = [("a", ""), ("a", ""), ("a", "limit=1"), ("b", ""), ("a", "")]
        calls = [
            handler(cast(Request, SimpleNamespace(app=app, query_string=query)), slug=slug)
            for slug, query in asked
        ]
        return [answer.body for answer in await asyncio.gather(*calls)]

    assert asyncio.run(scenario()) == [b"a?", b"a?", b"a?limit=1", b"b?", b"a?"]
    assert sorted(begun) == ["a?", "a?", "a?limit=1", "b?"]  # the first was under way at once
