"""What is known of models that people already use: widths, sizes, prompts, steps before the cut.

Whether a model may be cut, and to what, cannot be asked of the model. Each row names the document
its figures come from. A preset is a default, never a limit: options of the encoders override it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matryo.core import InputError, Metric, Side, SideSpec, UnknownNameError

_BY_PROVIDER = "the provider, at every size"
_BY_PROVIDER_FULL = "the provider at full width; you, after the cut"
_BY_YOU = "you, after the cut"


@dataclass(frozen=True, slots=True)
class Preset:
    """One known model.

    Attributes:
        name: Its name without owner or path, as `find_preset` looks for it.
        provider: Who publishes it.
        full_dim: Width of a whole vector.
        dims: Sizes the provider trained or documents, ascending, ending at `full_dim`.
        any_from: The smallest size allowed where every size from there up is, else None.
        normalized_by: Who scales vectors to length 1.
        source: The document these figures come from.
        query: Prompt and pre-step of queries.
        document: Prompt and pre-step of documents.
        metric: What scores two whole vectors.
        note: What else a user should know.
    """

    name: str
    provider: str
    full_dim: int
    dims: tuple[int, ...]
    any_from: int | None
    normalized_by: str
    source: str
    query: SideSpec = field(default_factory=SideSpec)
    document: SideSpec = field(default_factory=SideSpec)
    metric: Metric = "cosine"
    note: str = ""

    def allows(self, dim: int) -> bool:
        """Whether the provider stands behind vectors of this size."""
        if dim in self.dims:
            return True
        return self.any_from is not None and self.any_from <= dim <= self.full_dim


def find_preset(model: str) -> Preset | None:
    """The preset of a model, looked for by the last part of its name or path, in any case.

    Examples:
        >>> find_preset("nomic-ai/nomic-embed-text-v1.5").dims
        (64, 128, 256, 512, 768)
        >>> find_preset("all-MiniLM-L6-v2") is None
        True
    """
    last = model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return next((preset for preset in PRESETS if preset.name.lower() == last), None)


def require_preset(model: str) -> Preset:
    """As `find_preset`, for a model that must be known.

    Raises:
        UnknownNameError: it is not.
    """
    preset = find_preset(model)
    if preset is None:
        raise UnknownNameError.among("preset", model, (known.name for known in PRESETS))
    return preset


def side_specs(
    preset: Preset | None, prompts: Mapping[str, str] | None
) -> tuple[SideSpec, SideSpec]:
    """Query and document side of a model: the caller's prompts, else those of the preset.

    Args:
        preset: What is known of the model.
        prompts: `{"query": ..., "document": ...}`, either of which may be left out.

    Raises:
        InputError: a key of `prompts` is neither `query` nor `document`.
    """
    prompts = prompts or {}
    unknown = [key for key in prompts if key not in list(Side)]
    if unknown:
        raise InputError(f"prompts must be given for 'query' or 'document', got {unknown[0]!r}")
    known = (preset.query, preset.document) if preset else (SideSpec(), SideSpec())
    query, document = (
        SideSpec(prompts.get(side, spec.prompt), spec.pre_step)
        for side, spec in zip((Side.QUERY, Side.DOCUMENT), known, strict=True)
    )
    return query, document


_SEARCH_QUERY = "Represent this sentence for searching relevant passages: "
_QWEN3 = SideSpec(
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)

PRESETS: tuple[Preset, ...] = (
    Preset(
        "text-embedding-3-small",
        "OpenAI",
        1536,
        (512, 1536),
        any_from=1,
        normalized_by=_BY_PROVIDER,
        source="OpenAI, embeddings guide and announcement of January 2024 (`dimensions`)",
    ),
    Preset(
        "text-embedding-3-large",
        "OpenAI",
        3072,
        (256, 1024, 3072),
        any_from=1,
        normalized_by=_BY_PROVIDER,
        source="OpenAI, embeddings guide and announcement of January 2024 (`dimensions`)",
        note="not interchangeable with text-embedding-3-small at any size",
    ),
    Preset(
        "nomic-embed-text-v1.5",
        "Nomic",
        768,
        (64, 128, 256, 512, 768),
        any_from=None,
        normalized_by=_BY_YOU,
        source="model card of nomic-ai/nomic-embed-text-v1.5",
        query=SideSpec("search_query: ", "layer_norm"),
        document=SideSpec("search_document: ", "layer_norm"),
        note="layer norm over the full vector, then the cut, then the scaling",
    ),
    Preset(
        "embeddinggemma-300m",
        "Google",
        768,
        (128, 256, 512, 768),
        any_from=None,
        normalized_by=_BY_PROVIDER_FULL,
        source="model card of google/embeddinggemma-300m; arXiv 2509.20354",
        query=SideSpec("task: search result | query: "),
        document=SideSpec("title: none | text: "),
    ),
    Preset(
        "Qwen3-Embedding-0.6B",
        "Alibaba",
        1024,
        (32, 64, 128, 256, 512, 1024),
        any_from=32,
        normalized_by=_BY_YOU,
        source="model card of Qwen/Qwen3-Embedding-0.6B (sizes 32 to 1024)",
        query=_QWEN3,
    ),
    Preset(
        "Qwen3-Embedding-4B",
        "Alibaba",
        2560,
        (32, 64, 128, 256, 512, 1024, 2048, 2560),
        any_from=32,
        normalized_by=_BY_YOU,
        source="model card of Qwen/Qwen3-Embedding-4B (sizes 32 to 2560)",
        query=_QWEN3,
    ),
    Preset(
        "Qwen3-Embedding-8B",
        "Alibaba",
        4096,
        (32, 64, 128, 256, 512, 1024, 2048, 4096),
        any_from=32,
        normalized_by=_BY_YOU,
        source="model card of Qwen/Qwen3-Embedding-8B (sizes 32 to 4096)",
        query=_QWEN3,
    ),
    Preset(
        "gemini-embedding-001",
        "Google",
        3072,
        (768, 1536, 3072),
        any_from=128,
        normalized_by=_BY_PROVIDER_FULL,
        source="ai.google.dev, page of the model (128 to 3072; 768, 1536, 3072 recommended)",
        note="its API takes a task type for each side instead of a prompt",
    ),
    Preset(
        "jina-embeddings-v3",
        "Jina AI",
        1024,
        (32, 64, 128, 256, 512, 768, 1024),
        any_from=32,
        normalized_by=_BY_YOU,
        source="jina.ai, announcement of the model (any size down to 32); arXiv 2409.10173",
        note="takes a task (retrieval.query, retrieval.passage) for each side instead of a prompt",
    ),
    Preset(
        "embed-v4.0",
        "Cohere",
        1536,
        (256, 512, 1024, 1536),
        any_from=None,
        normalized_by=_BY_YOU,
        source="AWS Bedrock user guide, Cohere Embed v4 (`output_dimension`)",
        note="its API takes an input type for each side instead of a prompt",
    ),
    Preset(
        "voyage-3-large",
        "Voyage AI",
        2048,
        (256, 512, 1024, 2048),
        any_from=None,
        normalized_by=_BY_PROVIDER_FULL,
        source="docs.voyageai.com, flexible dimensions and quantization",
        note="its API answers with 1024 numbers unless `output_dimension` asks for 2048, and takes "
        "an input type for each side instead of a prompt",
    ),
    Preset(
        "voyage-3.5",
        "Voyage AI",
        2048,
        (256, 512, 1024, 2048),
        any_from=None,
        normalized_by=_BY_PROVIDER_FULL,
        source="docs.voyageai.com, flexible dimensions and quantization",
        note="its API answers with 1024 numbers unless `output_dimension` asks for 2048, and takes "
        "an input type for each side instead of a prompt",
    ),
    Preset(
        "snowflake-arctic-embed-m-v1.5",
        "Snowflake",
        768,
        (256, 768),
        any_from=None,
        normalized_by=_BY_YOU,
        source="model card of Snowflake/snowflake-arctic-embed-m-v1.5",
        query=SideSpec(_SEARCH_QUERY),
    ),
    Preset(
        "snowflake-arctic-embed-l-v2.0",
        "Snowflake",
        1024,
        (256, 1024),
        any_from=None,
        normalized_by=_BY_YOU,
        source="model card of Snowflake/snowflake-arctic-embed-l-v2.0",
        query=SideSpec("query: "),
    ),
    Preset(
        "mxbai-embed-large-v1",
        "Mixedbread",
        1024,
        (512, 1024),
        any_from=None,
        normalized_by=_BY_YOU,
        source="mixedbread.ai, page and announcement of the model",
        query=SideSpec(_SEARCH_QUERY),
    ),
    Preset(
        "mxbai-embed-xsmall-v1",
        "Mixedbread",
        384,
        (256, 384),
        any_from=None,
        normalized_by=_BY_YOU,
        source="mixedbread.ai, announcement of the model",
    ),
    Preset(
        "wordllama-l2-supercat-256",
        "WordLlama",
        256,
        (64, 128, 256),
        any_from=None,
        normalized_by=_BY_YOU,
        source="configuration of the package wordllama 0.4.0 (`available_dims`)",
        note="the model behind the encoder 'default'",
    ),
)
