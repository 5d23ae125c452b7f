"""The environment variables of a dispatch module. Nothing else in the run time reads the environment.

KERNELWRIGHT_TABLE       a table folder (or its table.json) that is tried before the module's own
KERNELWRIGHT_EMULATE     the device that CPU tensors run on: `h200`, `h200,sms=3,checks=none` or `sms=3`
KERNELWRIGHT_PLAIN_INTS  1: read tensors in Python, as torch before 2.10 needs, instead of in C
KERNELWRIGHT_DRIVER      a library that stands in for libcuda.so.1
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import DriverError

LIBCUDA = "libcuda.so.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulate:
    """What the emulator plays: a device of the table, or None for the first, and settings on top of it."""

    device: str | None = None
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, read once per use."""

    table: Path | None = None
    emulate: Emulate = Emulate()
    plain_ints: bool = False
    driver: str = LIBCUDA


def parse_emulate(text: str) -> Emulate:
    """Read `device,option=value,...`, in which the device may be left out.

    Raises:
        DriverError: if a part after the first is not `option=value`.
    """
    device: str | None = None
    options: list[tuple[str, str]] = []
    for index, part in enumerate(one.strip() for one in text.split(",") if one.strip()):
        name, equals, value = part.partition("=")
        if not equals and index == 0:
            device = name
        elif name and value:
            options.append((name, value))
        else:
            raise DriverError(
                f"KERNELWRIGHT_EMULATE={text}: {part!r} is not option=value. "
                "Write a device first, then options, as in h200,sms=3,checks=none."
            )
    return Emulate(device=device, options=tuple(options))


def _switch(name: str, text: str | None) -> bool:
    if text not in (None, "", "0", "1"):
        raise DriverError(f"{name} must be 0 or 1, got {text!r}.")
    return text == "1"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings in the process's environment, or in the mapping given.

    Raises:
        DriverError: if one has no meaning.
    """
    env = os.environ if environment is None else environment
    table = env.get("KERNELWRIGHT_TABLE")
    return Settings(
        table=Path(table) if table else None,
        emulate=parse_emulate(env.get("KERNELWRIGHT_EMULATE", "")),
        plain_ints=_switch("KERNELWRIGHT_PLAIN_INTS", env.get("KERNELWRIGHT_PLAIN_INTS")),
        driver=env.get("KERNELWRIGHT_DRIVER") or LIBCUDA,
    )
