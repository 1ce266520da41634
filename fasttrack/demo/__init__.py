"""The main job, whole: from a use case and its history to one explained, authenticated prediction."""

from fasttrack.demo.play import Demo

__all__ = ["Demo"]
