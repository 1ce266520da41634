"""The lake: Delta tables of raw events, dead letters and duplicates."""
