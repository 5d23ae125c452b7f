"""A dispatch module of the tuner's own, through which workers launch the kernels they judge.

It is assembled like any module and imported in the workers, so that what is verified and measured takes the very
path that users' calls take. Kernels come to it in table folders of one kernel.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright.build.kernels import build_kernels
from kernelwright.build.launcher import compile_launcher
from kernelwright.build.module import ModuleContent, assemble_module
from kernelwright.build.settings import read_settings
from kernelwright.build.store import scratch_dir, sweep_scratch
from kernelwright.build.table_folder import TABLE_FILE, put_folder, table_bytes, table_folder_files
from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.gen.table import hand_row
from kernelwright.tuner.work import Compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchModule:
    """Where the module is, and which device its emulator plays."""

    folder: Path
    device: Device

    @contextmanager
    def holding(self, compiled: Compiled) -> Iterator[Any]:  # Any: a module imported at run time
        """Yield the imported module with `compiled` answering every call."""
        assert compiled.kernel is not None
        module = self._import()
        name = compiled.variant.name
        with scratch_dir(self.folder.parent, "judging") as scratch:
            table = scratch / "table"
            files = table_folder_files(self.folder.name, [hand_row(compiled.variant, {})], [compiled.kernel])
            content = json.loads(files[TABLE_FILE])
            # The emulator plays the first device of the first table that is asked.
            content["devices"] = {self.device.name: content["devices"].pop(self.device.name), **content["devices"]}
            put_folder(table, files | {TABLE_FILE: table_bytes(content)})
            module.load_table(table)
            try:
                with module.force_variant(name):
                    yield module
            finally:
                module.load_table(None)  # whatever a kernel did, the next call must not find it

    def _import(self) -> Any:  # Any: as above
        parent = str(self.folder.parent)
        if parent not in sys.path:
            sys.path.insert(0, parent)
        return importlib.import_module(self.folder.name)


def make_scratch(
    out: Path, variant: Variant, device: Device, *, emulator: Path | None, jobs: int | None
) -> ScratchModule:
    """Build the module in `out/scratch`; it holds one kernel of its own, since a module must.

    Raises:
        BuildError: if it cannot be built.
    """
    place = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:8]  # one process may import several
    sweep_scratch(out / "scratch")  # of workers that were killed
    folder = out / "scratch" / f"kw_scratch_sm{device.sm}_{place}"
    launcher = compile_launcher(read_settings().cache_dir)
    built = build_kernels([variant], out, num_jobs=jobs, progress=io.StringIO())
    content = ModuleContent(
        name=folder.name,
        kernels=built,
        rows=[hand_row(variant, {})],
        launcher=launcher,
        emulator=emulator,
        info={"profile": "scratch", "archs": [f"sm{device.sm}"]},
    )
    assemble_module(folder, content)
    return ScratchModule(folder=folder.absolute(), device=device)
