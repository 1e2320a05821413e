"""What playhead is measured against: services as one would write them on Redis or PostgreSQL.

Each is a program, `python -m benchmarks.peers.<name>`; `stores` starts what is behind them.
"""

#: The superuser of the PostgreSQL that is made for a measurement.
POSTGRES_USER = "playhead"
