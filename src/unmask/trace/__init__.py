"""Traces: decoding steps -> typed events, which are recorded, replayed, written to files and read again."""
