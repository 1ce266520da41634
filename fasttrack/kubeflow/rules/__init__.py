"""What admission webhooks, controllers and Pod Security refuse beyond the schemas: one module a system.

Each rule stands in the named release's source or was met on a real API server; a rule gives problems, it never raises.
"""
