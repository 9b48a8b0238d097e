"""Evaluators for the trainer of sentence-transformers: encoded once, measured at every size.

Give one as `evaluator=`. What is measured first, or the model given as `base`, is what later models
are compared with, text by text, so that an interval tells what training has changed from chance.
"""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from matryo.core import (
    InputError,
    Metric,
    Nesting,
    TooFewError,
    VectorError,
    check_dim,
    check_vectors,
    shorten,
)
from matryo.evaluation import (
    Interval,
    cutoff,
    parse_relevance,
    relevance,
    share_interval,
    spearman_shares,
    trec_order,
)
from matryo.search import Level, View, pair_scores, scan

try:
    from sentence_transformers.base.evaluation import SentenceEvaluator
except ImportError:  # before 6.0
    from sentence_transformers.evaluation import SentenceEvaluator

Values = NDArray[np.floating]

_FEWEST_PAIRS = 64  # below, resamples say little of the spread
_SHARE = ("of_base", "of_base_low", "of_base_high")


class NestedEvaluator(SentenceEvaluator):  # type: ignore[misc]
    """What the evaluators of pairs and of search share: the base, the table and the names.

    Args:
        measure: What is measured, as it is named in the table.
        dims: Sizes in ascending order.
        base: Model to compare with; by default what is measured first.
        name: Put before the names of the figures.
        batch_size: Texts per pass of the model.
        metric: What scores two prefixes: `"cosine"`, `"dot"` or `"l2"`.
        confidence: With which the intervals of all sizes hold together.

    Attributes:
        rows: The table of the last call, one row for each size.
    """

    def __init__(
        self,
        measure: str,
        dims: str | Iterable[int] | Nesting,
        *,
        base: Any = None,
        name: str = "",
        batch_size: int = 32,
        metric: Metric = "cosine",
        confidence: float = 0.95,
    ) -> None:
        super().__init__()
        self.measure, self.name, self.batch_size = measure, name, batch_size
        self.nesting = dims if isinstance(dims, Nesting) else Nesting.parse(dims)
        self.confidence = confidence
        self.metric: Metric = metric
        self.primary_metric = f"{measure}_mean"
        self.rows: list[dict[str, Any]] = []
        self._base_values = None if base is None else self._measure(base)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure a model at every size.

        Args:
            model: A model of sentence-transformers.
            output_path: Folder of a table in CSV, to which the rows of this call are added.
            epoch: Where training is, for the table.
            steps: Likewise.

        Returns:
            For each size `NAME_MEASURE_DIM`, and from the second model on the share of the base's
            figure, `..._of_base`, with its interval, `..._of_base_low` and `..._of_base_high`; and
            `NAME_MEASURE_mean` over sizes, which chooses the best model.

        Raises:
            DimError: a dim beyond the width of the model.
            VectorError: the model makes NaN, infinity or zeros.
        """
        values = self._measure(model)
        self.rows = [self._row(dim, values[dim]) for dim in self.nesting]
        if self._base_values is None:
            self._base_values = values
        figures = {f"{self.measure}_mean": float(np.mean([r[self.measure] for r in self.rows]))}
        for row in self.rows:
            name = f"{self.measure}_{row['dim']}"
            figures[name] = row[self.measure]
            figures |= {f"{name}_{column}": row[column] for column in _SHARE if column in row}
        if output_path is not None:
            self._add_to_table(Path(output_path), epoch, steps)
        named: dict[str, float] = self.prefix_name_to_metrics(figures, self.name)
        self.store_metrics_in_model_card_data(model, named, epoch, steps)
        return named

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this evaluator."""
        return {"dims": list(self.nesting), "metric": self.metric, "confidence": self.confidence}

    def _row(self, dim: int, values: Values) -> dict[str, Any]:
        figure = self._figure(values)
        row: dict[str, Any] = {"dim": dim, self.measure: figure}
        if self._base_values is None:
            return row
        before = self._figure(self._base_values[dim])
        if before > 0:
            low, high = self._share(values, self._base_values[dim])
            row |= zip(_SHARE, (figure / before, low, high), strict=True)
        return row

    def _add_to_table(self, folder: Path, epoch: int, steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{'_'.join(filter(None, [self.name, self.measure]))}_by_size.csv"
        is_new = not file.exists()
        with file.open("a", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, ["epoch", "steps", "dim", self.measure, *_SHARE])
            if is_new:
                writer.writeheader()
            writer.writerows({"epoch": epoch, "steps": steps, **row} for row in self.rows)

    def _encode(self, model: Any, texts: Sequence[str], side: str = "") -> NDArray[np.float32]:
        """Whole vectors, whatever the model is told to cut them to."""
        encode = getattr(model, f"encode_{side}", model.encode)
        cut, model.truncate_dim = model.truncate_dim, None
        try:
            vectors = encode(list(texts), batch_size=self.batch_size, show_progress_bar=False)
        finally:
            model.truncate_dim = cut
        return np.asarray(vectors, np.float32)

    @abstractmethod
    def _measure(self, model: Any) -> dict[int, Values]:
        """What each text scores at each size."""

    @abstractmethod
    def _figure(self, values: Values) -> float:
        """The figure of one size."""

    @abstractmethod
    def _share(self, values: Values, base: Values) -> Interval:
        """Interval of that figure as a share of the base's."""


class NestedPairsEvaluator(NestedEvaluator):
    """Spearman's correlation of the scores of pairs with what people say of them, at every size.

    Args:
        first: The first text of every pair, encoded as any text.
        second: The second.
        scores: `(n,)` judgments, higher is more alike.
        dims: Sizes in ascending order.
        options: As for `NestedEvaluator`.

    Raises:
        InputError: texts and judgments of different numbers, or judgments that are all equal or not
            finite.
        TooFewError: fewer than 64 pairs.
    """

    def __init__(
        self,
        first: Sequence[str],
        second: Sequence[str],
        scores: Sequence[float] | NDArray[np.floating],
        dims: str | Iterable[int] | Nesting,
        **options: Any,
    ) -> None:
        truth = np.asarray(scores, np.float64)
        if not len(first) == len(second) == len(truth):
            raise InputError(
                "expected a second text and a score for each first text, got "
                f"{len(first)}, {len(second)} and {len(truth)}"
            )
        if len(truth) < _FEWEST_PAIRS:
            raise TooFewError(
                f"at least {_FEWEST_PAIRS} pairs are needed, got {len(truth)}",
                needed=_FEWEST_PAIRS,
            )
        if not np.isfinite(truth).all() or np.ptp(truth) == 0:
            raise InputError("scores: expected finite numbers that differ from one another")
        self._first, self._second, self._truth = list(first), list(second), truth
        super().__init__("spearman", dims, **options)

    def _measure(self, model: Any) -> dict[int, Values]:
        first, second = self._encode(model, self._first), self._encode(model, self._second)
        check_dim(self.nesting.dims[-1], first.shape[1])
        for what, vectors in (("first texts", first), ("second texts", second)):
            check_vectors(vectors[:, : self.nesting.dims[0]], what=what)
        scores = {
            dim: pair_scores(first, second, Level(dim), metric=self.metric) for dim in self.nesting
        }
        for dim, each in scores.items():
            if np.ptp(each) == 0:
                raise VectorError(
                    f"the model scores all {len(each)} pairs alike at {dim} numbers: it has "
                    "collapsed",
                    hint="go back to an earlier checkpoint, and lower the learning rate",
                )
        return scores

    def _figure(self, values: Values) -> float:
        return float(spearmanr(values, self._truth).statistic)

    def _share(self, values: Values, base: Values) -> Interval:
        _, _, shares = spearman_shares(
            np.stack([base, values]).astype(np.float64),
            self._truth,
            reference=0,
            confidence=self.confidence,
            family=len(self.nesting),
        )
        return shares[1]


class NestedSearchEvaluator(NestedEvaluator):
    """A ranking measure of exact search at every size, all from one pass over the corpus.

    Args:
        queries: Text by id, encoded as queries where the model tells sides apart.
        corpus: Text by id, encoded as documents.
        qrels: For each query the documents that answer it: ids, or how well each does.
        dims: Sizes in ascending order.
        measure: As ir-measures writes it.
        options: As for `NestedEvaluator`.

    Raises:
        InputError: queries without an answer in the corpus, or fewer documents than the measure
            looks at.
        UnknownNameError: no such measure.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int] | Collection[str]],
        dims: str | Iterable[int] | Nesting,
        *,
        measure: str = "nDCG@10",
        **options: Any,
    ) -> None:
        parse_relevance([measure])
        self._queries, self._corpus, self._qrels = dict(queries), dict(corpus), {}
        for query, answers in qrels.items():
            graded = answers if isinstance(answers, Mapping) else dict.fromkeys(answers, 1)
            self._qrels[query] = {name: int(grade) for name, grade in graded.items()}
        unanswered = [
            query
            for query in queries
            if not any(g > 0 and d in corpus for d, g in self._qrels.get(query, {}).items())
        ]
        if unanswered or not queries:
            raise InputError(
                "expected queries that some document of the corpus answers, got "
                f"{len(unanswered)} of {len(queries)} without: {shorten(unanswered)}",
                hint="leave them out: no size can find what is not there",
                ids=unanswered,
            )
        if len(corpus) < cutoff(measure):
            raise InputError(
                f"{measure} looks at {cutoff(measure)} documents, got a corpus of {len(corpus)}"
            )
        super().__init__(measure, dims, **options)

    def _measure(self, model: Any) -> dict[int, Values]:
        ids, levels = list(self._corpus), [Level(dim) for dim in self.nesting]
        top = scan(
            self._encode(model, list(self._queries.values()), "query"),
            self._encode(model, list(self._corpus.values()), "document"),
            {"cut": View(levels)},
            k=cutoff(self.measure),
            metric=self.metric,
            tie_order=trec_order(ids),
            ids=ids,
        )
        return {
            level.dim: relevance(
                top["cut", level],
                query_ids=list(self._queries),
                document_ids=ids,
                qrels=self._qrels,
                names=[self.measure],
            )[self.measure]
            for level in levels
        }

    def _figure(self, values: Values) -> float:
        return float(values.mean())

    def _share(self, values: Values, base: Values) -> Interval:
        return share_interval(values, base, confidence=self.confidence, family=len(self.nesting))
