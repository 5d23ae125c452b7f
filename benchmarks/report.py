"""From folders of results to Markdown and plots that can be committed.

    python benchmarks/report.py DIR [DIR ...] [--results benchmarks/results]

For each folder that benchmarks/device.py has written: `<results>/<device>/<date>-<commit>/` gets the records, a
README.md and, with matplotlib (the extra `plots`), PNG plots. Then what the run found is put where the project uses it:
the kernels it checked into configs/verified.json, from which `gen build` tells `support()`; what its tasks cost into
benchmarks/device_steps/costs.json, from which the next run is estimated; recorded instructions into
tests/golden/device/. Quick runs, and runs of a checkout with changes, tell only what they cost.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "benchmarks", ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from device_steps.checked import update_verified  # noqa: E402
from device_steps.costs import COSTS_FILE, update_costs  # noqa: E402
from device_steps.report_charts import charts_of, draw  # noqa: E402
from device_steps.report_load import ReportError, Run, device_folder, load_run  # noqa: E402
from device_steps.report_text import report_text  # noqa: E402
from device_steps.results import SUFFIX  # noqa: E402

DONE, FAILED, MISUSED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Make the reports and return the exit status."""
    parser = argparse.ArgumentParser(prog="report.py", description="Make reports of runs of benchmarks/device.py.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder of results")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR", help="where to")
    parser.add_argument("--verified", type=Path, default=ROOT / "configs" / "verified.json", metavar="FILE")
    parser.add_argument("--costs", type=Path, default=COSTS_FILE, metavar="FILE")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden" / "device", metavar="DIR")
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else MISUSED
    status = DONE
    for folder in args.folders:
        try:
            run = load_run(folder, _warn)
            print(_report(run, args.results))
            for line in _tell(run, args):
                print(f"  {line}")
        except (ReportError, OSError) as error:
            print(f"report: {error}", file=sys.stderr)
            status = FAILED
    return status


def _report(run: Run, results: Path) -> Path:
    target = _target(run, results / device_folder(run.device))
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(run.folder.glob(f"*{SUFFIX}")):
        if path.resolve() != (target / path.name).resolve():
            shutil.copyfile(path, target / path.name)
    try:
        names = draw(charts_of(run), target)
    except ImportError:
        _warn("matplotlib is not installed (pip install matplotlib, or the extra `plots`): Markdown only")
        names = []
    (target / "README.md").write_text(report_text(run, names), encoding="utf-8")
    return target / "README.md"


def _target(run: Run, folder: Path) -> Path:
    """Return where the report goes: over an earlier one of the same run, beside one of another."""
    target = folder / run.name
    try:
        is_other = load_run(target, _warn).head.get("id") != run.head.get("id")
    except ReportError:
        is_other = False
    return target.with_name(f"{run.name}-{run.head.get('id')}") if is_other else target


def _tell(run: Run, args: argparse.Namespace) -> list[str]:
    """Put what a run found where the project uses it, and say what changed."""
    said = []
    records = [record for found in run.records.values() for record in found]
    if update_costs(run.kind, records, args.costs):
        said.append(f"costs of {run.kind} runs updated")
    if run.head["quick"] or run.commit.endswith("changes"):
        why = "a quick run" if run.head["quick"] else "a checkout with changes"
        return [*said, f"of {why}: no kernel is noted as verified"]
    passed, failed = update_verified(run.merged("correctness"), run.device, run.date, args.verified)
    said.append(f"verified by {run.device}: {passed} kernels{f', {failed} not' if failed else ''}")
    for path in sorted(run.folder.glob("*.npz")):
        args.golden.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, args.golden / path.name)
        said.append(f"instructions recorded: {path.name}")
    return said


def _warn(text: str) -> None:
    print(f"report: warning: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
