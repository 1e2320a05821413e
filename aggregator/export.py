"""What is stored of a user, for the user to have."""

import pyarrow as pa

from aggregator.checkpoint import Erasing, Folders, erasure_of, facts_between
from aggregator.entries import Skipped
from aggregator.messages import Exported, ExportRequest, Fact
from persistence.facts import one_chunk

_END = 1 << 62


def export(
    folders: Folders, request: ExportRequest, skipped: Skipped, erasing: list[Erasing]
) -> Exported:
    """The user's facts after a place, from the store and then from the log; reads much."""
    stored = folders.store.facts_of_user(request.user, after=request.after, limit=request.limit + 1)
    stored = stored.filter(pa.array(~erasure_of(erasing).hits(one_chunk(stored))))
    parts = [stored]
    if len(stored) <= request.limit:
        parts.append(_logged(folders, request, skipped, erasing))
    found = pa.concat_tables(parts).slice(0, request.limit + 1)
    page = found.slice(0, request.limit)
    place = None
    if len(found) > len(page):
        last = page.slice(len(page) - 1).to_pylist()[0]
        place = (last["sequence"], last["index"])
    rows = page.select(Fact.__struct_fields__).to_pylist()
    return Exported([Fact(**row) for row in rows], place)


def _logged(
    folders: Folders, request: ExportRequest, skipped: Skipped, erasing: list[Erasing]
) -> pa.Table:
    """The user's facts that are in the log alone."""
    first = folders.store.archived_sequence() + 1
    facts = facts_between(folders, first, _END, skipped, erasing)
    expression = pa.compute.field("user") == request.user
    after = pa.compute.field("sequence") > request.after[0]
    same = (pa.compute.field("sequence") == request.after[0]) & (
        pa.compute.field("index") > request.after[1]
    )
    return one_chunk(facts.filter(expression & (after | same)))
