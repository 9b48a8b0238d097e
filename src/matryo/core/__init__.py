"""Values and contracts that every other part is built on; no algorithm lives here.

Hides how a fingerprint is computed, how a folder of nested vectors is laid out and checked, and how
a file is replaced without a moment in which it is half written.
"""

from matryo.core.checks import check_vectors, name_rows, shorten
from matryo.core.errors import (
    DimError,
    EndpointError,
    FormatError,
    InputError,
    MatryoError,
    MissingExtraError,
    NotFittedError,
    SpaceMismatchError,
    TooFewError,
    UnknownNameError,
    UnsupportedError,
    VectorError,
)
from matryo.core.estimator import DIGEST_LENGTH, Estimator, canonical
from matryo.core.files import replacing, replacing_folder, sync, write_atomically
from matryo.core.manifest import MANIFEST, read_manifest, sha256_of, write_manifest
from matryo.core.nesting import Nesting, check_dim
from matryo.core.plan import (
    Exact,
    ExitPolicy,
    Funnel,
    Line,
    Lists,
    Margin,
    Plan,
    Promise,
    Scan,
    Stage,
    Threshold,
)
from matryo.core.precision import Precision
from matryo.core.protocols import Capabilities, Encoder, Hits, Store, Transform
from matryo.core.registry import Entry, Registry
from matryo.core.space import METRICS, Metric, Side, SideSpec, Space
from matryo.core.vectors import NestedVectors, check_ids, prefix_norms

__all__ = [
    "DIGEST_LENGTH",
    "MANIFEST",
    "METRICS",
    "Capabilities",
    "DimError",
    "Encoder",
    "EndpointError",
    "Entry",
    "Estimator",
    "Exact",
    "ExitPolicy",
    "FormatError",
    "Funnel",
    "Hits",
    "InputError",
    "Line",
    "Lists",
    "Margin",
    "MatryoError",
    "Metric",
    "MissingExtraError",
    "NestedVectors",
    "Nesting",
    "NotFittedError",
    "Plan",
    "Precision",
    "Promise",
    "Registry",
    "Scan",
    "Side",
    "SideSpec",
    "Space",
    "SpaceMismatchError",
    "Stage",
    "Store",
    "Threshold",
    "TooFewError",
    "Transform",
    "UnknownNameError",
    "UnsupportedError",
    "VectorError",
    "canonical",
    "check_dim",
    "check_ids",
    "check_vectors",
    "name_rows",
    "prefix_norms",
    "read_manifest",
    "replacing",
    "replacing_folder",
    "sha256_of",
    "shorten",
    "sync",
    "write_atomically",
    "write_manifest",
]
