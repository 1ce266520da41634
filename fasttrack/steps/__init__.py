"""What a pipeline step does: one module a step, a thin frame around the room that does the work.

A component of the pipeline calls exactly one function of this package. Parameters and results are text, numbers and
JSON text, so that they mean the same to ``kfp.local`` and to a cluster.
"""
