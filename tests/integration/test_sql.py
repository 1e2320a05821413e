"""`playhead sql`, beside a server and without one."""

import csv
import io
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.command import command
from tests.playhead import COMMAND, Playhead, eventually

TIMEOUT_S = 100


def as_people_run_it(data_dir: Path, *arguments: str) -> list[str]:
    return [str(COMMAND), "sql", "--data-dir", str(data_dir), *arguments]


def sql(data_dir: Path, *arguments: str) -> str:
    """What it prints; it must not fail."""
    run = command("sql", "--data-dir", data_dir, *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def test_the_answers_are_those_of_the_server_running_and_stopped(
    playhead: Playhead, tmp_path: Path
) -> None:
    playhead.start("--shards", "2")
    events = [
        {"user": f"u{n}", "slug": f"m{n % 3}", "at": at, "duration": 600, "id": f"{n} {at}"}
        for n in range(30)
        for at in range(0, 20 * n, 10)
    ]
    assert playhead.post("/v1/events", json=events).json()["accepted"] == len(events)
    playhead.session.put(f"{playhead.url}/v1/movies/m1", json={"title": "Ménage", "duration": 700})
    movies = playhead.get("/v1/movies").json()["movies"]
    expected = {
        movie["slug"]: (movie["title"], movie["watch_seconds"], movie["completions"])
        for movie in movies
    }
    query = "SELECT slug, title, watch_seconds, completions FROM movies"
    for is_running in (True, False):
        found = json.loads(sql(playhead.data_dir, "--format", "json", query))
        assert {
            row["slug"]: (row["title"], row["watch_seconds"], row["completions"]) for row in found
        } == expected
        if is_running:
            assert playhead.stop() == 0

    table = sql(playhead.data_dir, "SELECT count(*) AS events FROM events")
    assert table.splitlines()[2:] == [f"{len(events):>6}", "1 row"]

    parquet = tmp_path / "events.parquet"
    assert sql(playhead.data_dir, "--output", str(parquet), "FROM events") == ""
    assert pq.read_metadata(parquet).num_rows == len(events)

    rows = csv.DictReader(io.StringIO(sql(playhead.data_dir, "--format", "csv", "FROM users")))
    assert {row["user"] for row in rows} == {event["user"] for event in events}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "SELECT wach_seconds FROM movies",
            'playhead: Binder Error: Referenced column "wach_seconds" not found in FROM clause!',
        ),
        ("SELEC 1", 'playhead: Parser Error: syntax error at or near "SELEC"'),
        ("COPY movies TO 'movies.csv'", "playhead: COPY is no query. playhead sql only reads"),
        ("SELECT error('no ' || 'way')", "playhead: Invalid Input Error: no way"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(server: Playhead, query: str, message: str) -> None:
    run = subprocess.run(
        as_people_run_it(server.data_dir, query),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith(message)
    assert run.stderr.count("\n") == 1


def test_no_data_is_said_in_a_line(tmp_path: Path) -> None:
    run = subprocess.run(
        as_people_run_it(tmp_path, "FROM movies"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"playhead: {tmp_path} holds no data")


def test_ctrl_c_ends_a_query(server: Playhead, tmp_path: Path) -> None:
    endless = "SELECT count(*) FROM range(1_000_000_000_000) AS a"
    with subprocess.Popen(
        as_people_run_it(server.data_dir, endless),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        eventually(lambda: [*tmp_path.glob("playhead-sql-*")] != [], "a database")
        process = psutil.Process(run.pid)
        before_s = process.cpu_times().user
        # To get from the database to the query takes a fraction of that.
        eventually(lambda: process.cpu_times().user > before_s + 2, "a query under way")
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=TIMEOUT_S)
    assert (run.returncode, out, error) == (130, b"", b"")
    assert not list(tmp_path.iterdir())


def test_what_reads_on_may_stop(server: Playhead) -> None:
    with subprocess.Popen(
        as_people_run_it(server.data_dir, "--format", "csv", "FROM range(10_000_000)"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline() == b"range\n"
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(TIMEOUT_S) == -signal.SIGPIPE
