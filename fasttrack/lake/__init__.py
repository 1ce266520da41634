"""The lake: Delta tables of raw events, dead letters and duplicates."""

from fasttrack.lake.tables import dead_letters_path, duplicates_path, features_path, raw_path, read_raw, versions

__all__ = ["dead_letters_path", "duplicates_path", "features_path", "raw_path", "read_raw", "versions"]
