"""Load: simulated viewers, the client that sends their heartbeats, and what it measures.

The folder owns `playhead generate`. It knows the server by its HTTP API alone;
only `verification` shares the rules, to say what the answers should have been.
"""
