"""Train by a loop as docs/recipes.md has it, as one of several processes; the first writes weights.

usage: torchrun --nproc-per-node W own_loop_run.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import transformers4rec_ext as tr

V, T, D = 60, 6, 8


def main(folder: Path) -> None:
    """Take three steps on this process's share of twelve sessions."""
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)  # of weights and, the same everywhere, of negatives
    schema = tr.Schema.from_item_column("item_id", num_items=V - 1, max_length=T)
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema, max_sequence_length=T, d_output=D, masking="causal", aggregation="concat"
    )
    transformer = tr.GPT2Config.build(
        d_model=D, n_head=2, n_layer=1, total_seq_length=T, dropout=0.0
    )
    body = tr.SequentialBlock(inputs, tr.TransformerBlock(transformer, masking=inputs.masking))
    task = tr.NextItemPredictionTask(
        weight_tying=True, sampled_softmax=True, max_n_samples=20, sparse_grad=True
    )
    model = tr.Model(tr.Head(body, task, inputs=inputs))
    generator = torch.Generator().manual_seed(1)
    sessions = torch.randint(1, V, (3, 12, T), generator=generator)

    tables = [weight for weight in model.parameters() if weight.shape[0] == V]
    named = model.named_parameters(remove_duplicate=False)
    names = [name for name, weight in named if any(weight is table for table in tables)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    for table in tables:
        distributed.broadcast(table.data, 0)
    shared = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = tr.optim.LazyAdam(model.parameters(), lr=0.01)
    for batch in sessions:
        optimizer.zero_grad()
        shared({"item_id": batch.chunk(processes)[rank]}, training=True)["loss"].backward()
        assert all(table.grad is not None and table.grad.is_sparse for table in tables)
        tr.optim.average_row_gradients_(tables)
        optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), folder / f"{processes}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
