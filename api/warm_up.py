"""Everything compiled, or found compiled, before the first request waits for it.

`python -m api.warm_up` and `python -m aggregator.warm_up` do so once, at set-up.
"""

import pyarrow as pa

from aggregator.event import Part, to_batch
from aggregator.router import shards_of
from api.arrow_intake import parse_arrow
from api.intake import COLUMNS_BYTES_MIN, count_values, parse_json, parse_ndjson
from kernels import compiler
from persistence.batch import Batch, Encoded

_EVENT = b'{"user":"u","slug":"m","at":1.5,"session":"s","id":"%d","ts":1,"duration":9}'
_EVENTS = [_EVENT % number for number in range(COLUMNS_BYTES_MIN // len(_EVENT) + 1)]
_LIMIT_BYTES = 1 << 20


def warm_up() -> None:
    """Takes in events in each way, for no shard."""
    array, lines = b"[" + b",".join(_EVENTS) + b"]", b"\n".join(_EVENTS)
    parsed = [
        parse_json(_EVENTS[0], 1),
        parse_json(array, len(_EVENTS)),
        parse_ndjson(lines, len(_EVENTS)),
        parse_arrow(_arrow_stream(), len(_EVENTS), _LIMIT_BYTES),
    ]
    count_values(array, len(_EVENTS), is_lines=False)
    parts = [Part(one.events, key) for one, key in zip(parsed, ("a", "b", None, "c"), strict=True)]
    encoded = to_batch(parts).encode()
    batch = Batch.decode(encoded)
    batch.take(batch.user == 0)
    shards_of(batch.users, 2)
    Encoded.join([Encoded.of(encoded)] * 2)
    for part in parts:
        to_batch([part])
    compiler.let_go()


def _arrow_stream() -> bytes:
    columns = {"user": ["u"] * 3, "slug": ["m"] * 3, "at": [1.0] * 3, "id": ["a", "b", "c"]}
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


if __name__ == "__main__":
    warm_up()
