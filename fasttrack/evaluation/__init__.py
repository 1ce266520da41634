"""Evaluation: metrics by slice, baselines, calibration, intervals, the gate."""
