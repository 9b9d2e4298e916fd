"""The model of the command line: item embeddings, a causal transformer, tied output weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transformers4rec_ext._modes import in_mode
from transformers4rec_ext.block.base import SequentialBlock
from transformers4rec_ext.block.transformer import TransformerBlock
from transformers4rec_ext.config.transformer import GPT2Config, XLNetConfig
from transformers4rec_ext.features.sequence import TabularSequenceFeatures
from transformers4rec_ext.model.head import Head
from transformers4rec_ext.model.model import Model
from transformers4rec_ext.schema import Schema
from transformers4rec_ext.training.config import RunConfig
from transformers4rec_ext.training.objective import make_task

ITEM = "item_id"
Query = Callable[[Tensor], tuple[Tensor, Tensor]]
#: Catalogues above this size are trained with row gradients unless told otherwise.
SPARSE_ABOVE = 100_000


def build_model(
    config: RunConfig,
    num_items: int,
    popularity: np.ndarray | None = None,
    *,
    served: bool = False,
) -> Model:
    """Return an untrained model for a catalogue of V = ``num_items`` (padding included).

    The weights come from torch's global generator: seed it first.

    Parameters
    ----------
    config : RunConfig
    num_items : int
        V, rows of the item table.
    popularity : int64 [V], optional
        Training counts by id; the samplers that go by them need it.
    served : bool
        For a model that is not trained: it has no sampler, which may be three numbers an item.
    """
    # A row is a context of max_length items and one target.
    length = config.max_length + 1
    sparse = uses_row_gradients(config, num_items)
    inputs = TabularSequenceFeatures.from_schema(
        Schema.from_item_column(ITEM, num_items=num_items - 1, max_length=length),
        max_sequence_length=length,
        embedding_dim_default=config.d_model,
        masking="causal",
        aggregation="concat",
        sparse_grad=sparse,
    )
    inner = config.inner or 4 * config.d_model
    maker: Any
    if config.body == "gpt2":
        # Dropout inside the attention would rule out the flash kernel, the only one on the CPU
        # that does not write the [T, T] weights.
        maker, more = GPT2Config, {"n_inner": inner, "attn_pdrop": 0.0}
    else:
        maker, more = XLNetConfig, {"d_inner": inner}
    transformer = maker.build(
        d_model=config.d_model,
        n_head=config.heads,
        n_layer=config.layers,
        total_seq_length=length,
        initializer_range=0.02,
        layer_norm_eps=1e-8,
        dropout=config.dropout,
        **more,
    )
    body = SequentialBlock(inputs, TransformerBlock(transformer, masking=inputs.masking))
    task = make_task(config, num_items, sparse=sparse, popularity=popularity, served=served)
    return Model(Head(body, task, inputs=inputs))


def uses_row_gradients(config: RunConfig, num_items: int) -> bool:
    """Tell whether the item table of a run gets row gradients: as told, else by its size."""
    if config.sparse is not None:
        return config.sparse
    return config.loss != "full" and num_items > SPARSE_ABOVE


def model_query(model: Model) -> Query:
    """Return a function from ids [B, T] to hidden [B, T, D] and the item weights [V, D].

    Their products order the items that may come after each position. Of scores that are cosines the
    item weights are those that the model has now. ``ids`` may be of any device, the results are of
    the model's.
    """
    (task,) = model.prediction_tasks
    weights = task.item_weights.detach()

    def query(ids: Tensor) -> tuple[Tensor, Tensor]:
        return model({ITEM: ids.to(weights.device)}, returns="all_hidden"), weights

    return query


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation without gradients; restore all modes afterwards."""
    with in_mode(model, training=False), torch.no_grad():
        yield
