"""What the suite says of its measurements: medians, targets, tables, pictures."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import psutil
import pytest
from rich.console import Console

from benchmarks import document, load, measurements, report, request_file, suite
from benchmarks.bench import Bench, Group, Step
from benchmarks.load import Throughput
from benchmarks.machine import Machine, this_machine
from benchmarks.measurements import COMMON_HALF, OWN_HALF, Case, Measurement, Results, Run
from benchmarks.peers import stores
from benchmarks.subjects import NAMES, PARSE, PLAYHEAD, Subject
from benchmarks.targets import TARGETS, Place, Target
from benchmarks.workloads import WORKLOADS

MACHINE = Machine(2, "a processor", 8, "Linux x86_64", {"python": "3.11"})


def run_of(workload: str, *measured: Measurement) -> Run:
    return Run(workload, "2026-01-01", "abc1234", 3, 3, MACHINE, list(measured))


def rounds(subject: str, case: Case, figure: str, *values: float) -> list[Measurement]:
    return [
        Measurement(subject, dict(case), number, {figure: value})
        for number, value in enumerate(values)
    ]


def single(subject: str, connections: int, *rates: float) -> list[Measurement]:
    return rounds(subject, {"connections": connections}, "events_per_second", *rates)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Everything is there, and nothing is started."""
    monkeypatch.setattr(stores, "program", lambda name: name)
    bench = Bench(tmp_path, NAMES, rounds=3, seconds=1, is_quick=False)
    yield bench
    bench.close()


# Medians and files


def test_the_median_of_rounds_counts() -> None:
    run = run_of("singles", *single("playhead", 1, 10, 90, 20), *single("playhead", 16, 7))
    assert run.median("playhead", "events_per_second", {"connections": 1}) == 20
    assert run.median("playhead", "events_per_second", {"connections": 16}) == 7
    assert run.median("playhead", "events_per_second", {"connections": 64}) is None
    assert run.median("playhead", "p99_ms", {"connections": 1}) is None
    assert run.median("ceiling", "events_per_second", {"connections": 1}) is None


def test_a_partial_run_replaces_its_workload_alone(tmp_path: Path) -> None:
    path = tmp_path / "results" / "suite.json"
    for run in (
        run_of("start", *rounds("playhead", {"of": "start"}, "seconds", 5)),
        run_of("singles", *single("playhead", 1, 10)),
        run_of("singles", *single("ceiling", 1, 30)),
    ):
        measurements.save(measurements.load(path).merged(run, suite.NAMES), path)
    results = measurements.load(path)
    assert [run.workload for run in results.runs] == ["singles", "start"]
    assert results.runs[0].subjects() == ["ceiling"]
    assert results.median("start", "playhead", "seconds", {"of": "start"}) == 5


def test_the_file_has_facts_of_the_machine_and_no_folder_of_it(tmp_path: Path) -> None:
    run = run_of("singles", *single("playhead", 1, 10))
    run = msgspec.structs.replace(run, machine=this_machine({"redis": "7.0.15"}))
    measurements.save(Results([run]), tmp_path / "suite.json")
    text = (tmp_path / "suite.json").read_text()
    assert re.search(r'"cores": \d+', text)
    assert str(measurements.RESULTS.parents[2]) not in text


# Targets


@pytest.fixture
def ratio() -> Target:
    return Target(
        "to the ceiling",
        Place("singles", "playhead", "events_per_second", {"connections": 256}),
        Place("singles", "ceiling", "events_per_second", {"connections": 256}),
        at_least=0.9,
    )


def test_a_ratio_is_that_of_medians(ratio: Target) -> None:
    run = run_of("singles", *single("playhead", 256, 80, 90, 500), *single("ceiling", 256, 100))
    value = ratio.value(Results([run]))
    assert value == pytest.approx(0.9)
    assert ratio.is_met(0.9)
    assert not ratio.is_met(0.89)


def test_what_was_not_measured_has_no_ratio(ratio: Target) -> None:
    assert ratio.value(Results([])) is None
    assert ratio.value(Results([run_of("singles", *single("playhead", 256, 80))])) is None


def test_a_target_may_be_an_upper_bound() -> None:
    target = Target("bytes", Place("pairs", "playhead", "bytes_a_pair", {}), at_most=128)
    assert target.is_met(128)
    assert not target.is_met(128.5)


def test_every_target_is_of_something_that_is_measured(bench: Bench) -> None:
    planned = {
        (workload.name, step.subject, tuple(step.case.items()))
        for workload in WORKLOADS
        for group in workload.plan(bench)
        for step in group.steps
    }
    for target in TARGETS:
        for place in filter(None, (target.of, target.to)):
            assert (place.workload, place.subject, tuple(place.case.items())) in planned, place


def test_every_workload_has_a_table() -> None:
    assert {*report.BY_SUBJECT, *report.BY_FIGURE} == set(suite.NAMES)


# Plans


def test_rounds_are_interleaved_and_begin_with_another_subject_each() -> None:
    steps = [Step(name, {}, 1.0, dict) for name in "abc"]
    order = [(number, step.subject) for number, step in Group(steps, rounds=2).in_order()]
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a")]


def test_without_peers_playhead_is_measured_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [PLAYHEAD], rounds=1, seconds=1, is_quick=True)
    for workload in WORKLOADS:
        subjects = {step.subject for group in workload.plan(bench) for step in group.steps}
        # `positions` is nothing but a comparison.
        assert (PLAYHEAD in subjects) == (workload.name != "positions")
        assert subjects <= {PLAYHEAD, PARSE}


def test_the_others_stand_still_while_a_subject_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        for name in ("playhead", "ceiling"):
            command = [sys.executable, "-c", "import time; time.sleep(600)"]
            started = stack.enter_context(subprocess.Popen(command, start_new_session=True))
            stack.callback(started.kill)
            bench._subjects[name] = Subject(name, name, started.pid)

        def stopped() -> dict[str, bool]:
            return {
                name: psutil.Process(subject.pid).status() == psutil.STATUS_STOPPED
                for name, subject in bench._subjects.items()
            }

        seen = []

        def measure(*_: object) -> Throughput:
            deadline = time.monotonic() + 10  # a signal takes a moment
            while not any(stopped().values()) and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append(stopped())
            return Throughput(1, 1, 0, 1, 1, 1)

        monkeypatch.setattr(load, "wrk", measure)
        sent = request_file.write(tmp_path / "requests", [b"GET"])
        bench.wrk(bench._subjects["ceiling"], sent, 1)
        assert seen == [{"playhead": True, "ceiling": False}]
        assert stopped() == {"playhead": False, "ceiling": False}


# Tables and pictures


def shown(run: Run) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        for table in [*report.tables(run), report.targets_table(run)]:
            console.print(table)
    return capture.get()


def test_tables_have_medians_beside_each_other_and_targets() -> None:
    figures = {"requests_per_second": 15_000.4, "events_per_second": 15_000.4, "p99_ms": 7.25}
    measured = [
        Measurement("playhead", {"connections": 1_024}, 0, figures),
        Measurement("playhead", {"connections": 256}, 0, figures),
        Measurement("ceiling", {"connections": 256}, 0, {"events_per_second": 20_000}),
    ]
    text = shown(run_of("singles", *measured))
    assert re.search(r"connections +playhead +ceiling", text)
    assert re.search(r"1,024 +15,000", text)
    assert re.search(r"256 +7\.25", text)
    assert re.search(r"256 connections, to the ceiling +0\.75 +≥ 0\.90 +✗", text)
    assert "redis" not in text


def test_tables_of_figures_have_a_row_a_subject() -> None:
    measured = [
        Measurement(name, {"connections": 64}, 0, {"cpu_us_an_event": 60.5, "memory_mib": 500})
        for name in ("playhead", "postgres")
    ]
    text = shown(run_of("resources", *measured))
    assert re.search(r"64 +playhead +60\.5 +500", text)
    assert re.search(r"64 +postgres +60\.5 +500", text)


@pytest.fixture
def all_measured(bench: Bench) -> Results:
    """A figure for everything that is planned."""
    names = {column.figure for columns in report.BY_FIGURE.values() for column in columns}
    names |= {column.figure for columns in report.BY_SUBJECT.values() for column in columns}
    return Results(
        [
            run_of(
                workload.name,
                *(
                    Measurement(
                        step.subject, dict(step.case), 0, dict.fromkeys(names, number + 1.0)
                    )
                    for group in workload.plan(bench)
                    for number, step in enumerate(group.steps)
                ),
            )
            for workload in WORKLOADS
        ]
    )


def test_a_document_gets_the_tables_that_it_names_and_keeps_the_rest() -> None:
    run = run_of("singles", *single("playhead", 1, 1_000), *single("ceiling", 1, 2_000))
    for each in run.measurements:
        each.figures["requests_per_second"] = each.figures["events_per_second"]
    text = "Before\n\n<!-- singles: requests/s -->\n| old |\n| table |\n\nAfter\n"
    filled = document.filled(text, Results([run]))
    assert filled == (
        "Before\n\n<!-- singles: requests/s -->\n| connections | playhead | ceiling |\n"
        "| --- | --: | --: |\n| 1 | 1,000 | 2,000 |\n\nAfter\n"
    )
    assert document.filled(filled, Results([run])) == filled


@pytest.mark.parametrize("path", document.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_say_what_was_measured_last(path: Path) -> None:
    text = path.read_text()
    assert "<!-- singles: requests/s -->" in text
    assert document.filled(text, measurements.load(measurements.RESULTS)) == text


def test_pictures_are_drawn_the_same_from_the_same_figures(
    all_measured: Results, tmp_path: Path
) -> None:
    report.draw(all_measured, tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {Path(name).suffix for name in drawn} == {".svg", ".png"}
    assert len(drawn) == 10
    report.draw(all_measured, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == drawn


def test_pictures_adapt_to_dark_pages_and_name_all_subjects(
    all_measured: Results, tmp_path: Path
) -> None:
    report.draw(all_measured, tmp_path)
    svg = (tmp_path / "benchmark-singles.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    assert "var(--ink)" in svg
    texts = {"".join(element.itertext()) for element in ET.fromstring(svg).iter()}  # noqa: S314
    assert {"1,024", *NAMES} <= texts


def test_only_what_was_measured_is_drawn(all_measured: Results, tmp_path: Path) -> None:
    report.draw(Results([run for run in all_measured.runs if run.workload == "pairs"]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "benchmark-pairs.svg",
        "benchmark-pairs.png",
    }


def test_without_redis_waits_are_drawn_at_one_rate(all_measured: Results, tmp_path: Path) -> None:
    run = all_measured.run("open_loop")
    assert run is not None
    assert [case["rate"] for case in run.cases()] == [OWN_HALF, COMMON_HALF]
    own = [m for m in run.measurements if m.case["rate"] == OWN_HALF]
    report.draw(Results([msgspec.structs.replace(run, measurements=own)]), tmp_path)
    svg = (tmp_path / "benchmark-latency.svg").read_text()
    assert "half of its own" in svg
    assert "half of redis always" not in svg


def test_the_command_knows_its_workloads() -> None:
    assert suite.NAMES[:2] == ("singles", "batches")
    with pytest.raises(ValueError, match="nothing is none of singles, batches"):
        suite._check_names(None, "singles,nothing")
