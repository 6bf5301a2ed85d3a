"""How far a model's next-token distribution is from another's, of which the top is kept.

KL(p ‖ q) over the tokens that are likeliest by p, with all others taken as one: by the log-sum
inequality this is at most the exact divergence, and little less where the kept tokens hold nearly
all of the probability.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

TOP = 512
"""Tokens whose probability is kept; all of a smaller vocabulary."""

TOKEN_BYTES = 8 * TOP + 4
"""What is kept of a token's distribution: logarithms, tokens and the rest."""

_ROWS = 16

_LEAST = 1e-7
"""Smaller values do not count as probabilities: sums of float32 are not as precise."""


class TopProbabilities(NamedTuple):
    """The likeliest tokens after each of t tokens, the likeliest first.

    Args:
        logs: Their log-probabilities (t × k).
        tokens: Their numbers (t × k).
        rest: Probability of all others (t).
    """

    logs: Tensor
    tokens: Tensor
    rest: Tensor


def top_probabilities(logits: Tensor) -> TopProbabilities:
    """Return the top of the distributions that logits (t × vocabulary) give."""
    top, tokens = logits.topk(min(TOP, logits.shape[-1]), dim=-1)
    logs = top - _normalisers(logits)[:, None]
    return TopProbabilities(logs, tokens, _rest(logs))


def divergence(logits: Tensor, reference: TopProbabilities) -> Tensor:
    """Return KL(reference ‖ model) after each token (t), nats, from the model's logits."""
    chosen = logits.gather(-1, reference.tokens.long())
    logs = chosen - _normalisers(logits)[:, None]
    of_top = (reference.logs.exp() * (reference.logs - logs)).sum(-1)
    if reference.logs.shape[-1] == logits.shape[-1]:
        return of_top.clamp_min(0.0)
    rest, own = reference.rest, _rest(logs)
    of_rest = rest * (rest.clamp_min(_LEAST).log() - own.clamp_min(_LEAST).log())
    return (of_top + of_rest).clamp_min(0.0)  # Below zero is rounding.


def same_top(logits: Tensor, reference: TopProbabilities) -> Tensor:
    """Return whether the likeliest token is the reference's (t); as likely as another will do."""
    first = logits.gather(-1, reference.tokens[:, :1].long())[:, 0]
    return first >= logits.amax(-1)


def _normalisers(logits: Tensor) -> Tensor:
    """Return the logarithm of the sum of exponentials of logits (t × vocabulary), t numbers.

    A few rows at once: of a large vocabulary, what is computed on the way stays in the processor's
    cache, which halves the time.
    """
    import torch

    rows = _ROWS if logits.device.type == "cpu" else len(logits) or 1
    return torch.cat([part.logsumexp(-1) for part in torch.split(logits, rows)])


def _rest(logs: Tensor) -> Tensor:
    """Return the probability that log-probabilities (t × k) leave to others (t)."""
    return (1.0 - logs.exp().sum(-1)).clamp_min(0.0)
