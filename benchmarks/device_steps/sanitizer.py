"""compute-sanitizer's four tools on one small launch of each family, then on a sample of features."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from device_steps.base import Context, Record, Task
from device_steps.families import FAMILIES
from device_steps.modules import Kernel, kernels_of

NAME = "sanitizer"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
_LIMIT_S = 150.0
_ERROR_STATUS = 86  # told to the tool, so that its findings are not taken for a crash of what it watches
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")
_PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]


def plan(context: Context) -> list[Task]:
    """The first kernel of each family; then one with each feature, as long as no kernel before has it."""
    kernels = kernels_of(context.module_dir)
    of_family = [(one, [kernel for kernel in kernels if kernel.operation == one.name]) for one in FAMILIES]
    chosen = [(family, mine[0], family.name) for family, mine in of_family if mine]
    chosen += [(family, kernel, kernel.name) for family, mine in of_family for kernel in _sample(mine[1:])]
    return [
        Task(
            key=f"{name}/{tool}",
            unit=tool,
            estimate_s=context.cost(tool, 25.0),
            kwargs={"tool": tool, "family": family.name, "module": family.module, "variant": kernel.name},
        )
        for family, kernel, name in chosen
        for tool in TOOLS
    ]


def _sample(kernels: list[Kernel]) -> list[Kernel]:
    """Kernels with a feature, or a choice of the schedule, that none before has."""
    seen: set[str] = set()
    found = []
    for kernel in kernels:
        choices = {name for name in ("pack_gqa", "persistent_blocks") if kernel.schedule.get(name)}
        if not seen >= {*kernel.features, *choices}:
            found.append(kernel)
            seen |= {*kernel.features, *choices}
    return found


def run(task: Task, context: Context) -> Iterator[Record]:
    head: Record = {"tool": task.kwargs["tool"], "variant": task.kwargs["variant"]}
    if context.driver == "emulator":
        yield {**head, "note": "not run: it watches a GPU; the emulator's own checks are part of correctness"}
        return
    tool = find_tool()
    if tool is None:
        yield {**head, "note": "not run: no compute-sanitizer on PATH or beside nvcc"}
        return
    limit_s = context.limit_s or _LIMIT_S
    left = context.seconds_left()
    call = {
        "module_dir": str(context.module_dir),
        "device": context.device,
        "variant": task.kwargs["variant"],
        "seed": context.seed,
    }
    code = f"import importlib; importlib.import_module({task.kwargs['module']!r}).launch(**{call!r})"
    found = sanitize(
        tool, str(task.kwargs["tool"]), [sys.executable, "-c", code], str(task.kwargs["family"]), min(limit_s, left)
    )
    if found.get("fault") == "timeout" and left < limit_s:
        return
    yield {**head, **found}


def find_tool() -> str | None:
    """Return compute-sanitizer of PATH, or of the toolkit that nvcc belongs to."""
    found = shutil.which("compute-sanitizer")
    nvcc = shutil.which("nvcc")
    homes = [Path(value) for name in ("CUDA_HOME", "CUDA_PATH") if (value := os.environ.get(name))]
    homes += [Path(nvcc).resolve().parents[1]] if nvcc else []
    beside = (home / "bin" / "compute-sanitizer" for home in homes)
    return found or next((str(path) for path in beside if os.access(path, os.X_OK)), None)


def sanitize(tool: str, check: str, command: list[str], kernels: str, limit_s: float) -> Record:
    """Run a command under a tool. Findings are a fault; a tool that does not work here is a note.

    Args:
        tool: path of compute-sanitizer.
        check: which of `TOOLS`.
        command: what to watch.
        kernels: part of the names of the kernels to look at.
        limit_s: after this it is killed, with what it started.
    """
    try:
        options = subprocess.run([tool, "--help"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"note": f"not run: compute-sanitizer does not start ({type(error).__name__})"}
    chosen = next((name for name in ("--kernel-regex", "--filter") if name in options), None)
    # initcheck must see every write, torch's own kernels' too.
    narrow = [chosen, f"kns={kernels}"] if chosen and check != "initcheck" else []
    whole = [tool, "--tool", check, "--error-exitcode", str(_ERROR_STATUS), *narrow, *command]
    paths = os.pathsep.join([*_PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Without torch's cache every tensor is an allocation of its own, whose ends the tool knows.
    environment = {**os.environ, "PYTHONPATH": paths, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return {"fault": "timeout", "detail": f"{check}: no end within {limit_s:.0f} s, killed"}
    return read_output(check, output, process.returncode)


def read_output(check: str, output: str, status: int) -> Record:
    """Return what a tool's output says: `errors`, and a fault if there are any, or a note that it did not work."""
    counts = [int(count) for count in _SUMMARY.findall(output)]
    lines = [line.lstrip("= ").strip() for line in output.splitlines() if line.startswith("=========")]
    said = [line for line in lines if line and not line.startswith(("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK"))]
    if not counts:
        words = (said or output.strip().splitlines() or [f"exit status {status}"])[0][:200]
        return {"note": f"{check} does not work here: {words}"}
    if counts[-1]:
        return {
            "errors": counts[-1],
            "fault": f"{check}: {counts[-1]} errors; {(said or ['?'])[0][:200]}",
            "said": said[:20],
        }
    if status:
        last = (output.strip().splitlines() or ["?"])[-1][:200]
        return {"note": f"{check} found nothing, but what it watched ended with exit status {status}: {last}"}
    return {"errors": 0}


def table(records: list[Record]) -> list[str]:
    """Families by tool, or why the tools did not run."""
    clean = [one["key"] for one in records if one.get("errors") == 0]
    notes = sorted({str(one["note"]) for one in records if one.get("note")})
    return ([f"clean: {', '.join(clean)}"] if clean else []) + notes
