"""playhead beside a service that keeps the latest position alone, as one would begin with."""

from collections.abc import Iterator
from functools import partial

from benchmarks import queries, traffic
from benchmarks.bench import FILL_EVENTS, Bench, Plan, Step, fill
from benchmarks.measurements import Case, Figures
from benchmarks.peers.positions import can_install, install
from benchmarks.request_file import RequestFile
from benchmarks.subjects import PLAYHEAD, POSITIONS, REDIS_ALWAYS, Subject

CONNECTIONS = (1, 16, 64, 256)
READ_CONNECTIONS = 64
EVENTS, QUESTIONS = "events", "questions"
#: Pairs that are asked for; each has had an event.
ASKED_PAIRS = 20_000
#: Where each takes many events at once.
FILL_PATHS = ("/", "/all")


def plan(bench: Bench) -> Plan:
    """Heartbeats, and questions where a user was; nothing where the service cannot be run."""
    if REDIS_ALWAYS not in bench.names or not can_install():
        return []
    sides = _Sides(bench)
    loads = [(EVENTS, each) for each in CONNECTIONS] + [(QUESTIONS, READ_CONNECTIONS)]
    return [bench.rounds_of(_steps(bench, sides, *load)) for load in loads]


def _steps(bench: Bench, sides: "_Sides", sent: str, connections: int) -> Iterator[Step]:
    for name in (PLAYHEAD, POSITIONS):
        case: Case = {"sent": sent, "connections": connections}
        yield bench.step(name, case, partial(sides.load, name, sent, connections))


class _Sides:
    """Both servers, from the first load on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._subjects: dict[str, Subject] = {}

    def load(self, name: str, sent: str, connections: int) -> Figures:
        if not self._subjects:
            self._start()
        requests = self._bench.singles() if sent == EVENTS else self._questions()
        return self._bench.loaded(self._subjects[name], requests, connections)

    def _start(self) -> None:
        folder = self._bench.new_folder()
        service = folder / POSITIONS
        service.mkdir()
        install(service)
        self._subjects = self._bench.own([PLAYHEAD, POSITIONS], folder)
        for path, subject in zip(FILL_PATHS, self._subjects.values(), strict=True):
            fill(subject.url + path, traffic.players(1)[:ASKED_PAIRS], FILL_EVENTS)

    def _questions(self) -> RequestFile:
        asked = traffic.players(1)[:ASKED_PAIRS]
        return self._bench.file("positions-asked", lambda: queries.progress(asked))
