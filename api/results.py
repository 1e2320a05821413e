"""Rows that a query found, written as people and programs want them."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
#: Smaller numbers have an exponent in Arrow's text.
DECIMAL_PLACES_MAX = 6

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
    texts = (row for batch in rows for row in zip(*map(_texts, batch.columns), strict=True))
    shown = list(islice(texts, ROWS_SHOWN_MAX + 1))
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


def _cell(text: str | None) -> Text:
    return Text("null", "dim") if text is None else Text(text, overflow="fold")


def _write_csv(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    with _as_text(stream) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.schema.names)
        for batch in rows:
            writer.writerows(zip(*map(_texts, batch.columns), strict=True))


def _write_json(rows: pa.RecordBatchReader, stream: BinaryIO) -> None:
    names, separator = rows.schema.names, "[\n"
    with _as_text(stream) as text:
        for batch in rows:
            for row in zip(*map(_plain_values, batch.columns), strict=True):
                values = dict(zip(names, row, strict=True))
                text.write(separator + json.dumps(values, ensure_ascii=False))
                separator = ",\n"
        text.write("[]\n" if separator == "[\n" else "\n]\n")


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


def _is_number(type: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)
    )


# A column at a time where Arrow knows how, else value by value


def _texts(column: pa.Array) -> list[str | None]:
    """As in a table or CSV: times end in Z if they are UTC."""
    if pa.types.is_timestamp(column.type):
        column = _in_coarsest_unit(column)
    elif not _is_plain(column.type):
        return [None if value is None else _text(value) for value in column.to_pylist()]
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts


def _plain_values(column: pa.Array) -> list[Any]:
    """As JSON has it: exact decimals are numbers, times are RFC 3339, no number is null."""
    if pa.types.is_timestamp(column.type):
        return [None if text is None else text.replace(" ", "T") for text in _texts(column)]
    if pa.types.is_decimal(column.type) and column.type.scale:
        return [None if text is None else _number(text) for text in _texts(column)]
    return [_plain(value) for value in column.to_pylist()]


def _number(text: str) -> float | int:
    number = float(text)  # Arrow's own cast does not give the nearest one
    return int(number) if number.is_integer() else number


def _is_plain(type: pa.DataType) -> bool:
    """Whether Arrow's text of it is the one that people write."""
    return bool(
        pa.types.is_string(type)
        or pa.types.is_integer(type)
        or pa.types.is_boolean(type)
        or pa.types.is_date32(type)
        or (pa.types.is_decimal(type) and type.scale <= DECIMAL_PLACES_MAX)
    )


def _in_coarsest_unit(times: pa.Array) -> pa.Array:
    """In seconds, or else milliseconds, if all of them are whole ones."""
    for unit in ("s", "ms"):
        with suppress(pa.ArrowInvalid):
            return times.cast(pa.timestamp(unit, times.type.tz))
    return times


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bytes():
            return value.hex()
        case Decimal():
            return format(value, "f")
        case list() | dict():
            return json.dumps(_plain(value), ensure_ascii=False)
    return str(value)


def _plain(value: Any) -> Any:
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {_text(key): _plain(each) for key, each in value.items()}
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
    return _text(value)
