from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Level: ...

class Margin:
    def __init__(
        self, probe: int, width: float, lines: Sequence[tuple[float, float, float]]
    ) -> None: ...

class Segments:
    def add_integers(self, ids: NDArray[np.int64], levels: Sequence[Level]) -> None: ...
    def add_texts(
        self, ends: NDArray[np.int64], text: NDArray[np.uint8], levels: Sequence[Level]
    ) -> None: ...

def instruction_sets() -> list[str]: ...
def packed_level(
    bits: int,
    dim: int,
    rows: int,
    blocks: NDArray[np.uint8],
    excess: NDArray[np.uint16] | None,
    bounds: NDArray[np.float32] | None,
) -> Level: ...
def keep_in_lists(
    level: Level,
    centroids: Level,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int32],
    slots: NDArray[np.int32],
) -> None: ...
def with_angles(
    level: Level, cosines: NDArray[np.float32], angles: NDArray[np.float32]
) -> None: ...
def number_level(
    numbers: NDArray[Any],
    dim: int,
    steps: NDArray[np.float32] | None,
    scaled: bool,
    checked: tuple[NDArray[np.bool_], int] | None,
) -> Level: ...
def search(
    segments: Segments,
    target: str,
    queries: NDArray[np.floating],
    stages: Sequence[tuple[int, int, float, int]],
    living: Sequence[NDArray[np.uint32] | None],
    metric: str,
    margin: Margin | None,
    certain: bool,
    check: Callable[[int, int], None],
    threads: int,
) -> tuple[NDArray[Any], ...]: ...
