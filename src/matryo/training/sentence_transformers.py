"""`MatryoshkaLoss` for the trainer of sentence-transformers, with the same words as its own.

    from matryo.training.sentence_transformers import MatryoshkaLoss

in place of `from sentence_transformers.losses import MatryoshkaLoss` is all that changes. Texts are
encoded once by the model as it is; nothing is patched, so compiled models, several processes and a
run that was interrupted need no care. What differs on purpose:

- Losses of inner products and distances get prefixes as they are, not scaled to length 1.
- A teacher's vectors are cut and scaled as the student's are.
- AnglE takes neighboring numbers as complex ones, which nest; halves of a prefix do not.
- `SoftmaxLoss` works: the first columns of its classifier serve the small sizes.
- `n_dims_per_step` draws alike on every process, weighs by one over the chance of being drawn,
  keeps the full size from 2 on, and measures every size in evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matryo.core import InputError, Nesting, UnsupportedError, VectorError, check_dim
from matryo.training.checks import check_finite, inverse_lengths
from matryo.training.general import nested
from matryo.training.known_losses import lengths_matter, translate
from matryo.training.ranks import check_ranks_agree
from matryo.training.result import NestedLoss, weigh
from matryo.training.sampling import SizeSampler
from matryo.training.sizes import Sizes, sizes_of

# losses that ask more of a model than one vector for each text
_BEYOND_VECTORS = {
    "AdaptiveLayerLoss": "put it outside, with log_sizes=False in this one",
    "ContrastiveTensionLoss": None,
    "ContrastiveTensionLossInBatchNegatives": None,
    "DenoisingAutoEncoderLoss": None,
    "Matryoshka2dLoss": "wrap AdaptiveLayerLoss around this loss, with log_sizes=False",
    "MatryoshkaLoss": "wrap the loss that is inside it",
}


class MatryoshkaLoss(nn.Module):
    """A loss of sentence-transformers, summed over sizes.

    These take about the time of the full width alone: `MultipleNegativesRankingLoss` (from queries
    to documents, or both ways with a softmax each), `CoSENTLoss`, `AnglELoss`, `ContrastiveLoss`
    and `TripletLoss` by cosine, `CosineSimilarityLoss`, `MSELoss`, `EmbedDistillLoss` and
    `SoftmaxLoss`. Any other is called for every size, on prefixes that are scaled to length 1
    unless its model card entry says that it compares inner products or distances. Losses that cache
    gradients still do.

    Args:
        model: What is trained.
        loss: What to compute at every size, made for the same model. It is left as it is.
        matryoshka_dims: Sizes in any order.
        matryoshka_weights: What each size weighs, in the same order; 1 by default.
        n_dims_per_step: How many sizes to draw for each step; -1 takes all.
        log_sizes: Return what each size adds to the loss, by name, for the trainer to sum and to
            log as `loss_64`; False returns the sum.

    Attributes:
        last: Loss of each size before weighting, and their sum, of the last batch.

    Raises:
        DimError: dims that repeat, or beyond the width.
        InputError: weights that do not fit, or a loss that was made for another model.
        UnsupportedError: a loss that needs more than one vector for each text.

    Warns:
        UserWarning: the full width is not among the dims.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
        *,
        log_sizes: bool = True,
    ) -> None:
        super().__init__()
        _check_loss(loss, model)
        self.model, self.loss, self.log_sizes = model, loss, log_sizes
        self.n_dims_per_step = n_dims_per_step
        dims = [Nesting.parse([dim]).full_dim for dim in matryoshka_dims]
        weights = [1.0] * len(dims) if matryoshka_weights is None else list(matryoshka_weights)
        if len(weights) != len(dims):
            raise InputError(
                f"matryoshka_weights: expected one for each of the {len(dims)} dims, "
                f"got {len(weights)}"
            )
        order = sorted(range(len(dims)), key=dims.__getitem__)
        ascending = Nesting(tuple(dims[at] for at in order))
        self.sizes = sizes_of(ascending, [weights[at] for at in order], full_dim=full_width(model))
        n = len(dims) if n_dims_per_step == -1 else n_dims_per_step
        self._sampler = SizeSampler(ascending, n, weights=self.sizes.weights, keep_full=n > 1)
        self._generator: torch.Generator | None = None
        self.last: NestedLoss | None = None

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Loss of a batch.

        Args:
            sentence_features: What the model takes, for each column.
            labels: What the data say of each row.

        Raises:
            VectorError: NaN, infinity, or a prefix of zeros; `ids` names the rows of the batch.
            TooFewError: a batch of one, for a loss that chooses within the batch.
            InputError: columns or labels that do not fit the loss.
        """
        given, sizes = list(sentence_features), self._draw()
        if getattr(self.loss, "uses_gradient_cache", hasattr(self.loss, "calculate_loss")):
            made = self._cached(given, labels, sizes)
        else:
            features = [dict(column) for column in given]  # a model may add to what it is given
            columns = [self.model(column)["sentence_embedding"] for column in given]
            _check_columns(columns, sizes)
            found = translate(self.loss, columns, labels, sizes)
            made = self._of_prefixes(columns, features, labels, sizes) if found is None else found
        self.last = NestedLoss(made.loss.detach(), made.per_size, made.dims)
        return _parts(made, sizes) if self.log_sizes else made.loss

    def _draw(self) -> Sizes:
        """The sizes of this step."""
        learning = torch.is_grad_enabled() and _unwrapped(self.model).training
        some = self._sampler.n < len(self.sizes)
        if learning and self._generator is None:
            # the trainer gives torch one seed on every rank
            seed = torch.initial_seed()
            settings = {"sizes": list(self.sizes), "n_dims_per_step": self._sampler.n}
            check_ranks_agree(**settings, **({"seed": seed} if some else {}))
            self._generator = torch.Generator().manual_seed(seed)
        if learning and some and self._generator is not None:
            return self._sampler.draw(self._generator)
        return replace(self.sizes, drawn=True)  # of a width that is missing was warned already

    def _of_prefixes(
        self,
        columns: Sequence[Tensor],
        features: Sequence[Mapping[str, Any]],
        labels: Tensor | None,
        sizes: Sizes,
    ) -> NestedLoss:
        """Call the loss for every size, on a model that hands prefixes over."""
        inner = _copy_for(self.loss, _HandsOver(self.model), self.model)
        scaled = not lengths_matter(self.loss)
        full_dim = columns[0].shape[1]

        def one_size(*prefixes: Tensor) -> Tensor:
            handed = [
                {**column, "sentence_embedding": prefix}
                for column, prefix in zip(features, prefixes, strict=True)
            ]
            dim = prefixes[0].shape[1]
            return _sum(inner(handed, _cut_labels(labels, dim, full_dim, scaled=scaled)))

        return nested(one_size, *columns, dims=sizes, normalize=scaled)

    def _cached(
        self, features: list[dict[str, Any]], labels: Tensor | None, sizes: Sizes
    ) -> NestedLoss:
        """Let the loss encode small batches, twice, and put all sizes where it computes itself."""
        inner: Any = _copy_for(self.loss, self.model, self.model)
        made: list[NestedLoss] = []

        def calculate_loss(
            batches: list[list[Tensor]], *more: Any, with_backward: bool = False
        ) -> Tensor:
            made.append(self._of_batches(batches, more, sizes, with_backward=with_backward))
            return made[-1].loss

        inner.calculate_loss = calculate_loss
        loss = inner(features, labels)
        return NestedLoss(loss, made[-1].per_size, sizes.dims)

    def _of_batches(
        self,
        batches: list[list[Tensor]],
        more: tuple[Any, ...],
        sizes: Sizes,
        *,
        with_backward: bool,
    ) -> NestedLoss:
        """Loss of `[column][batch]` vectors, and their gradients if they are wanted now."""
        columns = [torch.cat(column) for column in batches]
        _check_columns(columns, sizes)
        found = translate(self.loss, columns, more[0] if more else None, sizes)
        if found is not None:
            if with_backward:
                found.loss.backward()
                return NestedLoss(found.loss.detach(), found.per_size, found.dims)
            return found
        inner: Any = _copy_for(self.loss, self.model, self.model)
        scaled, each = not lengths_matter(self.loss), []
        if scaled:
            inverse_lengths(sizes.nesting, **_named(columns))  # for its checks
        for dim, weight in sizes:
            cut = [[_cut(part, dim, scaled=scaled) for part in column] for column in batches]
            ends = cut
            if with_backward:
                ends = [[part.detach().requires_grad_() for part in column] for column in cut]
            # what its class computes, whatever another wrapper has put on this object
            loss = type(inner).calculate_loss(inner, ends, *more, with_backward=with_backward)
            if with_backward:
                for part, end in zip(chain(*cut), chain(*ends), strict=True):
                    if end.grad is not None:
                        part.backward(weight * end.grad)
            each.append(loss.detach() if with_backward else loss)
        return weigh(each, sizes)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says of this loss."""
        return {
            "loss": type(self.loss).__name__,
            "matryoshka_dims": list(self.sizes.dims),
            "matryoshka_weights": list(self.sizes.weights),
            "n_dims_per_step": self.n_dims_per_step,
        }

    @property
    def citation(self) -> str:
        """What the model card cites."""
        return """
@inproceedings{kusupati2022matryoshka,
    title={Matryoshka Representation Learning},
    author={Kusupati, Aditya and Bhatt, Gantavya and Rege, Aniket and Wallingford, Matthew and
        Sinha, Aditya and Ramanujan, Vivek and Howard-Snyder, William and Chen, Kaifeng and
        Kakade, Sham and Jain, Prateek and Farhadi, Ali},
    booktitle={Advances in Neural Information Processing Systems},
    volume={35},
    year={2022}
}
"""


class _HandsOver(nn.Module):
    """In the place of a model: hands over the vectors that lie among the features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # asked for its tokenizer and the like, and no part of this

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return features

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_model"], name)


def _copy_for(loss: nn.Module, stand_in: nn.Module, model: nn.Module) -> nn.Module:
    """A loss with the same parameters that asks `stand_in` for vectors; `loss` stays as it is."""
    made = copy.copy(loss)
    for name, value in vars(loss).items():
        if isinstance(value, MethodType) and value.__self__ is loss:
            made.__dict__[name] = MethodType(value.__func__, made)
    made.__dict__["_modules"] = {
        name: child if child is None else _replaced(child, stand_in, model)
        for name, child in vars(loss)["_modules"].items()
    }
    return made


def _replaced(child: nn.Module, stand_in: nn.Module, model: nn.Module) -> nn.Module:
    if _is(child, model):
        return stand_in
    return _copy_for(child, stand_in, model) if _holds(child, model) else child


def _holds(loss: nn.Module, model: nn.Module) -> bool:
    return any(_is(part, model) for part in loss.modules())


def _is(module: nn.Module, model: nn.Module) -> bool:
    return _unwrapped(module) is _unwrapped(model)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within what torch.compile and data parallelism put around it."""
    for name in ("_orig_mod", "module", "_orig_mod"):
        model = getattr(model, name, model)
    return model


def _check_loss(loss: nn.Module, model: nn.Module) -> None:
    name = type(loss).__name__
    if name in _BEYOND_VECTORS:
        raise UnsupportedError(
            f"{name} needs more of a model than one vector for each text, so it cannot be computed "
            "for each size",
            hint=_BEYOND_VECTORS[name],
        )
    if not _holds(loss, model):
        raise InputError(
            f"the {name} inside must be made for the model that is trained, got another model",
            hint=f"write MatryoshkaLoss(model, {name}(model), dims)",
        )


def full_width(model: Any) -> int | None:
    """How many numbers a model makes, whatever it is told to cut them to; None if it cannot say."""
    cut = getattr(model, "truncate_dim", None)
    if cut is not None:
        model.truncate_dim = None
    try:
        for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
            if hasattr(model, name):
                width: int | None = getattr(model, name)()
                return width
    finally:
        if cut is not None:
            model.truncate_dim = cut
    return None


def _named(columns: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"column {place}": column for place, column in enumerate(columns, 1)}


def _check_columns(columns: Sequence[Tensor], sizes: Sizes) -> None:
    check_finite(**_named(columns))
    check_dim(sizes.dims[-1], columns[0].shape[1])
    rows = [len(column) for column in columns]
    if len(set(rows)) > 1:
        raise VectorError(f"every column must have one vector for each row, got {rows} vectors")


def _cut(vectors: Tensor, dim: int, *, scaled: bool) -> Tensor:
    prefix = vectors[..., :dim]
    return functional.normalize(prefix, dim=-1) if scaled else prefix


def _cut_labels(labels: Tensor | None, dim: int, full_dim: int, *, scaled: bool) -> Tensor | None:
    """Labels that are vectors as wide as the model's are a teacher's: treated as the student's."""
    if labels is None or labels.ndim < 2 or labels.shape[-1] != full_dim:
        return labels
    return _cut(labels, dim, scaled=scaled) if labels.is_floating_point() else labels


def _sum(loss: Tensor | Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(loss.values())).sum() if isinstance(loss, Mapping) else loss


def _parts(made: NestedLoss, sizes: Sizes) -> dict[str, Tensor]:
    """What each size adds to the loss; only the largest carries the gradient, that of the sum."""
    added = made.per_size * made.per_size.new_tensor(sizes.weights)
    parts = {f"loss_{dim}": part for dim, part in zip(made.dims, added, strict=True)}
    parts[f"loss_{made.dims[-1]}"] = made.loss - added[:-1].sum()
    return parts
