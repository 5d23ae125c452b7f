"""The recording driver (stand_in.c) as tests see it."""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fake_kernel import compute
from fake_module import BINDING

HERE = Path(__file__).parent
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def compile_c(source: Path, output: Path, *flags: str) -> Path:
    """Compile one C file into a shared library."""
    subprocess.run(
        ["cc", "-O2", "-std=gnu11", "-fPIC", "-shared", *WARNINGS, str(source), "-o", str(output), *flags], check=True
    )
    return output


class StandIn:
    """A stand-in library as tests see it: its log, what goes wrong, and what a launch computes."""

    def __init__(self, path: Path, fields: Sequence[dict[str, Any]] = BINDING["fields"]) -> None:
        self.path = path
        letters = {"ptr": "Q", "i64": "q", "i32": "i", "f32": "f"}
        self.fields = [field["name"] for field in fields]
        self.layout = "@" + "".join(letters[field["type"]] for field in fields)
        self.library = ctypes.CDLL(str(path))
        self.library.stand_in_log.restype = ctypes.c_char_p
        self.library.stand_in_parameters.restype = ctypes.POINTER(ctypes.c_ubyte)
        self._callback: Any = None
        self.library.stand_in_reset()
        for device, sm in enumerate((80, 90)):
            for attribute, value in ((75, sm // 10), (76, sm % 10), (16, 108 + device), (97, 166912 + device)):
                self.library.stand_in_attribute(device, attribute, value)

    @property
    def log(self) -> list[str]:
        return self.library.stand_in_log().decode().splitlines()

    @property
    def launches(self) -> list[str]:
        return [line for line in self.log if line.startswith("launch")]

    def fail(self, call: str, code: int) -> None:
        self.library.stand_in_fail(call.encode(), code)

    def expect(self) -> None:
        """Keep the parameter block of the launches to come."""
        self.library.stand_in_expect(ctypes.c_size_t(self.parameter_bytes))

    @property
    def parameter_bytes(self) -> int:
        return struct.calcsize(self.layout + "0q")

    @property
    def parameters(self) -> dict[str, Any]:
        """The last launch's parameter block, by field, decoded as C lays it out."""
        data = bytes(self.library.stand_in_parameters()[: struct.calcsize(self.layout)])
        return dict(zip(self.fields, struct.unpack(self.layout, data), strict=True))

    def on_launch(self, function: Callable[[], None]) -> None:
        """Run a function inside every launch, with the GIL, as a kernel would run."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        self._callback = kind(lambda _parameters, _kernel: function())
        self.library.stand_in_on_launch(self._callback)

    def compute(self) -> None:
        """Let every launch compute attention from its parameter block."""

        def run() -> None:
            compute(self.parameters, self.launches[-1].split()[1])

        self.expect()
        self.on_launch(run)

    def reset(self) -> None:
        self.library.stand_in_reset()
