"""What must be there before the first step: packages, a folder to write, a device."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from device_steps.isolation import Isolation

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"torch": "torch>=2.10", "jinja2": "jinja2", "yaml": "pyyaml", "numpy": "numpy"}
_PROBE_S = 120.0


class SetupError(Exception):
    """Why a run cannot begin; the message says what to do."""


def check_packages() -> None:
    """Raise if a package is missing that the run cannot do without."""
    missing = [wanted for name, wanted in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"not installed: {', '.join(missing)}. Install with: pip install {' '.join(map(repr, missing))}"
        )


def check_folder(out: Path) -> None:
    """Make the folder of results; raise if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return
    except OSError as error:
        raise SetupError(f"--out {out}: cannot be written ({error.strerror}). Choose another folder") from error


def probe(driver: str, isolation: Isolation) -> dict[str, Any]:  # Any: JSON
    """Return what torch says of the device, from a process of its own; raise if it cannot be used."""
    found = isolation.call("device_steps.probe:facts", {"driver": driver}, _PROBE_S, fresh=False)
    if "problem" in found:
        raise SetupError(str(found["problem"]))
    if "fault" in found:
        raise SetupError(f"asking torch about the device failed: {found['fault']}: {found.get('detail', '')}")
    return found


def commit_of(root: Path = ROOT) -> str:
    """Return the checkout's commit, marked where files differ from it; "unknown" without git."""
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit.strip() + (" and changes" if changed.strip() else "")


def existing_module(folder: Path) -> Path:
    """Return the folder of a module that was built already; raise if it is none."""
    if not (folder / "kernels" / "table.json").is_file():
        raise SetupError(f"--module {folder}: no dispatch module is there")
    return folder.absolute()
