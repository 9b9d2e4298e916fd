"""SASRec (Kang and McAuley, ICDM 2018) in plain PyTorch, as one writes it without this package.

The paper's network: rows padded on the left, so that the last position is the most recent item's;
embeddings times sqrt(D) plus learned positions; blocks x + Dropout(g(LayerNorm(x))) of causal
attention and a ReLU layer of width D; a LayerNorm; scores by the item embeddings themselves. Adam
with beta2 = 0.98. Three losses:

* "bce": the paper's, binary cross-entropy of the target and one negative;
* "sampled": softmax over the target and K negatives of each position's own (Klenitskiy and
  Vasilev, RecSys 2023, among others);
* "full": softmax over all items, from the [N, V] scores.

Negatives are uniform over the items other than the target. The authors' code also keeps off what
else the user has, and lets the residual path carry the normalised input; the paper has neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformers4rec_ext.data.catalogue import Catalogue
from transformers4rec_ext.data.loader import KnownItems
from transformers4rec_ext.data.parquet import ParquetSessions
from transformers4rec_ext.data.split import padded

LOSSES = ("sampled", "bce", "full")


class Block(nn.Module):
    """``x + Dropout(g(LayerNorm(x)))`` with g causal attention, then with g two linear layers."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed_in = nn.Linear(width, width)
        self.feed_out = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """Return [B, T, D] of x [B, T, D]; ``allowed`` [B, 1, T, T] is who may look at whom."""
        x = x + self._drop(self._attention(self.attention_norm(x), allowed))
        inner = self._drop(F.relu(self.feed_in(self.feed_norm(x))))
        return x + self._drop(self.feed_out(inner))

    def _attention(self, x: Tensor, allowed: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=allowed, dropout_p=rate)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class SASRec(nn.Module):
    """Item ids [B, T], padded on the left with 0, to hidden [B, T, D].

    Parameters
    ----------
    num_items : int
        V, with the padding item 0.
    max_length, width, layers, heads : int
    dropout : float
    """

    def __init__(
        self,
        num_items: int,
        *,
        max_length: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.items.weight[0].zero_()

    def forward(self, ids: Tensor) -> Tensor:
        """Return hidden [B, T, D]; at padding it means nothing."""
        real = ids != 0
        x = self.items(ids) * self.items.embedding_dim**0.5 + self.positions.weight
        x = self.dropout(x) * real[:, :, None]
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        # padding looks at itself: a softmax over nothing would be NaN
        own = torch.eye(length, dtype=torch.bool, device=ids.device)
        allowed = (causal & (real[:, None, :] | own))[:, None]
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)

    def query(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden [B, T, D] at the items of rows padded on the right, and weights [V, D].

        The positions are those of a row that ends with its last item, as in training.
        """
        most = len(self.positions.weight)
        first = most - (ids != 0).sum(dim=1, keepdim=True)
        at = (first + torch.arange(ids.shape[1], device=ids.device)).clamp(max=most - 1)
        row = torch.arange(len(ids), device=ids.device)[:, None]
        return self(left_padded(ids, most))[row, at], self.items.weight


def left_padded(ids: Tensor, width: int) -> Tensor:
    """Return rows [B, width], zeros first, of rows whose zeros stand last, no longer than that."""
    length = (ids != 0).sum(dim=1, keepdim=True)
    at = torch.arange(width, device=ids.device) - (width - length)
    return torch.where(at >= 0, ids.gather(1, at.clamp(min=0)), 0)


class TrainingRows:
    """The last T + 1 training items of every user, shuffled by (seed, epoch).

    Parameters
    ----------
    sessions, catalogue
        Users with fewer than two training items are left out.
    max_length : int
        T, what the model sees of a row.
    batch_size, seed : int
    """

    def __init__(
        self,
        sessions: ParquetSessions,
        catalogue: Catalogue,
        *,
        max_length: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        found = []
        for chunk in sessions.chunks():
            known = KnownItems.of(chunk, catalogue)
            start, stop = (known.position[at] for at in chunk.training_bounds("train"))
            enough = stop - start >= 2
            rows = padded(known.ids, start[enough], stop[enough], max_length + 1)
            found.append(left_padded(torch.from_numpy(rows), max_length + 1))
        self.rows = torch.cat(found)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the rows of an epoch, [B, T + 1]."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        yield from (self.rows[rows] for rows in torch.from_numpy(order).split(self.batch_size))


def negatives_of(targets: Tensor, count: int, num_items: int) -> Tensor:
    """Return [N, count] ids, uniform over 1 .. V - 1 without the row's target."""
    drawn = torch.randint(1, num_items - 1, (len(targets), count))
    return drawn + (drawn >= targets[:, None])


def loss(model: SASRec, rows: Tensor, objective: str, negatives: int = 0) -> Tensor:
    """Return the mean loss over the positions of rows [B, T + 1] that hold an item.

    Parameters
    ----------
    model : SASRec
    rows : Tensor, int64, [B, T + 1]
        Padded on the left; each item is to predict the next.
    objective : "sampled", "bce" or "full"
    negatives : int
        K, for each position; of no use to "full".
    """
    ids = rows[:, :-1]
    labelled = ids != 0
    hidden, targets = model(ids)[labelled], rows[:, 1:][labelled]
    weight = model.items.weight
    if objective == "full":
        scores = hidden @ weight.T
        scores[:, 0] = -torch.inf
        return F.cross_entropy(scores, targets)
    candidates = torch.cat([targets[:, None], negatives_of(targets, negatives, len(weight))], dim=1)
    scores = torch.bmm(model.items(candidates), hidden[:, :, None]).squeeze(2)
    if objective == "bce":
        return F.softplus(-scores[:, 0]).mean() + F.softplus(scores[:, 1:]).sum(dim=1).mean()
    return F.cross_entropy(scores, torch.zeros_like(targets))


class Step:
    """One step of training: loss, gradient, Adam."""

    def __init__(self, model: SASRec, objective: str, negatives: int = 0, lr: float = 1e-3) -> None:
        self.model, self.objective, self.negatives = model, objective, negatives
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98), fused=True)

    def __call__(self, rows: Tensor, number: int) -> float:
        """Update the weights by a batch; return the loss before that."""
        value = loss(self.model, rows, self.objective, self.negatives)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        return float(value.detach())
