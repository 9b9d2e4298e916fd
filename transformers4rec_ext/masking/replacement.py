"""Replacement language modeling: masked items, and the fakes that a discriminator must find."""

from __future__ import annotations

import torch
from torch import Tensor

from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.masking.base import masking_registry
from transformers4rec_ext.masking.masked import MaskedLanguageModeling


@masking_registry.register_with_multiple_names("rtd", "replacement")
class ReplacementLanguageModeling(MaskedLanguageModeling):
    """Mask as :class:`MaskedLanguageModeling`, and make fakes for a discriminator (ELECTRA).

    Parameters
    ----------
    hidden_size : int
    padding_idx : int
    eval_on_last_item_seq_only : bool
    sample_from_batch : bool
        Whether fakes are drawn from the masked items of the batch instead of the whole catalogue.
    mlm_probability : float
    attend_to_padding : bool
        See :class:`MaskedLanguageModeling`.
    """

    def __init__(
        self,
        hidden_size: int,
        padding_idx: int = 0,
        eval_on_last_item_seq_only: bool = True,
        sample_from_batch: bool = False,
        mlm_probability: float = 0.15,
        attend_to_padding: bool = True,
    ) -> None:
        super().__init__(
            hidden_size, padding_idx, eval_on_last_item_seq_only, mlm_probability, attend_to_padding
        )
        if not isinstance(sample_from_batch, bool):
            got = type(sample_from_batch).__name__
            raise type_error(type(self).__name__, "sample_from_batch", "be a bool", got)
        self.sample_from_batch = sample_from_batch

    def get_fake_tokens(
        self, itemid_seq: Tensor, target_flat: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | list[int]]:
        """Replace the masked items of a batch by items drawn from a generator's scores.

        Parameters
        ----------
        itemid_seq : Tensor, int64, [B, T]
            The sessions.
        target_flat : Tensor, int64, [B * T]
            The masked items, flattened; ``padding_idx`` elsewhere. N of them are items.
        logits : Tensor, floating, [N, V], or [N, N] with ``sample_from_batch``
            The generator's scores at the masked positions.

        Returns
        -------
        tuple
            Sessions with fakes int64 [B, T]; labels bool [B, T], True where the item is no longer
            the original; and the drawn places among the N targets, int64 [N], with
            ``sample_from_batch`` (else an empty list).

        Raises
        ------
        ValueError   if the shapes disagree.

        Notes
        -----
        The padding item is never drawn. Nothing returned has a gradient.
        """
        if target_flat.numel() != itemid_seq.numel():
            raise value_error(
                "get_fake_tokens",
                "target_flat",
                f"have the B * T = {itemid_seq.numel()} places of itemid_seq",
                list(target_flat.shape),
            )
        places = (target_flat.flatten() != self.padding_idx).nonzero().squeeze(1)
        targets = target_flat.flatten()[places]
        self._check_logits(logits, len(targets))
        logits = logits.detach()
        if self.sample_from_batch:
            drawn = self.sample_from_softmax(logits)
            fakes = targets[drawn]
        else:
            padding = torch.arange(logits.shape[1], device=logits.device) == self.padding_idx
            fakes = self.sample_from_softmax(logits.masked_fill(padding, -torch.inf))
        corrupted = itemid_seq.flatten().index_copy(0, places, fakes)
        is_fake = torch.zeros_like(corrupted, dtype=torch.bool)
        is_fake[places] = fakes != targets
        shape = itemid_seq.shape
        return corrupted.view(shape), is_fake.view(shape), drawn if self.sample_from_batch else []

    def _check_logits(self, logits: Tensor, count: int) -> None:
        columns = count if self.sample_from_batch else logits.shape[-1]
        if logits.ndim != 2 or logits.shape != (count, columns):
            wanted = f"[N={count}, N={count}]" if self.sample_from_batch else f"[N={count}, V]"
            raise value_error(
                "get_fake_tokens",
                "logits",
                f"be {wanted} for the N masked items of target_flat",
                list(logits.shape),
            )

    def sample_from_softmax(self, logits: Tensor) -> Tensor:
        """Draw one column of each row of ``logits`` [N, V] by softmax; return int64 [N].

        By the Gumbel trick: ``argmax(logits - log(-log u))``, with u uniform.
        """
        dtype = torch.promote_types(logits.dtype, torch.float32)
        noise = torch.rand(logits.shape, dtype=dtype, device=logits.device)
        gumbel = -(-(noise + 1e-9).log() + 1e-9).log()
        return (logits + gumbel).argmax(-1)
