"""Providers that run in another environment, to be timed beside those of this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import timing


class WorkerError(RuntimeError):
    """What another environment answers instead of a result."""


class Worker:
    """A process of `benchmarks.peers.worker` in another environment.

    Parameters
    ----------
    python : path
        The interpreter of that environment.
    module : str
        Whose builders it offers.
    threads : int
        For torch there.

    Raises
    ------
    WorkerError
        if there is no such interpreter, or the module does not import there.
    """

    def __init__(self, python: str | Path, module: str, threads: int) -> None:
        command = [str(python), "-W", "ignore", "-m", "benchmarks.peers.worker", module]
        try:
            self._process = subprocess.Popen(
                command, cwd=timing.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise WorkerError(f"{python} does not start: {error.strerror}") from None
        try:
            self.versions: dict[str, str] = self.ask(do="start", threads=threads)["versions"]
        except WorkerError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; raise WorkerError for what went wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerError(f"the process ended with {code} on the request {request}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def build(self, kind: str, case: Any, device: str) -> Remote:
        """Return a provider of a case (a NamedTuple); what it holds is freed by its ``close``."""
        key = self.ask(do="build", kind=kind, case=case._asdict(), device=device)["key"]
        return Remote(self, key, device)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                print("the worker had ended before it was told to", file=sys.stderr)
        self._process.wait()


class Remote:
    """One provider in a worker; it measures itself, where it runs."""

    def __init__(self, worker: Worker, key: int, device: str) -> None:
        self._worker, self._key, self._device = worker, key, device

    def __call__(self) -> Any:
        """Run once; return what it returns."""
        return self._worker.ask(do="run", key=self._key)["value"]

    def seconds(self) -> float:
        """Run once for nothing and once for the time, in seconds."""
        return float(self._measure("seconds"))

    def peak_mebibytes(self) -> float:
        """Run and return what torch's allocator held at the most beyond what it held before."""
        return float(self._measure("peak_mebibytes"))

    def close(self) -> None:
        """Let the worker free it."""
        self._worker.ask(do="drop", key=self._key)

    def _measure(self, what: str) -> Any:
        return self._worker.ask(do=what, key=self._key, device=self._device)[what]
