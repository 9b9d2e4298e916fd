"""Log-uniform candidates with the log q of the samples and of 2,048 targets, one thread."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import cases, harness, inputs
from benchmarks.harness import Provider, Session
from benchmarks.peers import tensorflow_peer
from transformers4rec_ext import functional
from transformers4rec_ext.samplers import LogUniformSampler

THREADS = 1


def providers(case: cases.SamplerCase, session: Session) -> dict[str, Provider]:
    """Return what is timed: each draws candidates and finds the log q of the targets."""
    targets = inputs.labels(case, session.device)

    def ours(backend: str) -> Provider:
        def run() -> Any:
            drawn = functional.log_uniform_sample(
                case.samples, case.items, backend=backend, device=session.device
            )
            return functional.log_uniform_log_q(
                targets, case.items, num_tries=drawn.num_tries, backend=backend
            )

        return run

    # the least that can be done: so many numbers at random, and as many stored
    size = case.samples + case.targets
    buffer = torch.empty(size, dtype=torch.float64, device=session.device)
    sampler = LogUniformSampler(case.samples, case.items)
    found: dict[str, Provider] = {
        "uniform numbers": lambda: buffer.uniform_(),
        "fused": ours("fused"),
        "one call": lambda: sampler.draw(targets),
        "reference": ours("reference"),
    }
    tf = session.peer("tensorflow", lambda: tensorflow_peer.load(session.threads))
    if tf is not None:
        labels = tf.constant(targets.numpy()[:, None])
        found["tensorflow"] = lambda: tf.random.log_uniform_candidate_sampler(
            labels, 1, case.samples, True, case.items
        )[2].numpy()
    return found | session.upstream("sampler", case, needed=40 * case.items)


BENCHMARK = harness.Benchmark(
    name="sampler",
    groups=cases.SAMPLER,
    providers=providers,
    rounds={"tiny": 1, "quick": 15, "full": 25},
    floor="uniform numbers",
    threads=THREADS,
    memory=False,
)

if __name__ == "__main__":
    harness.main(BENCHMARK, __doc__)
