"""Which positions of the hidden states a next-item task reads."""

from __future__ import annotations

import torch

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import value_error
from transformers4rec_ext.masking.targets import end_of

_FUNCTION = "NextItemPredictionTask.forward"
#: The label of a row that has none, where all rows are kept.
IGNORED = -100


def labelled_rows(
    x: torch.Tensor, targets: torch.Tensor, padding_idx: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the hidden rows [N, D] and labels where ``targets`` [B, T] has one, and which.

    Labels are int64 [N], and so are their places among the B T.

    Raises
    ------
    ValueError   if ``x`` is not [B, T, D] with the targets' B and T.
    """
    _check_shape(x, targets)
    flat = targets.flatten()
    rows = (flat != padding_idx).nonzero().squeeze(1)
    return x.flatten(end_dim=1).index_select(0, rows), flat.index_select(0, rows), rows


def all_rows(
    x: torch.Tensor, targets: torch.Tensor, padding_idx: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all rows [B T, D] and their labels int64 [B T], `IGNORED` where there is none.

    Unlike `labelled_rows` its shapes do not depend on values, so that nothing waits for a device.

    Raises
    ------
    ValueError   as `labelled_rows`.
    """
    _check_shape(x, targets)
    flat = targets.flatten()
    return x.flatten(end_dim=1), torch.where(flat == padding_idx, IGNORED, flat)


def seen_before(
    item_ids: torch.Tensor, rows: torch.Tensor, padding_idx: int, causal: bool
) -> torch.Tensor:
    """Return the items before the one that each label asks for, int64 [N, T], -1 elsewhere.

    Of ``item_ids`` [B, T] and the ``rows`` of :func:`labelled_rows`. A causal label stands one
    position before its item.
    """
    length = item_ids.shape[1]
    session, position = rows // length, rows % length
    ids = item_ids[session]
    place = torch.arange(length, device=ids.device)
    before = place < (position + int(causal)).unsqueeze(1)
    return torch.where(before & (ids != padding_idx), ids, -1)


def with_seen(
    exclude_ids: torch.Tensor | None, item_ids: torch.Tensor, padding_idx: int
) -> torch.Tensor:
    """Return ``exclude_ids`` [B, L] and all items of the sessions ``item_ids`` [B, T].

    Raises
    ------
    TypeError, ValueError   if ``exclude_ids`` are not int64 [B, L].
    """
    seen = torch.where(item_ids == padding_idx, -1, item_ids)
    if exclude_ids is None:
        return seen
    _checks.int64(_FUNCTION, "exclude_ids", exclude_ids)
    if exclude_ids.dim() != 2 or exclude_ids.shape[0] != seen.shape[0]:
        got = _checks.describe(exclude_ids)
        raise value_error(_FUNCTION, "exclude_ids", f"be int64 [B={seen.shape[0]}, L]", got)
    return torch.cat([exclude_ids, seen], dim=1)


def _check_shape(x: torch.Tensor, targets: torch.Tensor) -> None:
    if x.shape[:2] != targets.shape:
        raise value_error(
            _FUNCTION,
            "inputs",
            f"be [B={targets.shape[0]}, T={targets.shape[1]}, D] like the masking's targets",
            list(x.shape),
        )


def last_rows(x: torch.Tensor, item_ids: torch.Tensor | None, padding_idx: int) -> torch.Tensor:
    """Return the rows [B, D] of ``x`` [B, T, D] that predict what follows ``item_ids``.

    The last item's position in each session, wherever it is padded; one further where the masking
    appended a [MASK], which shows in the time dimension.

    Raises
    ------
    ValueError   if the ids are not those of the batch, or there is no position to read.
    """
    if item_ids is None or item_ids.shape[0] != x.shape[0]:
        raise value_error(
            _FUNCTION, "inputs", "come from the batch that the input module saw last", list(x.shape)
        )
    if x.shape[0] > 0 and x.shape[1] == 0:
        raise value_error(
            _FUNCTION,
            "inputs",
            "have at least one position",
            list(x.shape),
            "Give a session without items one position of padding.",
        )
    appended = x.shape[1] - item_ids.shape[1]
    last = end_of(item_ids != padding_idx) - 1 + appended
    # A session of padding alone has no last item; its first position stands in.
    return x[torch.arange(x.shape[0], device=x.device), last.clamp(min=0)]
