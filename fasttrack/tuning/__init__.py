"""Tuning: one search space, searched by Optuna here and by Katib on a cluster."""
