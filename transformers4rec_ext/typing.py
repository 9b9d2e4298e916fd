"""The types of a batch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["TabularData", "TensorOrTabularData"]

TabularData = Mapping[str, Tensor]
TensorOrTabularData = Tensor | TabularData
