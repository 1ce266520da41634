"""The API gateway: tokens, roles, limits, cache and routes in front of the model servers."""
