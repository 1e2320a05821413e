"""What is around the code: compose file, lock files, one-way imports."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from api.settings import Settings

ROOT = Path(__file__).parents[2]


def test_compose_starts_playhead_and_a_generator_with_a_volume() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    playhead, generator = compose["services"]["playhead"], compose["services"]["generator"]
    assert playhead["healthcheck"]["test"]
    assert "data:/data" in playhead["volumes"]
    assert "data" in compose["volumes"]
    assert playhead["shm_size"]
    assert generator["depends_on"]["playhead"]["condition"] == "service_healthy"
    assert generator["command"][0] == "generate"


def test_the_image_is_pinned_and_runs_as_someone() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    assert re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+", lines[0])
    assert any(re.fullmatch(r"USER (?!root)\w+", line) for line in lines)
    assert any("--require-hashes -r requirements.txt" in line for line in lines)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_lock_has_a_hash_for_everything_and_names_no_host(name: str) -> None:
    content = (ROOT / name).read_text()
    hashed = re.findall(r"(?m)^[\w.-]+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", content)
    assert len(hashed) == len(re.findall(r"(?m)^[\w.-]+==", content)) > 50
    assert not re.search(r"https?:|file:|index-url|find-links", content)


def test_the_tests_that_durability_names_exist() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "durability.md").read_text())
    assert len(named) > 40
    for path, name in named:
        assert re.search(rf"(?m)^(def |class )?{name}\b", (ROOT / path).read_text()), (path, name)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("kernels", {"persistence", "aggregator", "api", "benchmarks", "ray", "sanic", "pyarrow"}),
        ("persistence", {"aggregator", "api", "benchmarks", "ray", "sanic"}),
        ("aggregator", {"api", "benchmarks", "sanic"}),
        ("api", {"ray"}),
    ],
)
def test_imports_go_one_way(folder: str, forbidden: set[str]) -> None:
    for path in (ROOT / folder).glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.partition(".")[0] for name in names} & forbidden, path


@pytest.mark.parametrize(
    "module",
    ["rules", "reference", "state", "runs", "table", "intmap", "names", "recent", "answers"],
)
def test_the_rules_and_the_state_know_neither_ray_nor_files(module: str) -> None:
    source = (ROOT / "aggregator" / f"{module}.py").read_text()
    assert not re.search(r"(?m)^(?:import|from) (?:ray|asyncio|os|pathlib)\b", source)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = (ROOT / "docs" / "operating.md").read_text()
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        row = re.search(rf"(?m)^\| `{flag}` \| `PLAYHEAD_{name.upper()}` .*$", table)
        assert row is not None, flag
        assert str(field.description) in row[0]
