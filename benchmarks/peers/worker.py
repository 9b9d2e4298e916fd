"""Runs providers in another environment: ``python -m benchmarks.peers.worker MODULE``.

Reads requests from standard input and answers on standard output, a JSON object a line:

    {"do": "start", "threads": 2}                        {"versions": {...}}
    {"do": "build", "kind": "step", "case": {...},
     "device": "cpu"}                                    {"key": 0}
    {"do": "run", "key": 0}                              {"value": 3.5}
    {"do": "seconds", "key": 0, "device": "cpu"}         {"seconds": 0.01}
    {"do": "peak_mebibytes", "key": 0, "device": "cpu"}  {"peak_mebibytes": 20.5}
    {"do": "drop", "key": 0}                             {}

Times and memory are measured here, by the functions that measure ours. What goes wrong is answered
as {"error": "..."}, and the worker lives on. It ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import IO, Any

from benchmarks import timing

Request = dict[str, Any]


class Server:
    """Answers requests with the builders of one module.

    Parameters
    ----------
    module : module
        Has ``BUILDERS`` (kind -> (builder, case)) and ``versions()``.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.runs: dict[int, Callable[[], Any]] = {}
        self.made = 0

    def answer(self, request: Request) -> Request:
        """Return the answer to one request; raise what its work raises."""
        do = request["do"]
        if do == "start":
            return self._start(request["threads"])
        if do == "build":
            return self._build(request)
        if do == "drop":
            del self.runs[request["key"]]
            return {}
        run = self.runs[request["key"]]
        if do == "run":
            return {"value": run()}
        if do not in ("seconds", "peak_mebibytes"):
            raise ValueError(f"a worker does not know how to {do}")
        return {do: getattr(timing, do)(run, request["device"])}

    def _start(self, threads: int) -> Request:
        import torch

        timing.keep_memory()
        torch.set_num_threads(threads)
        return {"versions": self.module.versions()}

    def _build(self, request: Request) -> Request:
        build, case = self.module.BUILDERS[request["kind"]]
        self.runs[self.made] = build(case(**request["case"]), request["device"])
        self.made += 1
        return {"key": self.made - 1}


def serve(requests: IO[str], answers: IO[str], load: Callable[[], Any]) -> None:
    """Answer until the requests end; the first one waits for ``load`` to return the module."""
    server: Server | None = None
    for line in requests:
        try:
            server = server or Server(load())
            answer = server.answer(json.loads(line))
        except Exception as error:  # whatever it is, it is the other side's to judge
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve; what libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers, lambda: importlib.import_module(sys.argv[1]))


if __name__ == "__main__":
    main()
