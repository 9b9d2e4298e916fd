"""Training arguments: upstream's names, what they mean, and what is refused."""

from __future__ import annotations

import abc
import ast
import dataclasses
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

import transformers4rec_ext as tr
from transformers4rec_ext.config.trainer import _GONE, T4RecTrainingArguments
from transformers4rec_ext.trainer.callbacks import name_group

KNOWN = {field.name for field in dataclasses.fields(TrainingArguments)}  # a few went after 5.0


def _arguments(**options: Any) -> T4RecTrainingArguments:
    return T4RecTrainingArguments(**{"output_dir": "out", "use_cpu": True, **options})


def test_upstreams_own_arguments_have_upstreams_defaults() -> None:
    args = _arguments()
    assert args.max_sequence_length is None
    assert (args.shuffle_buffer_size, args.data_loader_engine) == (0, "merlin")
    assert (args.eval_on_test_set, args.eval_steps_on_train_set) == (False, 20)
    assert (args.predict_top_k, args.log_predictions) == (100, False)
    assert args.learning_rate_num_cosine_cycles_by_epoch == 1.25
    assert (args.compute_metrics_each_n_steps, args.experiments_group) == (1, "default")


def test_former_names_are_taken() -> None:
    args = T4RecTrainingArguments(
        output_dir="out",
        overwrite_output_dir=True,
        evaluation_strategy="steps",
        eval_steps=7,
        no_cuda=True,
        per_gpu_train_batch_size=4,
        per_gpu_eval_batch_size=None,
        warmup_ratio=0.25,
        save_safetensors=False,
        logging_dir=None,
        debug=["r"],
        report_to=[],
        fp16=False,
    )
    assert args.eval_strategy.value == "steps"
    assert args.use_cpu
    assert args.device.type == "cpu"
    assert args.per_device_train_batch_size == 4
    assert args.per_device_eval_batch_size == 8
    assert args.get_warmup_steps(100) == 25


@dataclasses.dataclass
class _Inherited(T4RecTrainingArguments):
    """As the scripts of upstream's paper have it, with a former name as a field of its own."""

    session_seq_length_max: int = 20
    past_index: int = 3


def test_former_names_are_taken_by_what_inherits() -> None:
    args = _Inherited("out", evaluation_strategy="steps", no_cuda=True, sharded_ddp="")
    assert (args.eval_strategy.value, args.use_cpu) == ("steps", True)
    assert (args.session_seq_length_max, args.past_index) == (20, 3)
    assert dataclasses.replace(args, past_index=4).past_index == 4
    with pytest.raises(TypeError, match="sharded_ddp must be left out"):
        _Inherited("out", sharded_ddp="simple")


class _Made(T4RecTrainingArguments):
    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(folder, evaluation_strategy="steps", **options)


class _Named(T4RecTrainingArguments):
    def __init__(self, folder: str, no_cuda: bool = True) -> None:
        super().__init__(folder, use_cpu=no_cuda)


class _Abstract(T4RecTrainingArguments, abc.ABC):
    pass


def test_a_constructor_of_ones_own_takes_what_it_says() -> None:
    made = _Made("out", no_cuda=True)
    assert (made.eval_strategy.value, made.use_cpu) == ("steps", True)
    assert not _Named("out", no_cuda=False).use_cpu
    assert _Abstract("out", no_cuda=True).use_cpu


@pytest.mark.parametrize("name", sorted(set(_GONE) - KNOWN))
def test_values_of_transformers_4_that_ask_for_nothing_are_taken(name: str) -> None:
    for value in _GONE[name][0]:
        assert not hasattr(_arguments(**{name: value}), name)


def test_the_former_default_optimizer_is_taken() -> None:
    assert _arguments(optim="adamw_hf").optim.value == "adamw_torch"


@pytest.mark.parametrize("name", [n for n in _GONE if "x" not in _GONE[n][0] and n not in KNOWN])
def test_names_that_are_gone_say_what_to_do(name: str) -> None:
    hint = re.escape(f"got 'x'. {_GONE[name][1]}".strip())
    with pytest.raises(TypeError, match=f"{name} must be left out: .* {hint}"):
        _arguments(**{name: "x"})


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="no_cuda must be left out beside use_cpu; got True"):
        _arguments(no_cuda=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        _arguments(nonsense=1)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (None, "/loss"),
        ("loss", "/loss"),
        ("eval_loss", "/loss"),
        ("eval_/loss", "/loss"),
        ("/next-item/recall_at_10", "/next-item/recall_at_10"),
        ("next-item/recall_at_10", "/next-item/recall_at_10"),
        ("other_/next-item/recall_at_10", "other_/next-item/recall_at_10"),
    ],
)
def test_the_metric_of_the_best_model(given: str | None, key: str) -> None:
    args = _arguments(
        load_best_model_at_end=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=given,
    )
    assert args.metric_for_best_model == key
    assert args.greater_is_better is not key.endswith("loss")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"predict_top_k": -1}, "predict_top_k must be an int >= 0; got -1"),
        ({"predict_top_k": 1.5}, "predict_top_k must be an int >= 0; got 1.5"),
        ({"max_sequence_length": 0}, "max_sequence_length must be an int >= 1; got 0"),
        ({"shuffle_buffer_size": -1}, "shuffle_buffer_size must be an int >= 0; got -1"),
        ({"compute_metrics_each_n_steps": 0}, "compute_metrics_each_n_steps must be an int >= 1"),
        ({"eval_steps_on_train_set": -1}, "eval_steps_on_train_set must be an int >= 0"),
        (
            {"eval_steps_on_train_set": None},
            "eval_steps_on_train_set must be an int >= 0; got None",
        ),
        ({"shuffle_buffer_size": None}, "shuffle_buffer_size must be an int >= 0; got None"),
        ({"compute_metrics_each_n_steps": None}, "each_n_steps must be an int >= 1; got None"),
        ({"learning_rate_num_cosine_cycles_by_epoch": 0}, "cycles_by_epoch must be > 0; got 0"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor must be 0; got 0.1. Use a task"),
        ({"bf16_full_eval": True}, "bf16_full_eval must be False; got True. Use bf16=True"),
        ({"fp16_full_eval": True}, "fp16_full_eval must be False; got True. Use fp16=True"),
    ],
)
def test_bad_values(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"T4RecTrainingArguments: .*{text}"):
        _arguments(**options)


def test_the_command_line_of_transformers_reads_them(tmp_path: Path) -> None:
    parser = HfArgumentParser(tr.T4RecTrainingArguments)
    command = ["--output_dir", str(tmp_path), "--predict_top_k", "7", "--log_predictions", "True"]
    (args,) = parser.parse_args_into_dataclasses([*command, "--use_cpu", "True"])
    assert (args.predict_top_k, args.log_predictions) == (7, True)


def test_the_experiments_group_is_that_of_weights_and_biases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    name_group(["tensorboard"], "mine")
    name_group(["wandb"], "default")
    assert "WANDB_RUN_GROUP" not in os.environ
    name_group(["wandb"], "mine")
    assert os.environ["WANDB_RUN_GROUP"] == "mine"


def test_signatures_are_upstreams_with_what_transformers_5_adds(
    parity_json: Callable[[str], dict[str, Any]],
) -> None:
    recorded = parity_json("public_api")["public"]["Trainer"]
    for name, text in {"__init__": recorded["signature"], **recorded["members"]}.items():
        member = inspect.getattr_static(tr.Trainer, name)
        if name == "load_model_trainer_states_from_checkpoint":
            continue  # keeps the signature of the last release, (checkpoint_path, model=None)
        if text == "property":
            assert isinstance(member, property)
            continue
        function = ast.parse(f"def f{text.removeprefix('staticmethod ')}: ...").body[0]
        wanted = [argument.arg for argument in function.args.args]
        known = list(inspect.signature(getattr(tr.Trainer, name)).parameters)
        known = known[1:] if name == "__init__" else known
        assert known[: len(wanted)] == wanted, name


def test_an_old_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # the module replaces itself by a lazy one while it is imported
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.30.2")
    monkeypatch.delitem(sys.modules, "transformers4rec_ext.config.trainer")
    with pytest.raises(ImportError, match=r"needs transformers >= 5; got 4\.30\.2\. Install"):
        importlib.import_module("transformers4rec_ext.config.trainer")
