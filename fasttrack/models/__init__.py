"""Models: feature encoding (numpy), three architectures (torch), inference from a package's files.

Importing this package does not import torch; `fasttrack.models.inference` and `fasttrack.models.architectures` do.
"""

from fasttrack.models.batch import Batch
from fasttrack.models.encoding import Encoder

__all__ = ["Batch", "Encoder"]
