"""What a cluster has to have before anything is applied to it: one module a question."""
