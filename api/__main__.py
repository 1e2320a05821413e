"""`python -m api` is `playhead`."""

from api.cli import main

main()
