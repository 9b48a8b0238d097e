"""Starts a script as two processes that meet in a file, and reads what each of them saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def seen_by_two_ranks(script, folder, *, timeout):
    """What the ranks 0 and 1 of a script beside this file wrote to RANK.json in the folder."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=timeout)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
