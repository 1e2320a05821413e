"""Rows that a query found, written as people and programs want them."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "csv", "json", "parquet"]

#: A table is for people; who wants more takes another format.
ROWS_SHOWN_MAX = 1_000
#: Where there is no terminal, lines are as long as they are.
WIDTH_MAX = 100_000

_BY_SUFFIX: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


class FormatError(Exception):
    """The rows cannot be written there, or not like that."""


def chosen(format: Format | None, output: Path | None) -> Format:
    """The format to write; without one, that of the file's name, else a table.

    Raises `FormatError` for what can be told before there are rows.
    """
    if output is None:
        if format == "parquet" and sys.stdout.isatty():
            raise FormatError("Parquet is nothing for a terminal: add --output FILE")
        return format or "table"
    if not output.parent.is_dir():
        raise FormatError(f"there is no folder {output.parent}")
    by_name = format or _BY_SUFFIX.get(output.suffix.lower())
    if by_name is None:
        raise FormatError(f"the name {output} does not tell its format: add --format")
    return by_name


def write(rows: pa.RecordBatchReader, format: Format, output: Path | None) -> None:
    """Writes to a file, which is there once all is in it, or to standard output."""
    names = rows.schema.names
    if format in ("json", "parquet") and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"two columns are called {twice}: name one of them with AS")
    with _target(output) as stream:
        _WRITERS[format](rows, stream)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif output.exists() and not output.is_file():  # a pipe or device
        with output.open("wb") as stream:
            yield stream
    else:
        part = output.with_name(f"{output.name}.part")
        try:
            with part.open("wb") as stream:
                yield stream
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _as_text(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(stream, "utf-8", newline="")
    try:
        yield text
    finally:
        text.detach()


def _write_table(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for field in rows.schema:
        table.add_column(field.name, justify="right" if _is_number(field.type) else "left")
    shown = list(islice(_values(rows), ROWS_SHOWN_MAX + 1))
    for row in shown[:ROWS_SHOWN_MAX]:
        table.add_row(*map(_cell, row))
    with _as_text(stream) as text:
        console = Console(file=text, width=None if text.isatty() else WIDTH_MAX, highlight=False)
        with console.capture() as capture:
            console.print(table)
            console.print(_footer(len(shown)), style="dim")
        text.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _footer(rows: int) -> str:
    if rows > ROWS_SHOWN_MAX:
        return f"the first {ROWS_SHOWN_MAX:,} rows; --format csv has all"
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _cell(value: Any) -> Text:
    return Text("null", "dim") if value is None else Text(_text(value), overflow="fold")


def _write_csv(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    with _as_text(stream) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.schema.names)
        writer.writerows(map(_text, row) for row in _values(rows))


def _write_json(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    names, separator = rows.schema.names, b"[\n"
    for row in _values(rows):
        values = dict(zip(names, map(_plain, row), strict=True))
        stream.write(separator + json.dumps(values, ensure_ascii=False).encode())
        separator = b",\n"
    stream.write(b"[]\n" if separator == b"[\n" else b"\n]\n")


def _write_parquet(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    with pq.ParquetWriter(stream, rows.schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(batch)


_WRITERS: dict[Format, Callable[[pa.RecordBatchReader, BinaryIO], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}


def _values(rows: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in rows:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _is_number(type: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)
    )


def _text(value: Any) -> str:
    """As in a table or CSV: times end in Z if they are UTC, and null is nothing."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case datetime():
            return _time(value, " ")
        case bytes():
            return value.hex()
        case list() | dict():
            return json.dumps(_plain(value), ensure_ascii=False)
    return str(value)


def _plain(value: Any) -> Any:
    """As JSON has it: times are RFC 3339, what is neither a number nor a text is null."""
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_plain(each) for each in value]
        case dict():
            return {_text(key): _plain(each) for key, each in value.items()}
        case tuple():
            return [_plain(each) for each in value]
        case datetime():
            return _time(value, "T")
        case None | str() | bool() | int():
            return value
    return _text(value)


def _time(value: datetime, separator: str) -> str:
    fraction = "milliseconds" if value.microsecond else "seconds"
    return value.isoformat(separator, fraction).replace("+00:00", "Z")
