"""From the vectors of a session's positions to one vector."""

from __future__ import annotations

import functools
import logging

import torch

from transformers4rec_ext._errors import value_error
from transformers4rec_ext.masking import MaskSequence, PermutationLanguageModeling

LOG = logging.getLogger("transformers4rec_ext")

SUMMARY_TYPES = ("last", "first", "mean", "cls_index", "attn", None)


def in_float32(x: torch.Tensor) -> torch.Tensor:
    """Widen half precision to float32, so that a sum accumulates, and a loss is, in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class AttentionPooling(torch.nn.Module):
    """``sum_t a_t x_t`` with ``a = softmax_t(u . tanh(W x_t + b))``, over positions with an item.

    The additive attention of Yang et al., "Hierarchical Attention Networks for Document
    Classification" (NAACL 2016), equations 5 to 7: the query ``u`` is learned. It costs ``T D^2``
    a session and has ``D^2 + 2 D`` parameters.

    Parameters
    ----------
    width : int
        D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(width, width)
        self.query = torch.nn.Linear(width, 1, bias=False)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Return [B, D] for ``x`` [B, T, D]; ``valid`` bool [B, T] are the positions to read.

        Of a row without one all are read.
        """
        scores = self.query(torch.tanh(self.projection(x))).squeeze(-1)
        if valid is not None:
            valid = valid | ~valid.any(dim=1, keepdim=True)
            scores = scores.masked_fill(~valid, -torch.inf)
        weights = torch.softmax(in_float32(scores), dim=1).to(x.dtype)
        return torch.einsum("bt,btd->bd", weights, x)


class SequenceSummary(torch.nn.Module):
    """Summarise ``x [B, T, D]`` to ``[B, D]`` by one of last, first, mean, cls_index, attn.

    The first four read the positions as they are, padding included, as upstream's do, so that its
    checkpoints predict as they did; "attn" leaves padding out where it is known.
    """

    def __init__(self, summary_type: str | None) -> None:
        super().__init__()
        if summary_type not in SUMMARY_TYPES:
            raise value_error(
                "PredictionTask", "summary_type", f"be one of {SUMMARY_TYPES}", repr(summary_type)
            )
        self.summary_type = summary_type

    def build(self, width: int) -> None:
        """Make the parameters of "attn" for D = ``width``; the others have none."""
        if self.summary_type == "attn":
            self.attention = AttentionPooling(width)

    def forward(
        self,
        x: torch.Tensor,
        cls_index: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the summary.

        Parameters
        ----------
        x : Tensor, floating, [B, T, D]
        cls_index : Tensor, int64, [B], optional
            Positions for "cls_index"; by default the last.
        valid : Tensor, bool, [B, T], optional
            Positions for "attn"; by default all.
        """
        if x.shape[1] == 0:
            raise value_error(
                "PredictionTask", "inputs", "have at least one position", list(x.shape)
            )
        if self.summary_type == "attn":
            summary: torch.Tensor = self.attention(x, valid)
            return summary
        if self.summary_type == "first":
            return x[:, 0]
        if self.summary_type == "mean":
            return x.mean(dim=1)
        if self.summary_type == "cls_index" and cls_index is not None:
            if cls_index.dtype != torch.int64 or cls_index.shape != x.shape[:1]:
                raise value_error(
                    "SequenceSummary",
                    "cls_index",
                    f"be int64 [B={x.shape[0]}]",
                    f"{cls_index.dtype} {list(cls_index.shape)}",
                )
            return x[torch.arange(x.shape[0], device=x.device), cls_index]
        return x[:, -1]


def positions_of_items(
    x: torch.Tensor, item_ids: torch.Tensor, padding_idx: int
) -> torch.Tensor | None:
    """Return bool [B, T'] of the positions of ``x`` [B, T', D] that hold an item [B, T].

    A position that the masking appended holds none. None where the ids are of another batch.
    """
    appended = x.shape[1] - item_ids.shape[1]
    if item_ids.shape[0] != x.shape[0] or appended < 0:
        return None
    return torch.nn.functional.pad(item_ids != padding_idx, (0, appended))


def sees_one_item(masking: object) -> bool:
    """Tell whether a masking of ours hides later items from the first position that is served.

    Upstream's bodies show it the whole session.
    """
    if not isinstance(masking, MaskSequence):
        return False
    return masking.causal or isinstance(masking, PermutationLanguageModeling)


@functools.cache
def say_first_sees_one_item(task: str, masking: str) -> None:
    """Warn once in a process for each pair of classes."""
    LOG.warning(
        '%s reads the first position (summary_type="first", the default of Transformers4Rec), '
        "which with %s has seen the first item of a session only. "
        'summary_type="attn" reads all positions that hold an item.',
        task,
        masking,
    )
