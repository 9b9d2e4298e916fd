"""Masked language modeling: the hidden items, from what stands on both sides of them."""

from __future__ import annotations

from torch import Tensor

from transformers4rec_ext.masking.base import MaskSequence, masking_registry
from transformers4rec_ext.masking.targets import masked_targets
from transformers4rec_ext.masking.values import MaskingInfo, check_probability, mode_of


@masking_registry.register_with_multiple_names("mlm", "masked")
class MaskedLanguageModeling(MaskSequence):
    """Predict hidden items from the others (BERT4Rec's Cloze task).

    Parameters
    ----------
    hidden_size : int
    padding_idx : int
    eval_on_last_item_seq_only : bool
        Whether testing hides the last item of each session. Otherwise it hides items at random as
        training does, and so measures the training objective on other sessions: its metrics are
        not those of predicting what comes next.
    mlm_probability : float
        Chance of an item to be hidden in training, besides the one hidden in every session.

    Notes
    -----
    See :func:`masked_targets`. At inference a hidden position is appended to each session, so that
    outputs are [B, T + 1, D]. After a session of the full length T that is a position which was
    never trained: serve the last T - 1 items of longer sessions. In training, sessions of one
    item have no target; in testing, such an item is predicted from nothing, as upstream does.
    """

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
        mlm_probability: float = 0.15,
    ) -> None:
        super().__init__(hidden_size, padding_idx, eval_on_last_item_seq_only)
        check_probability(type(self).__name__, "mlm_probability", mlm_probability)
        self.mlm_probability = mlm_probability

    def _compute_masked_targets(
        self, item_ids: Tensor, training: bool = False, testing: bool = False
    ) -> MaskingInfo:
        return masked_targets(
            item_ids,
            padding_idx=self.padding_idx,
            mode=mode_of(training, testing),
            last_only=self.eval_on_last_item_seq_only,
            probability=self.mlm_probability,
        )
