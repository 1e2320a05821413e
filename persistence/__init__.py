"""What is on disk: the log, snapshots and the data directory's format.

Knows nothing of HTTP, of Ray, or of what an event means beyond its columns.

    data/
      MANIFEST.json                     format, generation, shards, rules (`directory.py`)
      LOCK                              held by the one server of this directory
      shard-0000/
        EPOCH LOCK                      fencing (`epoch.py`)
        log/00000000000000000001.log    segments by first sequence; SYNCED (`log.py`)
        snapshots/0000000000000123456/  Parquet tables and MANIFEST.json (`snapshot.py`)
      events/date=2026-11-20/           what was accepted, as Parquet (`store.py`)
      generation-0002/                  in place of shards and events, once they were made anew

A log record's payload is a columnar batch (`batch.py`), written exactly as it
arrived, or commands, of which this package knows nothing. All integers on disk are little-endian.
"""
