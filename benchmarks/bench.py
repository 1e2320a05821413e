"""What a run of the suite has: subjects, files of requests, and steps to measure."""

import contextlib
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import requests

from benchmarks import load, request_file, subjects, traffic
from benchmarks.load import Throughput
from benchmarks.measurements import Case, Figures
from benchmarks.open_loop import WARM_UP_S, Outcome
from benchmarks.request_file import RequestFile
from benchmarks.subjects import Subject

#: Events in a request that fills a subject.
FILL_EVENTS, ARROW_FILL_EVENTS = 1_000, 50_000
FILL_TIMEOUT_S = 60
#: Of a load beyond what is counted: wrk starts, connections open, subjects settle.
OVERHEAD_S = 1.0
#: Before a step nothing works off what came before: of one core, over so long, waited for so long.
QUIET_CORES, QUIET_S, QUIET_TIMEOUT_S = 0.15, 0.25, 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement; `seconds` is about how long it takes."""

    subject: str
    case: Case
    seconds: float
    measure: Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Group:
    """Steps whose rounds are interleaved."""

    steps: list[Step]
    rounds: int

    def in_order(self) -> Iterator[tuple[int, Step]]:
        """Rounds begin with another step each, so that none always follows the same."""
        for number in range(self.rounds):
            first = number % max(len(self.steps), 1)
            for step in [*self.steps[first:], *self.steps[:first]]:
                yield number, step

    @property
    def seconds(self) -> float:
        return self.rounds * sum(step.seconds for step in self.steps)


Plan = list[Group]


class Bench:
    """Starts what workloads ask for when they do, and ends it with `close`."""

    def __init__(
        self, folder: Path, names: Sequence[str], rounds: int, seconds: int, is_quick: bool
    ) -> None:
        self.names = names
        self.rounds = rounds
        self.seconds = seconds
        self.is_quick = is_quick
        self._folder = folder
        self._shared = ExitStack()
        self._own = ExitStack()
        self._subjects: dict[str, Subject] = {}
        self._own_subjects: list[Subject] = []
        self._files: dict[str, RequestFile] = {}
        self._numbers = count()
        # Requests that a subject has had of a file.
        self._sent: Counter[tuple[str, Path]] = Counter()
        self._most: dict[str, list[float]] = defaultdict(list)

    # Plans

    def step(
        self, subject: str, case: Case, measure: Callable[[], Figures], rounds_long: int = 1
    ) -> Step:
        """A step that measures for as long as so many rounds."""
        return Step(subject, case, rounds_long * self.seconds + OVERHEAD_S, measure)

    def rounds_of(self, steps: Iterable[Step]) -> Group:
        return Group(list(steps), self.rounds)

    # Subjects

    def with_events(self) -> list[str]:
        """The subjects that keep events."""
        return [name for name in self.names if name != subjects.CEILING]

    def subject(self, name: str) -> Subject:
        """One of those that run side by side; each knows all players."""
        if not self._subjects:
            started = subjects.started(self.names, self.new_folder())
            self._subjects = self._shared.enter_context(started)
            for filled in self._subjects.values():
                fill(filled.url, traffic.players(1), FILL_EVENTS)
            self.settle()
        return self._subjects[name]

    def own_playhead(self) -> Subject:
        """One of the workload's own, without data."""
        started = self._own.enter_context(subjects.playhead(self.new_folder()))
        self._own_subjects.append(started)
        return started

    def own(self, names: Sequence[str], folder: Path) -> dict[str, Subject]:
        """The workload's own, side by side, with their data in `folder`."""
        started = self._own.enter_context(subjects.started(names, folder))
        self._own_subjects += started.values()
        return started

    def settle(self) -> None:
        """Waits for checkpoints, rewrites and the like, so that none disturbs another subject."""
        running = self._running()
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while running and time.monotonic() < deadline:
            before_s = sum(subject.cpu_seconds() for subject in running)
            time.sleep(QUIET_S)
            used_s = sum(subject.cpu_seconds() for subject in running) - before_s
            if used_s < QUIET_CORES * QUIET_S:
                return

    def _running(self) -> list[Subject]:
        return [*self._subjects.values(), *self._own_subjects]

    def _alone(self, subject: Subject) -> AbstractContextManager[None]:
        return subjects.alone(subject, beside=self._running())

    def close_shared(self) -> None:
        self._subjects = {}
        self._shared.close()

    def close_own(self) -> None:
        self._own_subjects = []
        self._own.close()

    def close(self) -> None:
        with self._shared, self._own:
            pass

    # Requests

    def new_folder(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def file(
        self, name: str, make: Callable[[], Iterable[bytes]], events_each: float = 0
    ) -> RequestFile:
        """The requests that `make` yields; made once."""
        if name not in self._files:
            path = self._folder / f"{name}.requests"
            self._files[name] = request_file.write(path, make(), events_each)
        return self._files[name]

    def singles(self) -> RequestFile:
        """An event of one player after the other."""
        return self.file(
            "singles",
            lambda: map(request_file.post, traffic.singles(traffic.players())),
            events_each=1,
        )

    # Load

    def loaded(self, subject: Subject, sent: RequestFile, connections: int) -> Figures:
        """What a round of wrk comes to."""
        result = self.wrk(subject, sent, connections)
        return {
            "requests_per_second": result.per_second,
            "events_per_second": result.per_second * sent.events_each,
            "p50_ms": result.p50_us / 1000,
            "p99_ms": result.p99_us / 1000,
            "p999_ms": result.p999_us / 1000,
            "errors": result.errors,
        }

    def loaded_in_batches(
        self, subject: Subject, sent: RequestFile, connections: int, rounds_long: int = 1
    ) -> Figures:
        """As `loaded`, where a round may have few requests, for as long as so many rounds."""
        first, seconds = self._first(subject, sent), rounds_long * self.seconds
        with self._alone(subject):
            result = load.until_answered(subject.url, sent, connections, seconds, first)
        self._count(subject, sent, result.requests)
        return {
            "requests_per_second": result.per_second,
            "events_per_second": result.per_second * sent.events_each,
            "p50_ms": result.p50_ms,
            "p99_ms": result.p99_ms,
            "errors": result.errors,
            "sender_cores": result.cpu_share,
        }

    def wrk(self, subject: Subject, sent: RequestFile, connections: int) -> Throughput:
        """For as long as a round lasts."""
        first = self._first(subject, sent)
        with self._alone(subject):
            result = load.wrk(subject.url, sent, connections, self.seconds, first)
        self._count(subject, sent, result.requests)
        return result

    def at_rate(self, subject: Subject, sent: RequestFile, rate: float, seconds: int) -> Outcome:
        first = self._first(subject, sent)
        with self._alone(subject):
            result = load.at_rate(subject.url, sent, rate, seconds, first)
        self._count(subject, sent, round(rate * (seconds + WARM_UP_S)))
        return result

    @contextlib.contextmanager
    def beside(self, subject: Subject, sent: RequestFile, rate: float) -> Iterator[None]:
        """Requests at this rate during a round of something else."""
        with load.beside(subject.url, sent, rate, self._first(subject, sent)):
            yield
        self._count(subject, sent, round(rate * self.seconds))

    def _first(self, subject: Subject, sent: RequestFile) -> int:
        """Where the last load ended, so that positions go on."""
        return self._sent[subject.url, sent.path]

    def _count(self, subject: Subject, sent: RequestFile, requests: int) -> None:
        self._sent[subject.url, sent.path] += requests

    def remember_most(self, name: str, per_second: float) -> None:
        """That a subject reached as many single events a second."""
        self._most[name].append(per_second)

    def most(self, name: str, connections: int) -> float:
        """Single events a second that it reached in this run; tried now if not yet."""
        if not self._most[name]:
            reached = self.wrk(self.subject(name), self.singles(), connections)
            self.remember_most(name, reached.per_second)
        return statistics.median(self._most[name])


def fill(url: str, events: traffic.Events, size: int, format: str = "JSON") -> None:
    """Sends all, in order."""
    headers = {"Content-Type": traffic.FORMATS[format]}
    with requests.Session() as session:
        session.trust_env = False
        for body in traffic.bodies(events, format, size):
            answer = session.post(url, data=body, headers=headers, timeout=FILL_TIMEOUT_S)
            answer.raise_for_status()


def fill_library(url: str, pairs: int) -> None:
    """Each pair begins, and goes on."""
    for events in traffic.library(pairs):
        fill(url, events, ARROW_FILL_EVENTS, "Arrow")
