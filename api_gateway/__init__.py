"""The API gateway: authentication, roles, limits, cache, validation and audit before the model servers.

It imports no torch, no Spark and no KServe, so that it starts fast and stays small.
"""
