"""`playhead generate`: viewers, sender, display and verification put together."""

import asyncio
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import uvloop
from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt
from rich.console import Console
from rich.text import Text

from benchmarks.client import Client, NoAnswerError, RefusedError
from benchmarks.display import Display, checking, differences_table
from benchmarks.sender import Pace, Sender, Tally
from benchmarks.verification import (
    Difference,
    Verification,
    answers_to,
    differences,
    movie_path,
    user_path,
)
from benchmarks.viewers import Viewers

#: Short enough to type, and two runs rarely have the same.
SEED_MAX = 10**9
#: An earlier run of a seed has left its mark on one of its most popular movies.
MOVIES_ASKED = 20

#: The exit code after a second Ctrl-C, as a shell has it.
INTERRUPTED = 128 + signal.SIGINT


class StartError(Exception):
    """Nothing was sent, and why."""


def _check_url(_: object, url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")


def generate(
    *,
    url: Annotated[
        str,
        Parameter(
            env_var="PLAYHEAD_URL",
            validator=_check_url,
            help="The server; nothing is sent anywhere else.",
        ),
    ] = "http://127.0.0.1:8000",
    users: Annotated[PositiveInt, Parameter(help="How many people watch.")] = 1000,
    movies: Annotated[
        PositiveInt, Parameter(help="How many movies they choose from, a few far more often.")
    ] = 200,
    rate: Annotated[
        NonNegativeFloat, Parameter(help="Events a second, at most; 0: as fast as it goes.")
    ] = 1000,
    events: Annotated[
        PositiveInt | None, Parameter(help="End after so many events; else with Ctrl-C.")
    ] = None,
    batch: Annotated[
        PositiveInt,
        Parameter(help="Events a request. 1: one JSON object; more: an array of so many."),
    ] = 1,
    speedup: Annotated[
        NonNegativeFloat,
        Parameter(
            help="How many times faster than real time the viewers live, at most; 1 is real time, "
            "0 as fast as it takes to reach the rate."
        ),
    ] = 0,
    seed: Annotated[
        NonNegativeInt | None,
        Parameter(help="The same seed is the same viewers; random, and printed, by default."),
    ] = None,
    sessions: Annotated[
        bool,
        Parameter(
            help="With session, id, ts and duration, where players would send them; without: "
            "user, slug and at alone."
        ),
    ] = True,
    connections: Annotated[PositiveInt, Parameter(help="Requests at once, at most.")] = 64,
    verify: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Afterwards compare the totals of every movie, user and pair with the rules.",
        ),
    ] = False,
) -> int:
    """Sends the heartbeats of simulated viewers; `api.cli` has its help."""
    console = Console()
    if seed is None:
        seed = secrets.randbelow(SEED_MAX)
    console.print(Text(f"seed {seed}: {users:,} viewers of {movies:,} movies → {url}"))
    viewers = Viewers(seed, users, movies, sessions)
    verification = Verification() if verify else None
    client = Client(url, connections)
    sender = Sender(
        client,
        connections,
        batch,
        Pace(rate, speedup),
        always_keyed=verify,
        on_counted=verification.record if verification else None,
    )
    try:
        return uvloop.run(_run(console, client, sender, viewers, events, verification))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (StartError, NoAnswerError, RefusedError) as error:
        sys.exit(f"playhead: {error}")


async def _run(
    console: Console,
    client: Client,
    sender: Sender,
    viewers: Viewers,
    events: int | None,
    verification: Verification | None,
) -> int:
    """Sends, shows and checks; returns the exit code."""
    async with client:
        await _check_server(client)
        await _check_seed(console, client, viewers, must_be_new=verification is not None)
        display = Display(console, sender.tally, events)
        async with display.running():
            with _stopped_by_signals(sender):
                await sender.send(islice(viewers, events))
        display.summary(client.retries)
        if verification is None:
            return 0
        return await _verify(console, client, verification, sender.tally)


async def _check_server(client: Client) -> None:
    try:
        await client.check_ready()
    except (NoAnswerError, RefusedError) as error:
        raise StartError(
            f"no server is ready at {client.url} ({error}): "
            "start one with `playhead serve`, or give --url"
        ) from error


async def _check_seed(
    console: Console, client: Client, viewers: Viewers, must_be_new: bool
) -> None:
    """Looks for what an earlier run with the same seed has left on the server."""
    movies = viewers.catalogue.movies if must_be_new else viewers.catalogue.movies[:MOVIES_ASKED]
    paths = [movie_path(movie.slug) for movie in movies]
    if must_be_new:
        paths += [user_path(user) for user in viewers.users]
    known: list[str] = []
    with checking(console, "Looking for earlier runs", len(paths)) as advance:
        async for path, answer in answers_to(paths, client.get):
            known += [path] if answer is not None else []
            advance()
    if known and must_be_new:
        raise StartError(
            f"the server has {known[0]} from an earlier run with this seed, and its totals include "
            "that run, so nothing was sent: --verify needs another --seed, or none"
        )
    if known:
        console.print(
            "The server knows this seed: its totals include earlier runs, "
            "and events with the ids of then are duplicates.",
            style="yellow",
        )


@contextmanager
def _stopped_by_signals(sender: Sender) -> Iterator[None]:
    """The first Ctrl-C ends the run; after that they are what they always are."""
    loop = asyncio.get_running_loop()

    def release() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def stop() -> None:
        release()
        sender.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        release()


async def _verify(
    console: Console, client: Client, verification: Verification, tally: Tally
) -> int:
    expected = verification.expected()
    found: list[Difference] = []
    with checking(console, "Comparing totals", len(expected)) as advance:
        async for of_path in differences(expected, client.get):
            found += of_path
            advance()
    if found:
        console.print(differences_table(found))
    if tally.rejected or tally.lost:
        console.print("Not verified: events were rejected or lost.", style="bold red")
    elif not found:
        console.print(
            f"Verified: {len(expected):,} totals are as {verification.events:,} events make them",
            style="bold green",
        )
    return 1 if found or tally.rejected or tally.lost else 0
