"""Our next-item task inside the heads of an installed Transformers4Rec.

Its ``Head`` hands ``top_k`` only to what is an instance of its own ``NextItemPredictionTask``. So
there our task becomes an instance of that class as well, of which it uses nothing. Transformers4Rec
is never imported for it: where none of its modules is loaded, there is none of its heads.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

#: The module of upstream that defines its tasks.
UPSTREAM_TASKS = "transformers4rec.torch.model.prediction_task"


def upstream_tasks() -> Any:
    """Return upstream's module of tasks if this process has loaded it, else None."""
    return sys.modules.get(UPSTREAM_TASKS)


def is_upstreams(module: object) -> bool:
    """Tell whether a class of ``module`` is upstream's."""
    return any(cls.__module__.split(".")[0] == "transformers4rec" for cls in type(module).__mro__)


def is_causal(masking: object) -> bool:
    """Tell whether a masking, ours or upstream's, labels the position before an item with it."""
    causal = getattr(masking, "causal", None)
    if causal is None:
        return any(cls.__name__ == "CausalLanguageModeling" for cls in type(masking).__mro__)
    return bool(causal)


def join_upstream(task: Any, inputs: Any) -> None:
    """Make ``task`` an instance of upstream's class too if its input module is upstream's."""
    if is_upstreams(inputs) and not is_upstreams(task):
        ours: Any = type(task)
        task.__class__ = both(ours)


@functools.cache
def both(ours: type) -> Any:
    """Return the class that is ``ours`` in all it does, and upstream's by ``isinstance``."""
    upstream = importlib.import_module(UPSTREAM_TASKS).NextItemPredictionTask
    # Made at run time, it cannot be found by its name, as copies and pickles would.
    names = {"__module__": __name__, "__doc__": ours.__doc__, "__reduce__": _reduce}
    return type(ours.__name__, (ours, upstream), names)


def _reduce(task: Any) -> tuple[Any, ...]:
    return _empty, (type(task).__bases__[0],), task.__dict__


def _empty(ours: type) -> Any:
    cls = both(ours)
    return cls.__new__(cls)
