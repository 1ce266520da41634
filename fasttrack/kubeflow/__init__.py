"""A use case on Kubeflow: the pipeline's run on this machine, and the objects for a cluster."""
