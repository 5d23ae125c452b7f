"""Order, shares of the time, and what one step's fault does to the others: nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from device_steps import runner
from device_steps.base import Context, Record, Task
from device_steps.results import Results, mend
from device_steps.runner import Tally, run_steps
from device_steps.steps import Entry
from device_steps.summary import summary_text
from steps_context import make_context


@dataclass
class FakeStep:
    """Runs tasks that only say that they ran."""

    NAME: str
    tasks: list[Task]
    broken: str = ""

    def plan(self, context: Context) -> list[Task]:
        if self.broken == "plan":
            raise ValueError("no plan")
        return self.tasks

    def run(self, task: Task, context: Context) -> Iterator[Record]:
        yield {"key": f"{task.key}/first"}
        if self.broken == "run":
            raise ValueError("no result")
        if task.key == "slow":
            time.sleep(0.3)
        if context.seconds_left():
            yield {"label": "counted", "value": 1}


def tasks(*estimates: float) -> list[Task]:
    return [Task(key=f"task {index}", estimate_s=estimate) for index, estimate in enumerate(estimates)]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs fake steps for some seconds; returns the tallies and the tasks that ran, in order."""

    def go(*steps: FakeStep, seconds: float = 100, shares: dict[str, float] | None = None):
        found = {step.NAME: step for step in steps}
        monkeypatch.setattr(runner, "find_step", found.get)
        context = replace(
            make_context(tmp_path, "environment", module_dir=tmp_path), deadline=time.monotonic() + seconds
        )
        ran: list[str] = []
        append = context.results.append

        def watch(record: Record) -> None:
            append(record)
            if "task" in record:
                ran.append(f"{record['step']}/{record['key']}")

        monkeypatch.setattr(context.results, "append", watch)
        names = [*(step.NAME for step in steps), *(() if shares is None else set(shares) - set(found))]
        entries = [Entry(name=name, share=(shares or {}).get(name, 0.5)) for name in names]
        tallies: list[Tally] = []
        run_steps(context, entries, tallies)
        return {one.name: one for one in tallies}, ran

    return go


def test_tasks_run_in_the_order_of_the_steps(play):
    _, ran = play(FakeStep("a", tasks(1, 1)), FakeStep("b", tasks(1)))
    assert ran == ["a/task 0", "a/task 1", "b/task 0"]


def test_what_exceeds_a_share_waits_until_the_last_step_has_its_reserve(play):
    steps = [FakeStep("a", tasks(1, 60)), FakeStep("b", tasks(1)), FakeStep("last", tasks(1))]
    _, ran = play(*steps, shares={"a": 0.3, "b": 0.3, "last": 0.3})
    assert ran == ["a/task 0", "b/task 0", "a/task 1", "last/task 0"]


def test_the_last_step_is_left_enough_for_a_task_of_its_own(play):
    steps = [FakeStep("a", tasks(1, 55)), FakeStep("b", []), FakeStep("last", tasks(50))]
    _, ran = play(*steps, shares={"a": 0.5, "b": 0.4, "last": 0.1})
    assert ran == ["a/task 0", "last/task 0", "a/task 1"]


def test_what_fits_nowhere_is_left_out_and_counted(play):
    tallies, ran = play(FakeStep("a", tasks(1, 1000)), FakeStep("b", tasks(1)))
    assert ran == ["a/task 0", "b/task 0"]
    assert tallies["a"].left_out == 1 and tallies["a"].done == 1


def test_a_step_that_fails_leaves_the_others_unharmed(play, tmp_path):
    steps = [FakeStep("a", tasks(1), broken="plan"), FakeStep("b", tasks(1), broken="run"), FakeStep("c", tasks(1))]
    _, ran = play(*steps)
    assert ran == ["b/task 0", "c/task 0"]
    (fault,) = Results(tmp_path).records("a")
    assert fault["fault"] == "ValueError: no plan"
    assert [one.get("fault") for one in Results(tmp_path).records("b")] == [None, "ValueError: no result", None]


def test_a_step_that_nobody_has_written_is_left_out(play):
    tallies, ran = play(FakeStep("a", tasks(1)), shares={"a": 0.5, "missing": 0.5})
    assert ran == ["a/task 0"] and tallies["missing"].missing


def test_a_task_that_the_end_cuts_off_is_not_done(play):
    tallies, ran = play(FakeStep("a", [Task(key="slow", estimate_s=0.05)]), seconds=0.2)
    assert ran == [] and tallies["a"].left_out == 1


def test_an_estimate_comes_from_recorded_costs(tmp_path):
    from device_steps.costs import kind_of_run, read_costs, update_costs

    task = {"unit": "kernel", "wall_s": 3.0, "estimate_s": 9.0}
    records = [{"step": "a", "task": task}, {"step": "a", "task": task | {"wall_s": 90.0, "faults": 1}}]
    assert update_costs("cuda", records, tmp_path / "costs.json")
    assert not update_costs("cuda", records, tmp_path / "costs.json")
    assert read_costs("cuda", tmp_path / "costs.json").seconds("a", "kernel", 1.0) == 3.0
    other = read_costs(kind_of_run("emulator", quick=True), tmp_path / "costs.json")
    assert other.seconds("a", "kernel", 1.0) == 1.0


def test_the_table_never_exceeds_sixty_lines(tmp_path):
    results = Results(tmp_path)
    for step in ("correctness", "fidelity", "blocks", "speed", "sanitizer", "tune"):
        for index in range(80):
            results.append({"step": step, "key": f"k{index}", "fault": f"wrong: {index}\nand more", "kind": "problems"})
    tallies = [Tally(name=f"step {index}") for index in range(7)]
    text = summary_text(results, tallies, actual_s=60, estimate_s=90)
    assert len(text.splitlines()) <= 60
    assert "FAULTS: 480" in text and "470 more" in text
    assert "estimated 1.50 min, took 1.00" in text


def test_a_line_that_was_cut_off_is_dropped_with_a_warning_and_whole_ones_stay(tmp_path):
    results, said = Results(tmp_path), []
    results.append({"step": "a", "key": "whole"})
    path = tmp_path / "a.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": "a", "key": "to')
    assert Results(tmp_path).load(said.append) == 1
    assert path.read_bytes() == whole
    assert "cut off" in said[0] and len(said) == 1
    mend(path, said.append)
    assert len(said) == 1


def test_records_do_not_tell_where_the_checkout_is(tmp_path):
    results = Results(tmp_path)
    results.append({"step": "a", "key": "x", "fault": f"{Path(__file__).resolve()} and {Path.home() / 'x'}"})
    text = (tmp_path / "a.jsonl").read_text()
    assert str(Path(__file__).resolve().parents[2]) not in text and str(Path.home() / "x") not in text
