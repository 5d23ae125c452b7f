"""`tuner run` on the spaces that come with the project, within the time that is left."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from device_steps.base import Context, Record, Task

NAME = "tune"
_LEAST_S = {"cuda": 60.0, "emulator": 60.0, "cuda-quick": 30.0, "emulator-quick": 10.0}
_TRIALS, _QUICK_TRIALS = 150, 2
_QUICK_OPERATIONS = ("flash_fwd", "flash_bwd")
_SHOWN = 10
_STOP_S = 10.0  # before the run's own end: a batch that is on its way is finished first
_KEPT = ("space", "arch", "device", "problem", "legal", "label", "trials", "search", "failures", "winner", "standing")


def plan(context: Context) -> list[Task]:
    """One task a space; each may use an equal part of what is left."""
    from kernelwright.tuner.space import TUNED, load_space, space_names

    spaces = sorted(map(load_space, space_names()), key=lambda one: TUNED.index(one.operation))  # forward first
    if context.quick:
        of = {operation: [one for one in spaces if one.operation == operation] for operation in _QUICK_OPERATIONS}
        spaces = [min(found, key=lambda one: one.problem.head_dim) for found in of.values()]
    names = [one.name for one in spaces]
    least_s = _LEAST_S[f"{context.driver}{'-quick' if context.quick else ''}"]
    # A run that is not quick spends whatever time it is given: what others took says nothing.
    estimate_s = context.cost("space", least_s) if context.quick else least_s
    return [Task(key=name, unit="space", estimate_s=estimate_s, kwargs={"spaces": names}) for name in names]


def run(task: Task, context: Context) -> Iterator[Record]:
    waiting = sum(not context.done(name, NAME) for name in task.kwargs["spaces"])
    seconds = max(5.0, context.seconds_left() / max(1, waiting) - _STOP_S)
    begun = context.results.records("environment")[0]
    asked = {
        "space": task.key,
        "out": str(context.work / "tune" / str(begun.get("id", "run"))),
        "minutes": seconds / 60,
        "trials": _QUICK_TRIALS if context.quick else _TRIALS,
        "seed": context.seed,
        "is_modelled": context.driver == "emulator",
    }
    answer = context.run_isolated("device_steps.tune:tune_space", asked, 2 * seconds + 60)
    if answer.get("fault") == "out of time":
        return
    if "fault" in answer:
        yield {**answer, "fault": f"{answer['fault']}: {answer.get('detail', '')}"}
        return
    yield answer


def tune_space(
    *, space: str, out: str, minutes: float, trials: int, seed: int, is_modelled: bool
) -> dict[str, Any]:  # Any: JSON
    """Tune one space through the tuner's own command; on the emulator its figures are modelled."""
    from kernelwright.gen.terminal import DONE
    from kernelwright.tuner.cli import main
    from kernelwright.tuner.tune import has_optuna

    words = ["run", space, "--minutes", f"{minutes:.3f}", "--trials", str(trials), "--seed", str(seed)]
    words += ["--out", out, "--resume", "--json"]
    words += ["--arch", "sm80", "--backend", "modelled"] if is_modelled else ["--backend", "measured"]
    said = Tee(sys.stderr)
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(said):
        status = main(words)
    if status != DONE:
        last = next((line for line in reversed(said.getvalue().splitlines()) if line.strip()), "no message")
        return {"fault": "error", "detail": last}
    result = json.loads(told.getvalue())
    kept = {name: result[name] for name in _KEPT if name in result}
    note = (
        {}
        if has_optuna()
        else {"note": "without optuna: every point is tried, in random order, as far as the time goes"}
    )
    return {**kept, "ranking": result["ranking"][:_SHOWN], **note}


class Tee(io.StringIO):
    """Keeps what is written, and passes it on."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._stream.flush()


def table(records: list[Record]) -> list[str]:
    """A line a space: the winner and how it stands."""
    return [
        f"{one['key']}: {one['winner']}, {one['standing']}; {one['trials']} of {one['legal']} points, "
        f"{one['search']} ({one['label']})"
        for one in records
        if "winner" in one
    ] + sorted({str(one["note"]) for one in records if one.get("note")})
