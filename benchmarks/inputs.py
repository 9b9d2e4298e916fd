"""The tensors of a case, made of one seed: a peer in another process has the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import cases
from transformers4rec_ext import functional

SEED = 0


class Scoring(NamedTuple):
    """Hidden states [N, D], item rows [V, D] and targets [N]."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor


class Candidates(NamedTuple):
    """Candidate ids [S] with their log q, and that of the targets [N]."""

    ids: Tensor
    log_q: Tensor
    target_log_q: Tensor


def scoring(case: cases.SoftmaxCase | cases.FullCase, device: str = "cpu") -> Scoring:
    """Return the tensors of a loss or of a ranking; scores have a standard deviation near 1."""
    generator = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(case.rows, case.width, generator=generator)
    weight = torch.randn(case.items, case.width, generator=generator).mul_(0.1)
    targets = torch.randint(case.items, (case.rows,), generator=generator)
    return Scoring(hidden.to(device), weight.to(device), targets.to(device))


def candidates(case: cases.SoftmaxCase, targets: Tensor) -> Candidates:
    """Return candidates that were drawn once, for everybody."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = functional.log_uniform_sample(case.samples, case.items, generator=generator)
    log_q = functional.log_uniform_log_q(targets.cpu(), case.items, num_tries=drawn.num_tries)
    return Candidates(*(x.to(targets.device) for x in (drawn.ids, drawn.log_q, log_q)))


def labels(case: cases.SamplerCase, device: str = "cpu") -> Tensor:
    """Return the targets whose log q is asked for, [N]."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(case.items, (case.targets,), generator=generator).to(device)


def sessions(case: cases.StepCase, device: str = "cpu") -> Tensor:
    """Return a batch of sessions without padding, [B, T]."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(1, case.items, (case.sessions, case.length), generator=generator)
    return ids.to(device)
