"""Parameters, gradients and states that do not lie in memory alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformers4rec_ext.optim import LazyAdagrad, LazyAdam

PAIRS = [(LazyAdam, torch.optim.AdamW), (LazyAdagrad, torch.optim.Adagrad)]


def _laid(values: torch.Tensor, transposed: bool) -> torch.Tensor:
    return values.t().contiguous().t() if transposed else values.clone()


@pytest.mark.parametrize("of_grad", [False, True])
@pytest.mark.parametrize("of_param", [False, True])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_dense_gradients_of_other_strides(pair: Any, of_param: bool, of_grad: bool) -> None:
    values, gradients = torch.randn(7, 5), torch.randn(3, 7, 5)
    results = []
    for make, options in zip(pair, ({}, {"foreach": False}), strict=True):
        param = torch.nn.Parameter(_laid(values, of_param))
        optimizer = make([param], lr=0.1, weight_decay=0.0, **options)
        for gradient in gradients:
            param.grad = _laid(gradient, of_grad)
            optimizer.step()
        results.append(param.detach().clone())
    torch.testing.assert_close(*results)
