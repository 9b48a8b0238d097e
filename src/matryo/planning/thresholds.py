"""A similarity threshold at full width, carried to the scores of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryo.core import Funnel, InputError, Threshold, TooFewError
from matryo.evaluation import fit_score_map, mean_interval
from matryo.planning.parts import Part
from matryo.search import Level


def fit_threshold(
    order: Part, certify: Part, funnel: Funnel, full: float, *, confidence: float
) -> tuple[Threshold, dict[str, Any]]:
    """Fit the map from the last stage's scores to full-width scores, and certify what it decides.

    Args:
        order: Queries that the map is fitted on.
        certify: Queries on which its decisions are compared with those of the full width.
        funnel: Whose answers are cut off.
        full: The threshold, as a full-width score.
        confidence: Of the lower bound of the agreement.

    Returns:
        The threshold, and what is known of it: the mean share of an answer's rows on which both
        decide alike, and the lower end of its interval.

    Raises:
        InputError: a threshold outside the scores that were seen.
        TooFewError: fewer than two queries with a whole answer in a part.
    """
    stage = funnel.stages[-1]
    level = Level(stage.dim, stage.precision)
    scores, whole = _answers(order, funnel)
    fitted = fit_score_map(scores, whole, level)
    # the map goes from the stage's scores to those of the full width: its `full` are the former
    if not fitted.prefix[0] <= full <= fitted.prefix[-1]:
        raise InputError(
            f"threshold must be between {fitted.prefix[0]:.4f} and {fitted.prefix[-1]:.4f}, the "
            f"full-width scores of answers in these data, got {full}",
            threshold=full,
        )
    threshold = Threshold(full, tuple(fitted.full), tuple(fitted.prefix))
    scores, whole = _answers(certify, funnel)
    alike = (np.interp(scores, fitted.full, fitted.prefix) >= full) == (whole >= full)
    agreement = alike.mean(axis=1)
    low, _ = mean_interval(agreement, confidence=confidence)
    return threshold, {
        "full": full,
        "dim": stage.dim,
        "precision": stage.precision.value,
        "agreement": float(agreement.mean()),
        "agreement_low": low,
        "confidence": confidence,
        "queries": len(agreement),
    }


def _answers(part: Part, funnel: Funnel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores of every answer's rows at the last stage and at full width, of whole answers only."""
    scores, whole = part.table.answer_scores(funnel)
    scores, whole = scores[part.pick], whole[part.pick]
    good = np.isfinite(scores).all(axis=1) & np.isfinite(whole).all(axis=1)
    if good.sum() < 2:
        raise TooFewError(
            f"a threshold needs at least 2 queries with a whole answer, got {good.sum()}", needed=2
        )
    return scores[good], whole[good]
