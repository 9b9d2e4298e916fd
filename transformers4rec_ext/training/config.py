"""What a training run is made of: one frozen record, saved as JSON beside the model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from transformers4rec_ext import _checks
from transformers4rec_ext._errors import type_error, value_error
from transformers4rec_ext.data.split import Part

BINARY_LOSSES = ("bce", "gbce")
LOSSES = ("full", "sampled", "corrected", *BINARY_LOSSES)
SAMPLERS = ("log-uniform", "uniform", "popularity", "in-batch", "mixed")
BODIES = ("gpt2", "xlnet")
SCHEDULES = ("constant", "cosine")


class Parts(NamedTuple):
    """What of the sessions is trained on, and what judges the model."""

    trained: Part
    judged: tuple[Part, ...]


#: By what is held out.
HOLD_OUT = {
    "both": Parts("train", ("validation", "test")),
    "test": Parts("train+validation", ("test",)),
    "none": Parts("all", ()),
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides the numbers of a run, besides the files and the machine.

    Parameters
    ----------
    items_column : str
        The list column that holds each session's items.
    session_column : str, optional
        A column carried through to recommendations.
    split_column : str, optional
        The column that marks each session as "train", "validation" or "test". Without it the last
        two items of each session are held out.
    validation_fraction : float, optional
        Which part of the training sessions, the last ones, validate where none is marked for it;
        by default 0.1. Left out without ``split_column``.
    hold_out : str
        "both": validation chooses the epoch and the test judges it, neither is trained on; "test":
        validation is trained on too and the weights are those of the last epoch; "none": all is
        trained on and nothing judged. Without a validation ``epochs`` are how many there are, and
        a "cosine" falls to 0 over these.
    seed : int
        Of the initial weights, the shuffling, dropout and the negative samples.
    epochs, batch_size : int
        At most this many passes; windows in a batch, on average: a batch of short ones holds more,
        so that batches have about as many targets.
    max_length : int
        T, the number of items the model sees; longer sessions are trained on in windows.
    d_model, layers, heads, dropout
        The transformer's width (also of the item embeddings), depth, attention heads, dropout.
    inner : int
        Width of the feed-forward layers; 0 for ``4 * d_model``.
    lr : float
        Adam's learning rate at the start.
    schedule : str
        "constant", or "cosine" from ``lr`` to 0 over ``epochs``.
    clip : float
        Largest norm of the gradient; 0 for no clipping.
    average : float
        Weights that are validated, tested and kept are a mean over the steps so far, two thirds of
        it of the last part ``average`` of them (:class:`WeightAverage`); 0 for the weights as they
        are, 1 for the plain mean. It is one more copy of the weights.
    loss : str
        "full": softmax over all items; "sampled": over the target and negatives, less their log q;
        "corrected": the same by the correction of arXiv 2507.09331; "bce": binary cross-entropy
        of the target and the negatives; "gbce": that, calibrated by ``gbce_t``.
    sampler : str, optional
        Where negatives come from: "log-uniform" in the rank by popularity, "uniform",
        "popularity" by training counts, "in-batch" (the batch's other targets), or "mixed"
        ("in-batch" and "uniform"). By default "uniform" for "bce" and "gbce", else "log-uniform".
        "gbce" takes "uniform" only.
    num_negatives : int, optional
        S, distinct negatives drawn for each batch, by default 1000 (all items where there are not
        more); of "mixed" the uniform ones. Left out with "in-batch".
    temperature : float, optional
        Divides the scores in the loss, above 0; by default 0.25 for "bce" and "gbce", else 1. The
        model's ranking does not depend on it, what it learns does: the scores of a binary loss
        must become as large as log(V), those of a softmax need not.
    cosine_scale : float
        Above 0, scores are this times the cosine of hidden and item vector; 0 for their product.
        With a softmax only.
    gbce_t : float, optional
        Calibration of "gbce" in [0, 1], by default 0.75; 0 is "bce". Left out with other losses.
    sparse : bool, optional
        Whether the item table gets row gradients and a lazy optimizer, so that a step does not pay
        for items that it never touches; None: with more than 100,000 items and negatives.
    body : str
        "gpt2" or "xlnet".
    exclude_seen : bool
        Whether validation and test rank among the items that the session has not held yet.
    patience : int, optional
        Stop after this many epochs without a better validation NDCG@10, by default 5; 0 for never.
        Left out (or 0) without a validation.
    checkpoint_every : int
        Steps between checkpoints inside an epoch; 0 for only at its end. A checkpoint that takes
        seconds, as of a large table, waits until 20 times as long has been trained.
    validation_sessions : int, optional
        Validate on a sample of at most this many sessions, by default 20,000. Left out without a
        validation.
    test_sessions : int, optional
        Test on a sample of at most this many sessions; None for all. Left out without a test.
    eval_batch_size : int
        Sessions that the model sees at once, and items that are ranked at once.

    Raises
    ------
    TypeError, ValueError
        If a value has the wrong type or is out of its range, or would have no effect.

    Examples
    --------
    What is left out has its value afterwards, None where the loss has no use for it; a copy by
    ``dataclasses.replace`` with another loss or ``hold_out`` keeps it, unless it is given as None:

    >>> config = RunConfig("items", loss="gbce")
    >>> config.sampler, config.num_negatives, config.gbce_t
    ('uniform', 1000, 0.75)
    >>> left_out = {"patience": None, "validation_sessions": None}
    >>> dataclasses.replace(config, hold_out="test", epochs=7, **left_out).validates
    False
    """

    items_column: str
    session_column: str | None = None
    split_column: str | None = None
    validation_fraction: float | None = None
    hold_out: str = "both"
    seed: int = 0
    epochs: int = 40
    batch_size: int = 128
    max_length: int = 50
    d_model: int = 64
    layers: int = 2
    heads: int = 1
    inner: int = 0
    dropout: float = 0.2
    lr: float = 1e-3
    schedule: str = "constant"
    clip: float = 1.0
    average: float = 0.1
    loss: str = "sampled"
    sampler: str | None = None
    num_negatives: int | None = None
    temperature: float | None = None
    cosine_scale: float = 0.0
    gbce_t: float | None = None
    sparse: bool | None = None
    body: str = "gpt2"
    exclude_seen: bool = False
    patience: int | None = None
    checkpoint_every: int = 500
    validation_sessions: int | None = None
    test_sessions: int | None = None
    eval_batch_size: int = 256

    def __post_init__(self) -> None:
        if self.temperature is None:
            of_loss = 0.25 if self.loss in BINARY_LOSSES else 1.0
            object.__setattr__(self, "temperature", of_loss)
        self._settle_validation()
        for name, least in _INTEGERS.items():
            if self.validates or name not in ("patience", "validation_sessions"):
                _check_integer(name, getattr(self, name), least)
        if self.test_sessions is not None:
            if not self.tests:
                self._refuse("test_sessions", f"with hold_out={self.hold_out!r}", "Nothing tests.")
            _check_integer("test_sessions", self.test_sessions, 1)
        for name in ("dropout", "lr", "clip", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise type_error("RunConfig", name, "be a number", repr(value))
            zero = name in ("dropout", "clip")
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                expectation = f"be finite and {'>=' if zero else '>'} 0"
                raise value_error("RunConfig", name, expectation, value)
        average = _checks.fraction("RunConfig", "average", self.average)
        object.__setattr__(self, "average", average)
        scale = _checks.not_negative("RunConfig", "cosine_scale", self.cosine_scale)
        object.__setattr__(self, "cosine_scale", scale)
        if scale and self.loss in BINARY_LOSSES:
            where = f"be 0 with loss={self.loss!r}"
            hint = "It is for a softmax."
            raise value_error("RunConfig", "cosine_scale", where, scale, hint)
        if self.dropout >= 1:
            raise value_error("RunConfig", "dropout", "be < 1", self.dropout)
        choices = {"loss": LOSSES, "body": BODIES, "schedule": SCHEDULES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise value_error(
                    "RunConfig", name, f"be one of {allowed}", repr(getattr(self, name))
                )
        if self.validation_fraction is not None:
            if self.split_column is None:
                hint = "Two items of each session are held out."
                self._refuse("validation_fraction", "without split_column", hint)
            _checks.open_fraction("RunConfig", "validation_fraction", self.validation_fraction)
        if self.sparse not in (None, False, True):
            raise type_error("RunConfig", "sparse", "be a bool or None", repr(self.sparse))
        if self.sparse and self.loss == "full":
            hint = "A softmax over all items touches all rows."
            raise value_error("RunConfig", "sparse", "be left out with loss='full'", True, hint)
        for name, value in self._negatives().items():
            object.__setattr__(self, name, value)
        if self.d_model % self.heads:
            raise value_error(
                "RunConfig", "d_model", f"be a multiple of heads={self.heads}", self.d_model
            )

    def _settle_validation(self) -> None:
        """Fill in what was left out of how to validate; raise for what would have no effect."""
        if not isinstance(self.hold_out, str) or self.hold_out not in HOLD_OUT:
            expectation = f"be one of {tuple(HOLD_OUT)}"
            raise value_error("RunConfig", "hold_out", expectation, repr(self.hold_out))
        if self.validates:
            for name, value in (("patience", 5), ("validation_sessions", 20_000)):
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
            return
        for name in ("validation_fraction", "validation_sessions", "patience"):
            if name != "patience" or self.patience != 0:  # which says that nothing ends it early
                self._refuse(name, f"with hold_out={self.hold_out!r}", "Nothing validates.")

    def _negatives(self) -> dict[str, Any]:
        """Return what was left out about the negatives; raise for what would have no effect."""
        if self.loss == "full":
            for name in ("sampler", "num_negatives", "gbce_t"):
                self._refuse(name, "with loss='full'", "It draws no negatives.")
            return {}
        sampler = self.sampler or ("uniform" if self.loss in BINARY_LOSSES else "log-uniform")
        if sampler not in SAMPLERS:
            raise value_error("RunConfig", "sampler", f"be one of {SAMPLERS}", repr(sampler))
        num_negatives, t = self.num_negatives, self.gbce_t
        if sampler == "in-batch":
            hint = "The negatives are the other targets of the batch, as many as there are."
            self._refuse("num_negatives", "with sampler='in-batch'", hint)
        else:
            num_negatives = 1000 if num_negatives is None else num_negatives
            _check_integer("num_negatives", num_negatives, 1)
        if self.loss != "gbce":
            self._refuse("gbce_t", f"with loss={self.loss!r}", "It calibrates loss='gbce'.")
        else:
            t = 0.75 if t is None else _checks.fraction("RunConfig", "gbce_t", t)
            if sampler != "uniform":
                hint = "Its calibration is for uniform negatives; loss='bce' takes any."
                raise value_error(
                    "RunConfig", "sampler", "be 'uniform' with loss='gbce'", repr(sampler), hint
                )
        return {"sampler": sampler, "num_negatives": num_negatives, "gbce_t": t}

    def _refuse(self, name: str, where: str, hint: str) -> None:
        value = getattr(self, name)
        if value is not None:
            raise value_error("RunConfig", name, f"be left out {where}", repr(value), hint)

    @property
    def parts(self) -> Parts:
        """What of the sessions is trained on, and what judges the model."""
        return HOLD_OUT[self.hold_out]

    @property
    def validates(self) -> bool:
        """Whether a part of the sessions chooses the epoch."""
        return "validation" in self.parts.judged

    @property
    def tests(self) -> bool:
        """Whether a part of the sessions is left to test on."""
        return "test" in self.parts.judged

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """Make a config of what :meth:`as_dict` returned.

        Fields that runs had not from the first on have, where they are missing, the value by which
        those runs were trained.

        Raises
        ------
        ValueError
            If a field is missing or unknown, or of a binary loss the temperature, before which its
            scores had another prior.
        """
        if "temperature" not in values and values.get("loss") in BINARY_LOSSES:
            expectation = f"hold the temperature with loss={values['loss']!r}"
            hint = "The loss is another one since there is such a field: train again."
            raise value_error("RunConfig.from_dict", "values", expectation, "none", hint)
        names = {field.name for field in dataclasses.fields(cls)}
        values = {**_BEFORE_THERE_WERE_SUCH, **values}
        if set(values) != names:
            odd = sorted(names.symmetric_difference(values))
            raise value_error(
                "RunConfig.from_dict", "values", "hold exactly the fields of a run", odd
            )
        return cls(**values)


_BEFORE_THERE_WERE_SUCH = {
    "split_column": None,
    "validation_fraction": None,
    "hold_out": "both",
    "temperature": 1.0,
    "average": 0.0,
    "cosine_scale": 0.0,
    "test_sessions": None,
}


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise type_error("RunConfig", name, "be an integer", repr(value))
    if value < least:
        raise value_error("RunConfig", name, f"be >= {least}", value)
    bits = 63 if name == "seed" else 31
    if value >= 2**bits:
        raise value_error("RunConfig", name, f"be < 2^{bits}", value)


_INTEGERS = {
    "seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "max_length": 1,
    "d_model": 1,
    "layers": 1,
    "heads": 1,
    "inner": 0,
    "patience": 0,
    "checkpoint_every": 0,
    "validation_sessions": 1,
    "eval_batch_size": 1,
}
