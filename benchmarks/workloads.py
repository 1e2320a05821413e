"""The workloads of the suite, in the order in which they run.

Each makes its plan without starting anything; the steps start what they need.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

from benchmarks import exactness, growth, load, positions, queries, request_file, traffic
from benchmarks.bench import Bench, Group, Plan, Step
from benchmarks.measurements import COMMON_HALF, OWN_HALF, Case, Figures
from benchmarks.peers import parse
from benchmarks.request_file import RequestFile
from benchmarks.subjects import PARSE, PLAYHEAD, REDIS_ALWAYS

CONNECTIONS = (1, 16, 64, 256, 1_024)
#: What a subject reaches on these is its most; on the others, mixed traffic and resources.
MOST_CONNECTIONS, USUAL_CONNECTIONS = 256, 64
#: So many batches under way keep every subject busy, also while it waits for the disk.
BATCH_CONNECTIONS = 16
BATCH_SIZES = (100, 1_000, 10_000)
#: Events that are parsed over and over.
PARSED_EVENTS = 100_000
#: So many events, then a question.
EVENTS_A_QUESTION = 9
#: Of large batches, until checkpoints are made all the time.
SUSTAINED_ROUNDS = 10
#: At a fixed rate, so that few waits are long.
OPEN_LOOP_ROUNDS = 2
#: Questions are counted in one of the rounds for which batches come beside them.
QUESTIONS_PER_S, BUSY_ROUNDS = 200, 2
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Workload:
    """`is_shared`: of subjects that run side by side, and go on after it."""

    name: str
    plan: Callable[[Bench], Plan]
    is_shared: bool = True


def singles(bench: Bench) -> Plan:
    """One event a request."""

    def measure(name: str, connections: int) -> Figures:
        figures = bench.loaded(bench.subject(name), bench.singles(), connections)
        if connections == MOST_CONNECTIONS:
            bench.remember_most(name, figures["requests_per_second"])
        return figures

    return [
        bench.rounds_of(
            bench.step(name, {"connections": connections}, partial(measure, name, connections))
            for name in bench.names
        )
        for connections in CONNECTIONS
    ]


def batches(bench: Bench) -> Plan:
    """Many events a request in each format, and the same bytes parsed and nothing else."""
    return [
        bench.rounds_of(
            step for name in traffic.FORMATS for step in _batch_steps(bench, name, size)
        )
        for size in BATCH_SIZES
    ]


def _batch_steps(bench: Bench, format: str, size: int) -> Iterator[Step]:
    def measure(name: str) -> Figures:
        sent = _batch_file(bench, format, size)
        return bench.loaded_in_batches(bench.subject(name), sent, BATCH_CONNECTIONS)

    def parsed() -> Figures:
        bodies = traffic.bodies(traffic.players(1), format, size)
        some = list(islice(bodies, PARSED_EVENTS // size))
        return {"events_per_second": parse.events_per_second(some, size, bench.seconds)}

    case: Case = {"format": format, "events": size}
    for name in bench.with_events() if format != "Arrow" else [PLAYHEAD]:
        yield bench.step(name, case, partial(measure, name))
    if format == "JSON":
        yield bench.step(PARSE, case, parsed)


def _batch_file(bench: Bench, format: str, size: int) -> RequestFile:
    def make() -> Iterator[bytes]:
        bodies = traffic.bodies(traffic.players(), format, size)
        return (request_file.post(body, traffic.FORMATS[format]) for body in bodies)

    return bench.file(f"{format}-{size}", make, size)


def sustained(bench: Bench) -> Plan:
    """Large batches for so long that checkpoints no longer wait for less to come."""

    def measure() -> Figures:
        subject, sent = bench.subject(PLAYHEAD), _batch_file(bench, "JSON", BATCH_SIZES[-1])
        figures = bench.loaded_in_batches(subject, sent, BATCH_CONNECTIONS, SUSTAINED_ROUNDS)
        return {**figures, "memory_mib": subject.memory_bytes() / MIB}

    seconds = SUSTAINED_ROUNDS * bench.seconds
    case: Case = {"format": "JSON", "events": BATCH_SIZES[-1], "seconds": seconds}
    return [bench.rounds_of([bench.step(PLAYHEAD, case, measure, SUSTAINED_ROUNDS)])]


def busy(bench: Bench) -> Plan:
    """Questions at a fixed rate, while batches come as fast as they are answered."""

    def measure(name: str, size: int) -> Figures:
        subject, sent = bench.subject(name), _batch_file(bench, "JSON", size)
        asked = bench.file("progress", queries.QUERIES["progress"])
        with ThreadPoolExecutor(1) as asking:
            waited = asking.submit(load.at_rate, subject.url, asked, QUESTIONS_PER_S, bench.seconds)
            figures = bench.loaded_in_batches(subject, sent, BATCH_CONNECTIONS, BUSY_ROUNDS)
        outcome = waited.result()
        return {
            "events_per_second": figures["events_per_second"],
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.p99_ms,
            "p999_ms": outcome.p999_ms,
            "errors": figures["errors"] + outcome.errors,
        }

    return [
        bench.rounds_of(
            bench.step(name, {"events": size}, partial(measure, name, size), BUSY_ROUNDS)
            for name in bench.with_events()
        )
        for size in BATCH_SIZES
    ]


def mixed(bench: Bench) -> Plan:
    """Nine events, then a question of where a player is."""

    def make() -> Iterator[bytes]:
        asked = queries.progress(traffic.players())
        for number, body in enumerate(traffic.singles(traffic.players()), start=1):
            yield request_file.post(body)
            if number % EVENTS_A_QUESTION == 0:
                yield next(asked)

    def measure(name: str) -> Figures:
        share = EVENTS_A_QUESTION / (EVENTS_A_QUESTION + 1)
        sent = bench.file("mixed", make, share)
        return bench.loaded(bench.subject(name), sent, USUAL_CONNECTIONS)

    return [_of_all(bench, bench.with_events(), {"connections": USUAL_CONNECTIONS}, measure)]


def resources(bench: Bench) -> Plan:
    """What an event takes of processors and memory, over all processes of a subject."""

    def measure(name: str) -> Figures:
        subject, sent = bench.subject(name), bench.singles()
        before_s = subject.cpu_seconds()
        result = bench.wrk(subject, sent, USUAL_CONNECTIONS)
        cpu_s = subject.cpu_seconds() - before_s
        return {
            "cpu_us_an_event": cpu_s / result.requests * 1e6,
            "memory_mib": subject.memory_bytes() / MIB,
            "events_per_second": result.per_second,
            "errors": result.errors,
        }

    return [_of_all(bench, bench.names, {"connections": USUAL_CONNECTIONS}, measure)]


def open_loop(bench: Bench) -> Plan:
    """Waits at a fixed rate, from when an event was due."""

    def measure(name: str, half_of: str) -> Figures:
        rate = bench.most(half_of, MOST_CONNECTIONS) / 2
        seconds = OPEN_LOOP_ROUNDS * bench.seconds
        outcome = bench.at_rate(bench.subject(name), bench.singles(), rate, seconds)
        return {
            "events_per_second": rate,
            "p50_ms": outcome.p50_ms,
            "p99_ms": outcome.p99_ms,
            "p999_ms": outcome.p999_ms,
            "errors": outcome.errors,
            "sent_late_p99_ms": outcome.late_p99_ms,
            "sender_cores": outcome.cpu_share,
        }

    def steps(rate: str, half_of: Callable[[str], str]) -> Iterator[Step]:
        for name in bench.names:
            measure_this = partial(measure, name, half_of(name))
            yield bench.step(name, {"rate": rate}, measure_this, OPEN_LOOP_ROUNDS)

    plan = [bench.rounds_of(steps(OWN_HALF, lambda name: name))]
    if REDIS_ALWAYS in bench.names:
        plan.append(bench.rounds_of(steps(COMMON_HALF, lambda _: REDIS_ALWAYS)))
    return plan


def _of_all(
    bench: Bench, names: Sequence[str], case: Case, measure: Callable[[str], Figures]
) -> Group:
    return bench.rounds_of(bench.step(name, case, partial(measure, name)) for name in names)


WORKLOADS = (
    Workload("singles", singles),
    Workload("batches", batches),
    Workload("sustained", sustained),
    Workload("busy", busy),
    Workload("mixed", mixed),
    Workload("resources", resources),
    Workload("open_loop", open_loop),
    Workload("queries", queries.plan),
    Workload("exactness", exactness.plan),
    Workload("pairs", growth.pairs, is_shared=False),
    Workload("start", growth.start, is_shared=False),
    Workload("positions", positions.plan, is_shared=False),
)
