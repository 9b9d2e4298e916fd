"""Upstream's formulas (NVIDIA Transformers4Rec 23.12), restated, for the statistics.

Those count and average thousands of draws beside ours, in one process; its speed and memory are
those of the package itself (`transformers4rec_peer`). Not its code: a table of V probabilities,
`torch.multinomial` over it, `unique` and a cut; logits with a mask. `make test-upstream` holds it
to the package: the same seed gives the same candidates, log q, losses and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor


class UpstreamSampler:
    """Log-uniform candidates by a table of V float32 probabilities."""

    def __init__(self, num_items: int, num_samples: int) -> None:
        edges = torch.arange(1, num_items + 2, dtype=torch.float32).log_()
        probabilities = edges.diff() / edges[-1]
        tries = 2 * num_samples
        self.num_samples, self.tries = num_samples, tries
        self.probabilities = probabilities
        # 1 - (1 + p)^-M: the sign of p is outside of the logarithm there
        self.inclusion = torch.log1p(probabilities.double()).mul(-tries).expm1().neg().float()

    def __call__(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return candidate ids and the log q of targets and candidates."""
        ids = torch.multinomial(self.probabilities, self.tries, replacement=True)
        ids = ids.unique()[: self.num_samples]
        log_q = [(self.inclusion[which] + 1e-16).log() for which in (targets, ids)]
        return ids, log_q[0], log_q[1]


def sampled_softmax(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ids: Tensor,
    target_log_q: Tensor,
    candidate_log_q: Tensor,
) -> Tensor:
    """Mean loss from the [N, 1+S] logits; the gradient of ``weight`` is a dense [V, D]."""
    positive = (hidden * weight[targets]).sum(dim=1, keepdim=True) - target_log_q[:, None]
    negative = hidden @ weight[ids].T - candidate_log_q
    negative = negative.masked_fill(targets[:, None] == ids, -655.04)
    logits = torch.cat([positive, negative], dim=1)
    zeros = torch.zeros(len(targets), dtype=torch.int64)
    return torch.nn.functional.cross_entropy(logits, zeros)
