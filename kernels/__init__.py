"""Loops over arrays that are compiled: hashing, parsing, and the rules of watch time.

What is here knows arrays and numbers alone: no Python object, no I/O, no clock.
The other folders call it with columns, and keep them.
"""
