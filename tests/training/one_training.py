"""A training run of its own: python one_training.py MODEL DATA OUT [KILL_AT].

It is killed after a step, if asked. Under torchrun it is one of several.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

from matryo.jobs.training import train

SETTINGS = {
    "dims": "4,8,16", "steps": 7, "batch_size": 12, "learning_rate": 1e-3, "seed": 3,
    "dev_share": 0.0, "save_every": 2, "n_dims_per_step": 2,
}  # fmt: skip


def main(model, data, out, kill_at="0"):
    torch.set_num_threads(1)

    def on_step(step, total, losses):
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    train(data, out, model=model, resume=True, on_step=on_step, **SETTINGS)


if __name__ == "__main__":
    main(*sys.argv[1:])
