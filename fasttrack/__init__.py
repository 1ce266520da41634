"""FastTrack AI: one use-case file from event streams to explained, authenticated predictions."""

__version__ = "0.1.0"
