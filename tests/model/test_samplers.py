"""LogUniformSampler: what it draws, what it reports, what it refuses."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from transformers4rec_ext.samplers import LogUniformSampler


def probability(ids: torch.Tensor, max_id: int, min_id: int) -> torch.Tensor:
    classes = (ids - min_id).double()
    return torch.log1p(1 / (classes + 1)) / math.log1p(max_id - min_id)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 7)])
def test_sample_shapes_and_probabilities(shape: tuple[int, ...]) -> None:
    sampler = LogUniformSampler(20, max_id=1000, min_id=1)
    labels = torch.tensor([1, 2, 3, 500, 997, 998, 999]).reshape(shape)
    torch.manual_seed(3)
    ids, target_q, candidate_q = sampler.sample(labels)
    torch.manual_seed(3)
    candidates, target_log_q = sampler.draw(labels)
    assert torch.equal(ids, candidates.ids)
    assert ids.shape == (20,)
    assert ids.dtype == torch.int64
    assert ids.unique().numel() == 20
    assert int(ids.min()) >= 1
    assert int(ids.max()) < 1000
    assert target_q.shape == shape
    tries = int(candidates.num_tries)
    assert tries >= 20
    for some_ids, q in ((labels, target_q), (ids, candidate_q)):
        expected = -torch.expm1(tries * torch.log1p(-probability(some_ids, 1000, 1)))
        torch.testing.assert_close(q.double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(target_log_q.exp(), target_q)


def test_forward_is_sample() -> None:
    sampler = LogUniformSampler(5, max_id=100, seed=1)
    other = LogUniformSampler(5, max_id=100, seed=1)
    labels = torch.tensor([4, 99])
    for a, b in zip(sampler(labels), other.sample(labels), strict=True):
        assert torch.equal(a, b)


def test_the_tail_is_drawn() -> None:
    # Upstream keeps the smallest ids of a draw: at V = 10,000 and S = 100 none of the upper half.
    sampler = LogUniformSampler(100, max_id=10_000, seed=0)
    labels = torch.tensor([0])
    drawn = torch.cat([sampler.draw(labels)[0].ids for _ in range(20)])
    share = (drawn >= 5_000).double().mean()
    assert 0.05 < share < 0.2  # the law says 0.075 per try, more among distinct ids


def test_without_uniqueness_duplicates_stay() -> None:
    sampler = LogUniformSampler(64, max_id=10, unique_sampling=False, seed=0)
    ids, _, q = sampler.sample(torch.tensor([3]))
    assert ids.shape == (64,)
    assert ids.unique().numel() <= 10
    assert sampler.n_sample == 64
    torch.testing.assert_close(q.double(), 64 * probability(ids, 10, 0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("samples", [9, 10, 500])
def test_whole_range_when_it_is_not_larger(samples: int) -> None:
    sampler = LogUniformSampler(samples, max_id=10, min_id=1)
    ids, target_q, q = sampler.sample(torch.tensor([3, 9]))
    assert sorted(ids.tolist()) == list(range(1, 10))
    assert torch.equal(q, torch.ones(9))
    assert torch.equal(target_q, torch.ones(2))


def test_no_table_is_kept_and_large_catalogues_work() -> None:
    sampler = LogUniformSampler(10, max_id=10**9, min_id=1)
    assert list(sampler.buffers()) == []
    assert list(sampler.parameters()) == []
    assert sampler.state_dict() == {}
    ids, target_q, _ = sampler.sample(torch.tensor([10**9 - 1]))
    assert ids.numel() == 10
    assert 0 < float(target_q) < 1e-7


def test_tables_on_request() -> None:
    sampler = LogUniformSampler(10, max_id=30, min_id=3)
    dist = sampler.get_log_uniform_distr(30, 3)
    assert dist.shape == (30,)
    assert torch.equal(dist[:3], torch.zeros(3))
    assert dist.sum().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(
        dist[3:].double(), probability(torch.arange(3, 30), 30, 3), rtol=1e-6, atol=0
    )
    assert torch.equal(sampler.dist, dist)
    unique = sampler.get_unique_sampling_distr(dist, 20)
    torch.testing.assert_close(unique.double(), 1 - (1 - dist.double()) ** 20, rtol=1e-6, atol=0)
    assert torch.equal(sampler.unique_sampling_dist, unique)
    assert sampler.n_sample == 20
    # One class has probability one, however often it is tried.
    assert LogUniformSampler(1, max_id=2, min_id=1).unique_sampling_dist.tolist() == [0.0, 1.0]


def test_randomness() -> None:
    labels = torch.tensor([5])

    def ids(sampler: LogUniformSampler) -> list[int]:
        return sampler.draw(labels)[0].ids.tolist()

    seeded = LogUniformSampler(8, max_id=5000, seed=7)
    first, second = ids(seeded), ids(seeded)
    assert first != second
    state = torch.random.get_rng_state()
    assert ids(LogUniformSampler(8, max_id=5000, seed=7)) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ids(LogUniformSampler(8, max_id=5000, seed=8)) != first

    unseeded = LogUniformSampler(8, max_id=5000)
    torch.manual_seed(1)
    drawn = ids(unseeded)
    torch.manual_seed(1)
    assert ids(unseeded) == drawn
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    a, b = (seeded.draw(labels, generator=g)[0].ids for g in generators)
    assert torch.equal(a, b)
    # A copy goes on where the original stood.
    clone = copy.deepcopy(seeded)
    pickled = pickle.loads(pickle.dumps(seeded))
    following = ids(seeded)
    assert ids(clone) == following
    assert ids(pickled) == following


class Draws(Dataset):
    """Holds a sampler, as a data set of candidates would."""

    def __init__(self) -> None:
        self.sampler = LogUniformSampler(20, max_id=1000, seed=5)
        self.sampler.draw(torch.tensor([3]))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.sampler.draw(torch.tensor([3]))[0].ids


def test_a_sampler_that_has_drawn_goes_to_a_spawned_worker() -> None:
    """Torch's generators cannot: what the worker is to open is gone by then."""
    draws = Draws()
    loader = DataLoader(draws, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    (drawn,) = loader
    assert torch.equal(drawn, draws[0])


def test_a_compiled_sampler_is_pickled_as_any_module() -> None:
    sampler = LogUniformSampler(4, max_id=10)
    sampler.compile(backend="eager")
    assert pickle.loads(pickle.dumps(sampler)).max_id == 10


def test_draw_takes_no_target() -> None:
    candidates, target_log_q = LogUniformSampler(4, 100).draw(torch.empty(0, dtype=torch.int64))
    assert candidates.ids.shape == (4,)
    assert target_log_q.shape == (0,)


def test_old_checkpoints_load_strictly() -> None:
    module = torch.nn.ModuleDict({"sampler": LogUniformSampler(4, max_id=10)})
    old = {"sampler.dist": torch.zeros(10), "sampler.unique_sampling_dist": torch.zeros(10)}
    result = module.load_state_dict(old, strict=True)
    assert result.unexpected_keys == []
    assert set(old) == {"sampler.dist", "sampler.unique_sampling_dist"}
    with pytest.raises(RuntimeError, match=r"sampler\.other"):
        module.load_state_dict({"sampler.other": torch.zeros(1)}, strict=True)


def test_repr() -> None:
    assert "max_id=10" in repr(LogUniformSampler(4, max_id=10))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_n_samples": 10, "max_id": 0}, ValueError, r"max_id must be a positive integer\."),
        ({"max_n_samples": 0, "max_id": 10}, ValueError, r"n_sample must be a positive integer\."),
        ({"max_n_samples": 1.5, "max_id": 10}, TypeError, "max_n_samples must be an int"),
        ({"max_n_samples": True, "max_id": 10}, TypeError, "max_n_samples must be an int"),
        ({"max_n_samples": 1, "max_id": "9"}, TypeError, "max_id must be an int; got str"),
        ({"max_n_samples": 1, "max_id": 9, "min_id": 9}, ValueError, r"min_id must lie in \[0"),
        ({"max_n_samples": 1, "max_id": 9, "min_id": -1}, ValueError, r"min_id must lie in \[0"),
        ({"max_n_samples": 1, "max_id": 9, "min_id": None}, TypeError, "min_id must be an int"),
        ({"max_n_samples": 1, "max_id": 9, "unique_sampling": 1}, TypeError, "must be a bool"),
        (
            {"max_n_samples": 1, "max_id": 9, "n_samples_multiplier_before_unique": 0},
            ValueError,
            "n_samples_multiplier_before_unique must be at least 1; got 0",
        ),
        (
            {"max_n_samples": 1, "max_id": 9, "n_samples_multiplier_before_unique": "2"},
            TypeError,
            "n_samples_multiplier_before_unique must be a number",
        ),
        ({"max_n_samples": 1, "max_id": 9, "seed": 1.0}, TypeError, "seed must be an int or None"),
    ],
)
def test_constructor_refuses(arguments: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        LogUniformSampler(**arguments)


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        ([1], TypeError, r"^Labels must be a torch\.Tensor\."),
        (torch.tensor([1], dtype=torch.int32), ValueError, "^Labels must be a tensor of dtype"),
        (torch.tensor([1.0]), ValueError, r"^Labels must be a tensor of dtype long\."),
        (
            torch.ones(2, 2, dtype=torch.int64),
            ValueError,
            "^Labels must be a 1-dimensional tensor or a 2-dimensional tensorwith one of the "
            "dimensions equal to 1",
        ),
        (torch.tensor(3), ValueError, "^Labels must be a 1-dimensional tensor"),
        (
            torch.empty(0, dtype=torch.int64),
            ValueError,
            r"^Labels must not be an empty tensor\.",
        ),
        (
            torch.tensor([0, 5]),
            ValueError,
            r"^All label values must be within the range \[0, max_id\]\. .*\[1, 99\]; .* 0 to 5",
        ),
        (torch.tensor([100]), ValueError, r"^All label values must be within the range"),
        (torch.tensor([-1]), ValueError, r"^All label values must be within the range"),
    ],
)
def test_sample_refuses(labels: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        LogUniformSampler(10, max_id=100, min_id=1).sample(labels)


def test_tables_refuse() -> None:
    sampler = LogUniformSampler(10, max_id=100)
    with pytest.raises(ValueError, match=r"max_id must be a positive integer\."):
        sampler.get_log_uniform_distr(0)
    with pytest.raises(ValueError, match="min_id must lie in"):
        sampler.get_log_uniform_distr(5, 5)
    with pytest.raises(TypeError, match="dist must be floating"):
        sampler.get_unique_sampling_distr(torch.ones(3, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match=r"dist must be a torch\.Tensor"):
        sampler.get_unique_sampling_distr([0.5], 2)
    with pytest.raises(ValueError, match="n_sample must be a positive integer"):
        sampler.get_unique_sampling_distr(torch.ones(3), 0)
