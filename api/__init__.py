"""HTTP and the command line: parsing, checking, errors, documentation, pages.

Knows nothing of how totals are kept.
"""

from importlib.metadata import version

__version__ = version("playhead")
