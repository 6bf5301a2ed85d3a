"""Training losses of a study."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qsearch.storage.study_record import StudyRecord


def training_frame(record: StudyRecord, points_per_round: int = 300) -> pd.DataFrame:
    """Return the training loss by round.

    Returns:
        Table of ``round``, ``step`` (last step of the average, counted from 1 over all rounds)
        and ``loss`` (mean over the steps averaged).
    """
    frames = []
    before = 0
    for entry in record.rounds:
        losses = np.asarray(entry.train_losses, dtype=float)
        if losses.size:
            parts = np.array_split(losses, min(losses.size, points_per_round))
            steps = before + np.cumsum([part.size for part in parts])
            means = [float(part.mean()) for part in parts]
            frames.append(pd.DataFrame({"round": entry.round, "step": steps, "loss": means}))
        before += losses.size
    if not frames:
        return pd.DataFrame({"round": [], "step": [], "loss": []})
    return pd.concat(frames, ignore_index=True)
