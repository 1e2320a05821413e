"""What is stored of a user, for the user to have."""

import pyarrow as pa

from aggregator.checkpoint import Erasing, Folders, erasure_of, facts_between
from aggregator.entries import Skipped
from aggregator.messages import Exported, ExportRequest, Fact
from persistence.facts import one_chunk


def export(
    folders: Folders, request: ExportRequest, last: int, skipped: Skipped, erasing: list[Erasing]
) -> Exported:
    """The user's facts after a place, from the store and then from the log; reads much.

    `last` is the last record that is applied, and so in `skipped` and `erasing`.
    """
    erasure = erasure_of(erasing)
    limit = None if request.user in erasure.names else request.limit + 1  # some may not count
    stored = folders.store.facts_of_user(request.user, after=request.after, limit=limit)
    stored = stored.filter(pa.array(~erasure.hits(one_chunk(stored))))
    parts = [stored]
    if len(stored) <= request.limit:
        parts.append(_logged(folders, request, last, skipped, erasing))
    found = pa.concat_tables(parts).slice(0, request.limit + 1)
    page = found.slice(0, request.limit)
    place = None
    if len(found) > len(page):
        end = page.slice(len(page) - 1).to_pylist()[0]
        place = (end["sequence"], end["index"])
    rows = page.select(Fact.__struct_fields__).to_pylist()
    return Exported([Fact(**row) for row in rows], place)


def _logged(
    folders: Folders, request: ExportRequest, last: int, skipped: Skipped, erasing: list[Erasing]
) -> pa.Table:
    """The user's facts that are in the log alone."""
    first = folders.store.archived_sequence() + 1
    facts = facts_between(folders, first, last, skipped, erasing, request.user)
    expression = pa.compute.field("user") == request.user
    after = pa.compute.field("sequence") > request.after[0]
    same = (pa.compute.field("sequence") == request.after[0]) & (
        pa.compute.field("index") > request.after[1]
    )
    return one_chunk(facts.filter(expression & (after | same)))
