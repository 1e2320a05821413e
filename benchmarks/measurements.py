"""What the suite measured, and the medians of its rounds.

benchmarks/results/suite.json is a `Results`; a run of some workloads replaces theirs.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results" / "suite.json"

#: What is varied, for instance {"connections": 64}.
Case: TypeAlias = Mapping[str, int | str]
#: What came out, with its unit in each name, for instance {"p99_ms": 3.4}.
Figures: TypeAlias = Mapping[str, float]

#: At which rates open loops run, in the cases of that workload.
OWN_HALF, COMMON_HALF = "half of its own", "half of redis always"
#: The redis service, asked for nothing but a string: what a question costs at the least.
REDIS_GET = "redis GET"


class Measurement(msgspec.Struct, frozen=True):
    """One round of one subject."""

    subject: str
    case: dict[str, int | str]
    round: int
    figures: dict[str, float]


class Run(msgspec.Struct, frozen=True):
    """All rounds of a workload."""

    workload: str
    date: str
    commit: str
    rounds: int
    seconds: float
    machine: Machine
    measurements: list[Measurement]

    def cases(self, subject: str | None = None) -> list[Case]:
        """Those of a subject, or of any, in the order in which they were measured."""
        cases: list[Case] = []
        for measurement in self.measurements:
            if subject in (None, measurement.subject) and measurement.case not in cases:
                cases.append(measurement.case)
        return cases

    def subjects(self) -> list[str]:
        return list(dict.fromkeys(m.subject for m in self.measurements))

    def median(self, subject: str, figure: str, case: Case) -> float | None:
        """None where it was not measured."""
        found = [
            m.figures[figure]
            for m in self.measurements
            if m.subject == subject and m.case == case and figure in m.figures
        ]
        return statistics.median(found) if found else None

    def total(self, figure: str) -> float:
        return sum(m.figures.get(figure, 0) for m in self.measurements)


class Results(msgspec.Struct, frozen=True):
    """The newest run of each workload."""

    runs: list[Run]

    def run(self, workload: str) -> Run | None:
        return next((run for run in self.runs if run.workload == workload), None)

    def merged(self, newer: Run, order: Sequence[str]) -> "Results":
        """With this run instead of that workload's last; workloads in this order."""
        runs = [run for run in self.runs if run.workload != newer.workload]
        return Results(sorted([*runs, newer], key=lambda run: order.index(run.workload)))

    def median(self, workload: str, subject: str, figure: str, case: Case) -> float | None:
        run = self.run(workload)
        return None if run is None else run.median(subject, figure, case)


def load(path: Path) -> Results:
    """None measured yet is no error."""
    if not path.exists():
        return Results([])
    return msgspec.json.decode(path.read_bytes(), type=Results)


def save(results: Results, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
