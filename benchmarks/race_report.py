"""What the documents say of a race to a quality, from its JSON."""

from __future__ import annotations

from typing import Any

HEADER = ["what", "loss", "B", "T", "an epoch", "minutes to {target}", "/ ours", "epochs", "best"]
TEXT = """## Time to quality

Minutes of training until test NDCG@10 on MovieLens-1M is at least {target} (leave-one-out, all
items ranked, the user's earlier items excluded, ties against the model): the command line's model,
and SASRec in plain PyTorch (`peers/sasrec.py`) with its paper's settings and the width of ours, by
the losses that are named. Those of one run train an epoch in turn, each by a clock of its own;
evaluation, the same code for all, is not on it. When to read the clock is decided by the test
items, since the target and the published results are stated for them; nothing else is decided by
them. At most {budget:g} minutes of training each; seed {seed}. `make time-to-quality` repeats it.

![test NDCG@10 against minutes of training](results/time_to_quality.png)
"""


def text(content: dict[str, Any]) -> str:
    """Return heading and explanation."""
    return TEXT.format(
        target=content["target"], budget=content["budget_minutes"], seed=content["seed"]
    )


def table(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows."""
    header = [cell.format(target=content["target"]) for cell in HEADER]
    return header, [_row(row, content) for row in content["rows"]]


def _row(row: dict[str, Any], content: dict[str, Any]) -> list[str]:
    settings, curve, reached = row["settings"], row["curve"], row["reached"]
    ours = next((r["reached"] for r in content["rows"] if r["key"] == "ours"), None)
    spent = curve[-1]["seconds"]
    best = max(curve, key=lambda point: point["ndcg_at_10"])
    ratio = f"{(reached['seconds'] if reached else spent) / ours['seconds']:.2f}" if ours else "-"
    return [
        f"**{row['name']}**" if row["key"].startswith("ours") else row["name"],
        _loss(settings),
        str(settings["batch_size"]),
        str(settings["max_length"]),
        f"{spent / len(curve):.1f} s",
        f"{reached['seconds'] / 60:.1f}" if reached else f"not reached in {spent / 60:.1f}",
        ratio if reached or not ours else f"> {ratio}",
        str(len(curve)),
        f"{best['ndcg_at_10']:.4f} (epoch {best['epoch']})",
    ]


def _loss(settings: dict[str, Any]) -> str:
    if settings["loss"] == "full":
        return "softmax over all items"
    count = f"{settings['num_negatives']:,}"
    if settings.get("sampler"):  # ours, shared by the batch
        return f"sampled softmax, {count} {settings['sampler']} negatives a batch"
    kind = {"sampled": "sampled softmax", "bce": "binary cross-entropy"}[settings["loss"]]
    return f"{kind}, {count} uniform negative{'s' * (count != '1')} a position"
