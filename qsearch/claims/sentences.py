"""Claims as sentences, with the interval that each rests on."""

from __future__ import annotations

import math

import pandas as pd

from qsearch._sizes import readable_size, rounded_up
from qsearch.claims.claims import Claim, UniformClaim
from qsearch.claims.paired_difference import PairedDifference
from qsearch.claims.study_claims import Claims
from qsearch.plugins.footprint import Footprint


def size_text(row: pd.Series) -> str:
    """Return how large a configuration is: its bytes if they are known, and its average bits."""
    bits = f"{row['average_bits']:.2f} average bits"
    return bits if math.isnan(row["bytes"]) else f"{readable_size(row['bytes'])} ({bits})"


def difference_text(difference: PairedDifference, unit: str = "nats") -> str:
    """Return a difference with half its 95 % interval, such as ``+0.0012 ± 0.0104 nats``."""
    return f"{difference.difference:+.4f} ± {difference.half_width:.4f} {unit}".strip()


def interval_text(compared: int = 1) -> str:
    """Return what an interval is, which may hold for several configurations at once."""
    jointly = "" if compared == 1 else f" for all {compared} configurations at once"
    return f"95 % interval{jointly}"


def claim_sentence(claim: Claim, footprint: Footprint | None) -> str:
    """Return the claim of no measurable loss."""
    sentence = (
        f"No measurable loss at {size_text(claim.row)}: compared with full precision over the same"
        f" {claim.difference.examples} examples, the loss differs by"
        f" {difference_text(claim.difference)} ({interval_text(claim.compared)}), so it is at most"
        f" {rounded_up(100 * claim.at_most, 1)} % higher"
    )
    if footprint is None:
        return f"{sentence}."
    whole = footprint.other_bytes + 2 * footprint.quantized_weights
    return f"{sentence}. In 16 bits the model takes {readable_size(whole)}."


def uniform_sentence(claim: UniformClaim) -> str:
    """Return what the search gained over a baseline."""
    of = f"{claim.name}, {size_text(claim.baseline)}"
    if claim.smaller == 0:
        return f"The last finished round has nothing smaller than {of}."
    if claim.row is None:
        return f"No smaller configuration is as good as {of}."
    what = "average bits" if math.isnan(claim.baseline["bytes"]) else "bytes"
    difference = "" if claim.difference is None else f": {difference_text(claim.difference)}"
    return (
        f"As good as {of}, with {100 * claim.saved:.0f} % fewer {what}:"
        f" {size_text(claim.row)}{difference}."
    )


def claim_sentences(claims: Claims, footprint: Footprint | None) -> list[str]:
    """Return all that a study supports, and what limits it."""
    claimed = [] if claims.no_loss is None else [claim_sentence(claims.no_loss, footprint)]
    gained = [uniform_sentence(claim) for claim in claims.uniform]
    return [*(f"warning: {text}" for text in claims.warnings), *claimed, *gained]
