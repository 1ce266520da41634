"""Training: the feature table in memory, the Lightning module, the distributed fit."""
