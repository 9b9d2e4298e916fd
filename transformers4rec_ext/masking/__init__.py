"""Which items are hidden from the model and which it must predict.

A masking is a function from item ids to ``(schema, targets)``: :func:`causal_targets`,
:func:`masked_targets` and :func:`permutation_targets` are these functions, and the modules add the
learned vector that stands for a hidden item. What a call needs is passed on as a value,
:class:`MaskedItems`. For the sake of bodies written for upstream the modules also remember the
last result in ``mask_schema`` and ``masked_targets``; :func:`read_targets` is the one place that
reads it back.
"""

from transformers4rec_ext.masking.base import MaskSequence, masking_registry, read_targets
from transformers4rec_ext.masking.causal import CausalLanguageModeling
from transformers4rec_ext.masking.masked import MaskedLanguageModeling
from transformers4rec_ext.masking.permutation import (
    PermutationInfo,
    PermutationLanguageModeling,
    permutation_targets,
)
from transformers4rec_ext.masking.replacement import ReplacementLanguageModeling
from transformers4rec_ext.masking.targets import causal_targets, masked_targets
from transformers4rec_ext.masking.values import MODES, MaskedItems, MaskingInfo, Mode

__all__ = [
    "MODES",
    "CausalLanguageModeling",
    "MaskSequence",
    "MaskedItems",
    "MaskedLanguageModeling",
    "MaskingInfo",
    "Mode",
    "PermutationInfo",
    "PermutationLanguageModeling",
    "ReplacementLanguageModeling",
    "causal_targets",
    "masked_targets",
    "masking_registry",
    "permutation_targets",
    "read_targets",
]
