"""Questions to a filled server, each kind alone, with and without events beside it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from numpy.random import default_rng

from benchmarks import traffic
from benchmarks.bench import FILL_EVENTS, Bench, Plan, Step, fill, fill_library
from benchmarks.measurements import REDIS_GET, Case, Figures
from benchmarks.request_file import get
from benchmarks.subjects import PLAYHEAD, POSTGRES, REDIS_EVERYSEC
from benchmarks.traffic import Events

CONNECTIONS = 64
#: Events a second beside the questions.
INGEST_PER_S = 2_000
#: In the server that is asked, besides those of the players.
PAIRS, PAIRS_QUICK = 1_000_000, 100_000
#: Questions of a kind, before they come again.
QUESTIONS = 20_000
#: Of how many users there are questions.
USERS = 10_000


def plan(bench: Bench) -> Plan:
    """Playhead is asked everything, the others what they know."""
    asked = _Asked(bench)
    names = [name for name in (REDIS_EVERYSEC, POSTGRES) if name in bench.names]
    return [
        bench.rounds_of(_steps(bench, asked, query, names if query == "progress" else [], ingest))
        for query in QUERIES
        for ingest in (0, INGEST_PER_S)
    ]


def _steps(
    bench: Bench, asked: "_Asked", query: str, others: list[str], ingest: int
) -> Iterator[Step]:
    case: Case = {"query": query, "ingest": f"{ingest:,} events/s" if ingest else "none"}
    for name in [PLAYHEAD, *others]:
        yield bench.step(name, case, partial(asked.measure, name, query, ingest))
    if REDIS_EVERYSEC in others:
        yield bench.step(REDIS_GET, case, partial(asked.measure, REDIS_EVERYSEC, REDIS_GET, ingest))


class _Asked:
    """The subjects, filled when they are asked for the first time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._is_filled = False

    def measure(self, name: str, query: str, ingest: int) -> Figures:
        """Of questions alone, or beside so many events a second."""
        bench = self._bench
        self._fill()
        subject = bench.subject(name)
        sent = bench.file(query.replace(" ", "-"), partial(_questions, query))
        if not ingest:
            return bench.loaded(subject, sent, CONNECTIONS)
        with bench.beside(subject, bench.singles(), ingest):
            return bench.loaded(subject, sent, CONNECTIONS)

    def _fill(self) -> None:
        if self._is_filled:
            return
        self._is_filled = True
        bench = self._bench
        fill_library(bench.subject(PLAYHEAD).url, PAIRS_QUICK if bench.is_quick else PAIRS)
        if REDIS_EVERYSEC in bench.names:
            # The strings that `redis GET` asks for.
            fill(f"{bench.subject(REDIS_EVERYSEC).url}/get", traffic.players(1), FILL_EVENTS)
        bench.settle()


def _questions(query: str) -> Iterable[bytes]:
    return redis_gets() if query == REDIS_GET else QUERIES[query]()


# What is asked


def progress(events: Events) -> Iterator[bytes]:
    """Where the players of these events are."""
    return (get(f"/v1/users/{user}/movies/{movie}") for user, movie in _pairs(events))


def redis_gets() -> Iterator[bytes]:
    return (get(f"/get/{user}/{movie}") for user, movie in _pairs(_some_players()))


def _watching() -> Iterator[bytes]:
    for user, movie in _pairs(_some_players()):
        yield get(f"/watching?video_id={movie}", f"Cookie: user_id={user}\r\n".encode())


def _some_players() -> Events:
    return traffic.players(1)[:QUESTIONS]


def _pairs(events: Events) -> Iterator[tuple[str, str]]:
    for user, movie in zip(events.user.tolist(), events.movie.tolist(), strict=True):
        yield traffic.user_name(user), traffic.movie_name(movie)


def _of_users(path: str) -> Iterator[bytes]:
    """Of users of the library, in any order; the path has {} for the name."""
    for number in default_rng(4).integers(0, USERS, QUESTIONS).tolist():
        yield get(path.format(traffic.library_user_name(number)))


def _of_movies(path: str) -> Iterator[bytes]:
    for number in default_rng(5).integers(0, traffic.MOVIES, QUESTIONS).tolist():
        yield get(path.format(traffic.movie_name(number)))


#: The questions of each kind.
QUERIES: dict[str, Callable[[], Iterable[bytes]]] = {
    "progress": lambda: progress(_some_players()),
    "watching": _watching,
    "user": lambda: _of_users("/v1/users/{}"),
    "history": lambda: _of_users("/v1/users/{}/movies"),
    "continue": lambda: _of_users("/v1/users/{}/continue"),
    "movie": lambda: _of_movies("/v1/movies/{}"),
    "retention": lambda: _of_movies("/v1/movies/{}/retention"),
    "timeseries": lambda: _of_movies("/v1/movies/{}/timeseries"),
    "top": lambda: [get("/v1/movies?limit=20")],
    "top of 24 h": lambda: [get("/v1/movies?limit=20&window=24h")],
    "stats": lambda: [get("/v1/stats")],
}
