"""A Kubernetes cluster as FastTrack sees it: objects, watches, and what ails them."""
