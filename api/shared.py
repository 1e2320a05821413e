"""One answer for all who ask the same at once, as many do for the top movies."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import wraps
from typing import cast

from sanic import HTTPResponse, Request

from aggregator.errors import NoAnswerError
from api.answer import JsonAnswer

Handler = Callable[..., Awaitable[HTTPResponse]]


class Shared:
    """Answers that are being made, by what was asked. Use from one event loop.

    Whoever asks while one is being made shares the one after it, so no answer is older
    than its question.
    """

    def __init__(self) -> None:
        self._making: dict[Hashable, asyncio.Task[bytes]] = {}
        #: What begins when the one that is being made has ended.
        self._next: dict[Hashable, asyncio.Task[bytes]] = {}

    async def get(self, question: Hashable, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """What `make` returns or raises; who goes away takes nothing from the others."""
        answer = self._next.get(question)
        if answer is None:
            before = self._making.get(question)
            answer = asyncio.create_task(self._make(question, make, before))
            answer.add_done_callback(_take_error)
            (self._making if before is None else self._next)[question] = answer
        await asyncio.wait([answer])  # a shield would log an error if the caller has gone
        return answer.result()

    async def _make(
        self,
        question: Hashable,
        make: Callable[[], Awaitable[bytes]],
        before: asyncio.Task[bytes] | None,
    ) -> bytes:
        if before is not None:
            await asyncio.wait([before])
            self._making[question] = self._next.pop(question)
        try:
            if before is not None and isinstance(error := _take_error(before), NoAnswerError):
                raise error  # what waits for a shard that is away has waited enough
            return await make()
        finally:
            if question not in self._next:
                del self._making[question]


def _take_error(answer: asyncio.Task[bytes]) -> BaseException | None:
    """So that none is said to be lost where all who asked have gone."""
    return None if answer.cancelled() else answer.exception()


def shared(handler: Handler) -> Handler:
    """Has one call answer the same question of many, with a body that depends on nothing else."""

    @wraps(handler)
    async def handle(request: Request, **path: str) -> HTTPResponse:
        async def make() -> bytes:
            return cast(bytes, (await handler(request, **path)).body)

        answers: Shared = request.app.ctx.shared
        question = (handler, *path.values(), request.query_string)
        return JsonAnswer(await answers.get(question, make))

    return handle
