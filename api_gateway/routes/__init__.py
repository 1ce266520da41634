"""The gateway's routes, a file for each group; each declares the action that it needs."""
