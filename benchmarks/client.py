"""The HTTP API, as the generator uses it: what failed is tried again until it is known."""

import threading
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, ParamSpec, TypeVar

import aiohttp
import msgspec
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    stop_when_event_set,
    wait_exception,
    wait_random_exponential,
)

#: A try that takes longer than a server tries a lost shard has lost its connection.
TRY_TIMEOUT_S = 30.0
#: With waits of 2 s on average about a minute: more than a restart takes.
TRIES_MAX = 30
WAIT_MAX_S = 4.0

_HEADERS = {"Content-Type": "application/json"}

P = ParamSpec("P")
T = TypeVar("T")


class NoAnswerError(Exception):
    """Whether the request was carried out is unknown, after all tries."""


class RefusedError(Exception):
    """The server said no, and will again: a client error, or a bug."""


class UnavailableError(Exception):
    """503: try again, after `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("503 Service Unavailable")
        self.retry_after_s = retry_after_s


#: What may be different the next time.
_FAILED = (UnavailableError, aiohttp.ClientError, TimeoutError)


class Counted(msgspec.Struct, frozen=True):
    """What became of the events of a request; `now` is when they were received."""

    accepted: int
    duplicates: int
    rejected: int
    now: str


_counted = msgspec.json.Decoder(Counted)


class Client:
    """Talks to one server, and to no other; use as an async context manager.

    All methods raise `RefusedError`, and `NoAnswerError` when every try failed.
    """

    def __init__(self, url: str, connections: int) -> None:
        self.url = url
        self.retries = 0
        #: Once set, what fails is not tried again.
        self.is_ending = threading.Event()
        self._connections = connections
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(_FAILED),
            stop=stop_after_attempt(TRIES_MAX) | stop_when_event_set(self.is_ending),
            wait=wait_exception(_retry_after_s) + wait_random_exponential(0.1, max=WAIT_MAX_S),
            before_sleep=self._count_retry,
        )

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            self.url.rstrip("/") + "/",
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=TRY_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, body: bytes, key: str | None) -> Counted:
        """Sends events; `key` is the request's Idempotency-Key."""
        headers = _HEADERS if key is None else {**_HEADERS, "Idempotency-Key": key}
        return _counted.decode(await self._try(self._post, body, headers))

    async def get(self, path: str) -> dict[str, Any] | None:
        """The answer; None when what was asked for has never been seen."""
        found = await self._try(self._get, path)
        return None if found is None else msgspec.json.decode(found, type=dict[str, Any])

    async def check_ready(self) -> None:
        """Asks once."""
        try:
            if await self._get("readyz") is None:
                raise RefusedError("it is something else: GET /readyz answers 404")
        except _FAILED as error:
            raise NoAnswerError(_text_of(error)) from error

    async def _try(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            # A copy, because retrying keeps the state of the call that is under way.
            return await self._retrying.copy()(call, *args, **kwargs)
        except RetryError as error:
            last = error.last_attempt
            raise NoAnswerError(
                f"no answer after {last.attempt_number} tries: {_text_of(last.exception())}"
            ) from error

    async def _post(self, body: bytes, headers: dict[str, str]) -> bytes:
        async with self._session.post(
            "", data=body, headers=headers, allow_redirects=False
        ) as response:
            return await _body_of(response)

    async def _get(self, path: str) -> bytes | None:
        async with self._session.get(path, allow_redirects=False) as response:
            if response.status == HTTPStatus.NOT_FOUND:
                return None
            return await _body_of(response)

    def _count_retry(self, _: RetryCallState) -> None:
        self.retries += 1


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    body = await response.read()
    if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise UnavailableError(float(response.headers.get("Retry-After", 0)))
    if response.status != HTTPStatus.OK:
        raise RefusedError(f"{response.status} {body.decode(errors='replace')}")
    return body


def _retry_after_s(error: BaseException) -> float:
    return error.retry_after_s if isinstance(error, UnavailableError) else 0.0


def _text_of(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
