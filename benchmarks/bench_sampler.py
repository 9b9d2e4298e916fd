"""Log-uniform candidates with the log q of the samples and of 2,048 targets, one thread."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import cases, timing
from benchmarks.peers import tensorflow_peer
from benchmarks.peers.upstream import UpstreamSampler
from transformers4rec_ext import functional
from transformers4rec_ext.samplers import LogUniformSampler

THREADS = 1
LARGEST_UPSTREAM = 10_000_000  # its torch.multinomial refuses more than 2^24 items


def providers(case: cases.SamplerCase, tf: Any) -> dict[str, Callable[[], Any]]:
    """Return what is timed: each draws candidates and finds the log q of the targets."""
    values = np.random.default_rng(0).integers(0, case.items, case.targets)
    targets = torch.from_numpy(values)

    def ours(backend: str) -> Callable[[], Any]:
        def run() -> Any:
            drawn = functional.log_uniform_sample(case.samples, case.items, backend=backend)
            return functional.log_uniform_log_q(
                targets, case.items, num_tries=drawn.num_tries, backend=backend
            )

        return run

    sampler = LogUniformSampler(case.samples, case.items)
    found: dict[str, Callable[[], Any]] = {
        "fused": ours("fused"),
        "one call": lambda: sampler.draw(targets),
        "reference": ours("reference"),
    }
    if tf is not None:
        labels = tf.constant(values[:, None])
        found["tensorflow"] = lambda: tf.random.log_uniform_candidate_sampler(
            labels, 1, case.samples, True, case.items
        )[2].numpy()
    if case.items <= LARGEST_UPSTREAM:
        upstream = UpstreamSampler(case.items, case.samples)
        found["upstream"] = lambda: upstream(targets)
    return found


def main() -> None:
    """Measure every case and write ``results/sampler.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each case (default: 25)")
    parser.add_argument("--no-tensorflow", action="store_true", help="leave TensorFlow out")
    options = parser.parse_args()
    timing.keep_memory()
    torch.set_num_threads(THREADS)
    tf = None if options.no_tensorflow else tensorflow_peer.load(THREADS)
    rows = []
    for case in cases.SAMPLER:
        times = timing.interleaved(providers(case, tf), rounds=options.rounds)
        rows.append({**case._asdict(), "seconds": times})
        print(case, {name: f"{t['median'] * 1e6:.0f} us" for name, t in times.items()}, flush=True)
    timing.save("sampler", THREADS, rows, tensorflow=getattr(tf, "__version__", None))


if __name__ == "__main__":
    main()
