"""What the steps of `benchmarks/device.py` share: the run they are part of, their tasks and their records.

A step is a module of this package with

    NAME                          also the name of its file of results, `<out>/<NAME>.jsonl`
    plan(context) -> list[Task]   what there is to do, most telling first; touches no device
    run(task, context)            yields records, each written to disk as soon as it is yielded

and a line in `steps.py`. It may also have

    variants(sm, quick) -> list[Variant]   kernels it needs in the module beside the default profile's
    table(records) -> list[str]            its lines of the final table, at most 12, from its file's records

A record is a plain dict with `step`, `key` and, if it holds a figure, `label`: `counted`,
`static`, `modelled` or `measured`. On the emulator there is no `measured`: a time is `NOT_MEASURED` there. A record
may hold `fault` (what went wrong, in words) and `note` (why something was left out); both are shown in the table.

A task counts as done when there is a record with its key. The runner writes one at its end, with what the task cost;
so a task of several records gives each a key of its own, and leaves out those for which `context.done` is true.
Whatever touches a device goes through `context.run_isolated`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from device_steps.costs import Costs
from device_steps.isolation import Isolation
from device_steps.results import Results

Driver = Literal["cuda", "emulator"]
Record = dict[str, Any]  # Any: JSON
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to do, done or not done as a whole when time is short.

    Args:
        key: unique in the step, the same in every run with the same arguments.
        estimate_s: what it should take; see `Context.cost`.
        kwargs: the step's own, plain data.
        unit: tasks that cost about the same share one; recorded costs are kept by it.
    """

    key: str
    estimate_s: float
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    unit: str = "task"


@dataclass(frozen=True, kw_only=True)
class Context:
    """The run that a step is part of.

    Args:
        out: folder of results.
        driver: what launches; `device` is the same as torch says it.
        quick: tiny shapes and few repetitions.
        seed: of every random choice.
        module_dir: a dispatch module with the kernels under test.
        deadline: of the whole run, on `time.monotonic`.
        work: folder for what is built and can be made again.
        limit_s: how long one isolated call may take, if the user says so.
    """

    out: Path
    driver: Driver
    quick: bool
    seed: int
    module_dir: Path
    deadline: float
    work: Path
    limit_s: float | None
    results: Results
    costs: Costs
    isolation: Isolation

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        return "cuda" if self.driver == "cuda" else "cpu"

    @property
    def label(self) -> Literal["measured", "counted"]:
        """The label of a figure that the kernels' results themselves give, such as an error."""
        return "measured" if self.driver == "cuda" else "counted"

    def seconds_left(self) -> float:
        """Return what remains of the whole run, never less than 0."""
        return max(0.0, self.deadline - time.monotonic())

    def done(self, key: str, step: str | None = None) -> bool:
        """Whether a record with this key exists, of the step that is running unless another is named."""
        return self.results.done(key, step)

    def cost(self, unit: str, default: float, step: str | None = None) -> float:
        """Return the seconds that a task of this unit took in earlier runs, else `default`."""
        return self.costs.seconds(step or self.results.step, unit, default)

    def note(self, text: str) -> None:
        """Say how it goes, on stderr."""
        print(f"device: {text}", file=sys.stderr, flush=True)

    def run_isolated(
        self, target: str, kwargs: Mapping[str, Any], deadline_s: float, *, fresh: bool = True
    ) -> Record:  # Any: JSON
        """Call a function in another process, which is killed if it does not answer.

        Args:
            target: as in `device_steps.speed:measure`; takes keywords, returns a dict, both JSON-able.
            kwargs: its arguments.
            deadline_s: how long it may take, its process's start not counted; never beyond the run's own end. The
                user's `--task-seconds` goes before it.
            fresh: a new process with a CUDA context of its own. Else the one that answered last, if it is sound.

        Returns:
            what the function returned, or `{"fault": kind, "detail": text}` with kind `timeout`, `crash` (the process
            died), `error` (it raised) or `out of time` (the run ended first; not the function's fault, so yield
            nothing and it will be tried again with --resume).
        """
        left = self.seconds_left()
        deadline_s = deadline_s if self.limit_s is None else self.limit_s
        result = self.isolation.call(target, kwargs, min(deadline_s, left), fresh=fresh)
        if result.get("fault") == "timeout" and left < deadline_s:
            return {"fault": "out of time", "detail": f"the run ended before {deadline_s:g} s had passed"}
        return result


class Step(Protocol):
    """A module of this package; see the top."""

    NAME: str

    def plan(self, context: Context) -> list[Task]: ...

    def run(self, task: Task, context: Context) -> Iterator[Record]: ...
