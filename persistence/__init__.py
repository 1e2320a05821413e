"""What is on disk: the log, snapshots and the data directory's format.

Knows nothing of HTTP, of Ray, or of what an event means beyond its columns.

    data/
      MANIFEST.json                     format, shards, rules (`directory.py`)
      LOCK                              held by the one server of this directory
      shard-0000/
        EPOCH LOCK                      fencing (`epoch.py`)
        log/00000000000000000001.log    segments, named by their first sequence (`log.py`)
        snapshots/0000000000000123456/  Parquet tables and MANIFEST.json (`snapshot.py`)

A log record's payload is a columnar batch (`batch.py`), written exactly as it
arrived. All integers on disk are little-endian.
"""
