"""The embedded index: a folder, one writer, many readers.

Hides which files hold what, how a commit becomes visible all at once, how every byte that is read
is checked, and how the funnels of `matryo.search` run over rows that are spread over segments.
"""

from matryo.stores.embedded.fields import TYPES as FIELD_TYPES
from matryo.stores.embedded.index import Index, Records
from matryo.stores.embedded.live import Step

__all__ = ["FIELD_TYPES", "Index", "Records", "Step"]
