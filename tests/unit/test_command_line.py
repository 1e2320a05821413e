"""What the command line says of itself, and of what it does not take."""

import re
from pathlib import Path

import pytest

from api.cli import app
from tests.command import command

#: As one begins in a table of the help, where names of types are in capitals.
A_SENTENCE = re.compile(r" [A-Z][a-z ]*[a-z]")


def rows(*arguments: str) -> list[str]:
    """What stands in the tables of a help, without the frame; a row may have several lines."""
    shown = command(*arguments, "--help").stdout
    return [line.strip("│ ") for line in shown.splitlines() if line.startswith("│")]


def test_the_list_of_commands_says_what_each_does() -> None:
    begun = {row.partition(" ")[0]: row for row in rows()}
    for name in app:
        if not name.startswith("-"):
            assert A_SENTENCE.search(begun[name]), name


@pytest.mark.parametrize("name", ["rebuild", "sql", "check", "backup", "restore", "generate"])
def test_a_command_says_what_its_flags_mean(name: str) -> None:
    flags = [row for row in rows(name) if re.match(r"(\* )?([A-Z]+ )?--", row)]
    assert flags
    assert [row for row in flags if not A_SENTENCE.search(row)] == []


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (["--port", "abc"], {}, "--port (or PLAYHEAD_PORT): Input should be a valid integer"),
        (["--credit", "foo"], {}, "--credit (or PLAYHEAD_CREDIT): Input should be 'position' or"),
        (["--log-level", "loud"], {}, "--log-level (or PLAYHEAD_LOG_LEVEL): Input should be"),
        (["--shards", "5000"], {}, "--shards (or PLAYHEAD_SHARDS): Input should be less than"),
        (["--shards", "2"], {"PORT": "x"}, "--port (or PLAYHEAD_PORT): Input should be a valid"),
        ([], {"PORT": "x"}, "--port (or PLAYHEAD_PORT): Input should be a valid integer"),
        (["--nonsense"], {}, "Unknown option: --nonsense"),
        (["--cors-origins", "tv.example"], {}, "--cors-origins (or PLAYHEAD_CORS_ORIGINS): 'tv."),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"PLAYHEAD_{name}", value)
    ended = command("serve", *flags)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"playhead: {said}")
    assert ended.stderr.count("\n") == 1
    assert "http" not in ended.stderr.replace("scheme://", "")


@pytest.mark.parametrize(
    ("flag", "wrong", "allowed"),
    [
        ("--shards", ["0", "4097"], ["1", "4096"]),
        ("--max-gap-ms", ["-1", "3600001"], ["0", "3600000"]),
        ("--idle-ms", ["-1", "31536000001"], ["0", "31536000000"]),
        ("--complete-ratio", ["0", "1.01", "nan"], ["0.000001", "1"]),
        ("--hours-kept-days", ["30", "3661"], ["31", "3660"]),
    ],
)
def test_rebuild_takes_what_the_server_takes(
    tmp_path: Path, flag: str, wrong: list[str], allowed: list[str]
) -> None:
    """It wrote rules with which no server started."""
    for value in wrong:
        refused = command("serve", f"{flag}={value}")
        also = command("rebuild", f"{flag}={value}")
        assert refused.returncode == also.returncode == 2
        assert also.stderr == re.sub(r" \(or \w+\)", "", refused.stderr)
        assert also.stderr.startswith(f"playhead: {flag}: Input should be ")
    for value in allowed:
        ended = command("rebuild", f"{flag}={value}", "--data-dir", tmp_path)
        assert (ended.returncode, "holds no data" in ended.stderr) == (1, True)
        wrong_beside = command("serve", f"{flag}={value}", "--port=no").stderr
        assert wrong_beside.startswith("playhead: --port")
        assert flag not in wrong_beside


@pytest.mark.parametrize(
    "origins",
    [
        "",
        " , ",
        "*",
        "https://tv.example",
        "http://localhost:3000, https://tv.example:8443,",
        "http://[::1]:8000",
        "https://127.0.0.1:80",
        "capacitor://localhost",
    ],
)
def test_origins_as_browsers_send_them_are_taken(origins: str) -> None:
    said = command("serve", "--cors-origins", origins, "--port=no").stderr
    assert "--port" in said
    assert "--cors-origins" not in said


@pytest.mark.parametrize(
    "origin",
    [
        "tv.example",
        "https://tv.example/",
        "https://tv.example/player",
        "HTTPS://tv.example",
        "https://TV.example",
        "https://tv.example:443",
        "http://tv.example:80",
        "https://*.tv.example",
        "https://user@tv.example",
        "https://",
        "null",
    ],
)
def test_what_no_browser_sends_is_refused_as_an_origin(origin: str) -> None:
    """It matched nothing, and nobody was told."""
    ended = command("serve", "--cors-origins", f"https://other.example,{origin}")
    assert ended.returncode == 2
    assert f"{origin!r} is no origin" in ended.stderr
    assert "scheme://host[:port]" in ended.stderr
