"""Upstream's recorded tables and the exact law, against LogUniformSampler."""

from __future__ import annotations

import pytest
import torch

from transformers4rec_ext import functional
from transformers4rec_ext.samplers import LogUniformSampler


def recorded_cases(meta: dict) -> list[str]:
    return [name for name in meta["cases"] if not name.startswith("exact/")]


def exact_cases(meta: dict) -> list[str]:
    return [name for name in meta["cases"] if name.startswith("exact/")]


def test_tables_within_the_tolerance_of_a_correct_sampler(parity) -> None:
    meta, tensors = parity("sampler")
    names = recorded_cases(meta)
    assert len(names) == 17
    for name in names:
        case = meta["cases"][name]
        sampler = LogUniformSampler(**case["ctor"])
        assert sampler.n_sample == case["n_sample_attr"]
        tolerance = case["tolerance"]["correct_sampler"]
        # The tolerances are upstream's errors relative to the truth, so ours is the reference.
        torch.testing.assert_close(
            tensors[f"{name}/dist"], sampler.dist, rtol=tolerance["dist_rtol"], atol=0
        )
        torch.testing.assert_close(
            tensors[f"{name}/unique_sampling_dist"],
            sampler.unique_sampling_dist,
            rtol=tolerance["unique_rtol"],
            atol=0,
        )


def test_sample_has_the_shapes_of_upstream_and_draws_more(parity) -> None:
    meta, tensors = parity("sampler")
    for name in recorded_cases(meta):
        ctor = meta["cases"][name]["ctor"]
        labels = tensors[f"{name}/labels"]
        if not bool(((labels >= ctor["min_id"]) & (labels < ctor["max_id"])).all()):
            # D7: upstream takes labels that cannot be drawn, and gives them probability zero.
            with pytest.raises(ValueError, match="All label values must be within the range"):
                LogUniformSampler(**ctor).sample(labels)
            labels = labels.clamp(ctor["min_id"], ctor["max_id"] - 1)
        ids, target_q, q = LogUniformSampler(**ctor).sample(labels)
        assert ids.dtype == tensors[f"{name}/upstream_draw_neg"].dtype
        assert target_q.shape == tensors[f"{name}/upstream_draw_q_labels"].shape
        assert target_q.dtype == tensors[f"{name}/upstream_draw_q_labels"].dtype
        assert q.dtype == tensors[f"{name}/upstream_draw_q_neg"].dtype
        # D8: the number of candidates does not vary.
        span = ctor["max_id"] - ctor["min_id"]
        full = min(span, ctor["max_n_samples"]) if ctor["unique_sampling"] else None
        assert ids.numel() == (full or ctor["max_n_samples"])
        assert ids.numel() >= tensors[f"{name}/upstream_draw_neg"].numel()


def test_probabilities_are_exact(parity) -> None:
    meta, tensors = parity("sampler")
    names = exact_cases(meta)
    assert len(names) == 30
    for name in names:
        case = meta["cases"][name]
        ids = tensors[f"{name}/ids"]
        rtol = case["tolerance"]["float32_rtol"]
        log_q = functional.log_uniform_log_q(
            ids, case["max_id"], min_id=case["min_id"], num_tries=case["n_tries"]
        )
        torch.testing.assert_close(
            log_q.double(), tensors[f"{name}/log_q_unique"], rtol=rtol, atol=1e-7
        )
        if case["max_id"] > 10_000:
            continue
        sampler = LogUniformSampler(10, case["max_id"], case["min_id"])
        dist = sampler.get_log_uniform_distr(case["max_id"], case["min_id"])
        torch.testing.assert_close(dist[ids].double(), tensors[f"{name}/p"], rtol=rtol, atol=0)
        unique = sampler.get_unique_sampling_distr(dist, case["n_tries"])
        torch.testing.assert_close(
            unique[ids].double(), tensors[f"{name}/q_unique"], rtol=rtol, atol=0
        )


def test_sign_slip_of_upstream_is_fixed(parity) -> None:
    # D37: upstream computes 1 - (1 + p)^-n where it documents 1 - (1 - p)^n.
    meta, tensors = parity("sampler")
    name = "V7_min3_n2_u1_x2"
    case = meta["cases"][name]
    sampler = LogUniformSampler(**case["ctor"])
    table = tensors[f"{name}/unique_sampling_dist"].double()
    p, n = sampler.dist.double(), sampler.n_sample
    torch.testing.assert_close(table, 1 - (1 + p) ** -n, rtol=1e-4, atol=1e-6)
    ours = sampler.unique_sampling_dist.double()
    torch.testing.assert_close(ours, 1 - (1 - p) ** n, rtol=1e-5, atol=0)
    assert float(((ours - table)[3:] / ours[3:]).min()) > 0.09


def test_the_smallest_ids_are_not_preferred(parity) -> None:
    # D1: what upstream drew is the sorted head of its own draw.
    meta, tensors = parity("sampler")
    name = "V1000_min1_n100_u1_x2"
    upstream = tensors[f"{name}/upstream_draw_neg"]
    raw = tensors[f"{name}/upstream_raw_multinomial"].unique()
    assert torch.equal(upstream, raw[: upstream.numel()])
    sampler = LogUniformSampler(**meta["cases"][name]["ctor"], seed=0)
    largest = max(int(sampler.draw(torch.tensor([1]))[0].ids.max()) for _ in range(10))
    assert largest > 900
    assert int(upstream.max()) < 900
