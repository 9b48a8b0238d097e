"""The main jobs as Python calls; the command line does nothing that is not here.

Hides how a path is recognized as vectors, texts or a benchmark, how texts become vectors once, and
how a measurement or a plan is put into one document with its verdict.
"""

from matryo.jobs.adapting import Adapted, adapt
from matryo.jobs.applying import apply
from matryo.jobs.classifying import Classified, classify
from matryo.jobs.comparing import diff
from matryo.jobs.demo import demo, demo_data, without_text
from matryo.jobs.encoding import encode
from matryo.jobs.indexing import add_to_index, build_index, parse_fields, search_index
from matryo.jobs.measuring import measure
from matryo.jobs.planning import Planned, check, plan
from matryo.jobs.sources import open_source
from matryo.jobs.training import train

__all__ = [
    "Adapted",
    "Classified",
    "Planned",
    "adapt",
    "add_to_index",
    "apply",
    "build_index",
    "check",
    "classify",
    "demo",
    "demo_data",
    "diff",
    "encode",
    "measure",
    "open_source",
    "parse_fields",
    "plan",
    "search_index",
    "train",
    "without_text",
]
