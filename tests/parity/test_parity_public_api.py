"""Upstream's public names: all are here, or say what to use instead, and take what they took."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest

import transformers4rec_ext as tr

#: Names that are here to say what to use instead.
REFUSED = {"TransfoXLConfig"}

#: Methods of the recorded commit that the release, and what is written for it, calls otherwise.
OTHERWISE = {"load_model_trainer_states_from_checkpoint"}

#: Hugging Face's classes with their constructors; users call ``build``, or give arguments by name.
HUGGING_FACES = {
    *("GPT2Config", "XLNetConfig", "LongformerConfig", "AlbertConfig", "ReformerConfig"),
    *("ElectraConfig", "T4RecTrainingArguments"),
}

#: Arguments of T4RecTrainingArguments that are not Hugging Face's.
OF_TRAINING = {
    *("max_sequence_length", "shuffle_buffer_size", "data_loader_engine", "eval_on_test_set"),
    *("eval_steps_on_train_set", "predict_top_k", "learning_rate_num_cosine_cycles_by_epoch"),
    *("log_predictions", "compute_metrics_each_n_steps", "experiments_group"),
}

#: Arguments that are not taken, and why.
NOT_TAKEN = {
    # Fields of the message that nothing reads; Schema.from_proto passes over them.
    "Schema": {
        "sparse_feature",
        "weighted_feature",
        "string_domain",
        "float_domain",
        "int_domain",
        "default_environment",
        "annotation",
        "dataset_constraints",
        "tensor_representation_group",
    },
}


class Parameter(NamedTuple):
    """What a caller may know of a parameter."""

    name: str
    positional: bool
    required: bool


def parameters_of_text(signature: str) -> list[Parameter]:
    """Return the parameters of the text of a signature, without ``self``, stars and annotations."""
    inner = signature[1 : closing(signature)]
    found, positional = [], True
    for part in split(inner):
        name = part.split("=")[0].split(":")[0].strip()
        if name == "*" or (name.startswith("*") and not name.startswith("**")):
            positional = False
        elif name not in ("self", "cls", "/") and not name.startswith("**"):
            found.append(Parameter(name, positional, "=" not in without_brackets(part)))
    return found


def closing(text: str) -> int:
    """Return where the bracket that opens ``text`` closes."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0:
            return index
    raise AssertionError(f"no closing bracket in {text!r}")


def split(text: str) -> list[str]:
    """Return the parts between the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def without_brackets(text: str) -> str:
    kept, depth = "", 0
    for letter in text:
        depth += letter in "([{"
        kept += letter if depth == 0 else ""
        depth -= letter in ")]}"
    return kept


def what_upstreams_callers_miss(ours: Any, signature: str, not_taken: set[str]) -> list[str]:
    """Return in words what a call written for ``signature`` would find wrong with ``ours``."""
    theirs = parameters_of_text(signature)
    parameters = inspect.signature(ours).parameters.values()
    mine = [p for p in parameters if p.name not in ("self", "cls")]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in mine)
    named = {p.name: p for p in mine if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    ordered = [p.name for p in mine if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    wrong = (
        [f"{p.name} is not taken" for p in theirs if p.name not in named.keys() | not_taken]
        if not takes_any
        else []
    )
    expected = [p.name for p in theirs if p.positional and p.name not in not_taken]
    if ordered[: len(expected)] != expected:
        wrong.append(f"positions are {ordered}, not {expected}")
    required = {name for name, p in named.items() if p.default is p.empty}
    wrong += [f"{name} must be given" for name in required - {p.name for p in theirs if p.required}]
    return wrong


@pytest.fixture
def public_api(parity_json) -> dict[str, Any]:
    return parity_json("public_api")


def test_every_name_is_here_or_says_what_to_use(public_api) -> None:
    names = public_api["transformers4rec.torch.__all__"]
    assert len(names) == 54
    assert {name for name in names if not hasattr(tr, name)} == set()
    assert set(names) <= set(tr.__all__)
    for name in REFUSED:
        for use in (getattr(tr, name), getattr(tr, name).build):
            with pytest.raises(ImportError, match=rf"{name}: .* Use \w+"):
                use(d_model=8, n_head=2, n_layer=1, total_seq_length=5)


def test_signatures_take_what_upstreams_took(public_api) -> None:
    wrong = {}
    for name, recorded in public_api["public"].items():
        if name not in REFUSED and "signature" in recorded:
            wrong[name] = [
                f"{name}.{member}: {missed}"
                for member, signature in signatures(name, recorded).items()
                for missed in what_upstreams_callers_miss(
                    getattr(getattr(tr, name), member) if member else getattr(tr, name),
                    signature,
                    set() if member else NOT_TAKEN.get(name, set()),
                )
            ]
    assert {name: missed for name, missed in wrong.items() if missed} == {}


def test_training_arguments_are_upstreams_and_hugging_faces(public_api) -> None:
    recorded = public_api["public"]["T4RecTrainingArguments"]["signature"]
    theirs = {parameter.name for parameter in parameters_of_text(recorded)}
    assert theirs >= OF_TRAINING
    assert set(inspect.signature(tr.T4RecTrainingArguments).parameters) >= OF_TRAINING


def test_classes_have_the_members_that_upstreams_had(public_api) -> None:
    missing = {
        f"{name}.{member}"
        for name, recorded in public_api["public"].items()
        for member in recorded.get("members", {})
        if not hasattr(getattr(tr, name), member)
    }
    assert missing == set()


def signatures(name: str, recorded: dict[str, Any]) -> dict[str, str]:
    """Return the signatures of a class and of its public methods that are here, by their names."""
    found = {} if name in HUGGING_FACES else {"": recorded["signature"]}
    for member, text in recorded.get("members", {}).items():
        text = text.removeprefix("classmethod ").removeprefix("staticmethod ")
        if member in OTHERWISE:
            continue
        if text.startswith("(") and callable(getattr(getattr(tr, name), member, None)):
            found[member] = text
    return found


def test_what_is_told_of_a_signature() -> None:
    text = "(self, a: Dict[str, int], b=(1, 2), *, c: Optional[int] = None, **kwargs) -> int"
    assert parameters_of_text(text) == [
        Parameter("a", True, True),
        Parameter("b", True, False),
        Parameter("c", False, False),
    ]

    def same(a, b=1, extra=2, *, c=3): ...
    def other_order(b, a=1, *, c=3): ...
    def too_few(a, b=1): ...
    def wants_more(a, b, c=3): ...
    def anything(a, b=1, **kwargs): ...

    assert what_upstreams_callers_miss(same, text, set()) == []
    assert what_upstreams_callers_miss(anything, text, set()) == []
    assert "positions are ['b', 'a'], not ['a', 'b']" in what_upstreams_callers_miss(
        other_order, text, set()
    )
    assert what_upstreams_callers_miss(too_few, text, set()) == ["c is not taken"]
    assert what_upstreams_callers_miss(too_few, text, {"c"}) == []
    assert what_upstreams_callers_miss(wants_more, text, set()) == ["b must be given"]
