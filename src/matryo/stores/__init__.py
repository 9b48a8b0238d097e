"""Places that keep vectors and answer searches by a funnel.

Hides how each of them lays out codes, finds a row by its id, and makes a write last. The embedded
index is the reference: a folder on disk, searched in this process.
"""

from matryo.stores.embedded import FIELD_TYPES, Index, Records, Step

__all__ = ["FIELD_TYPES", "Index", "Records", "Step"]
