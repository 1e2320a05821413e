"""Load: simulated viewers, the client that sends their heartbeats, and what it measures;
the suite behind `make bench`, and the services that playhead is compared with.

The folder owns `playhead generate`. It knows the server by its HTTP API alone;
only `verification` shares the rules, to say what the answers should have been.
"""
