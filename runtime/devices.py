"""The devices a module launches on: GPUs through libcuda, or one played by the emulator for CPU tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .errors import DriverError
from .launcher import CPU, CUDA, DriverObject, Launcher
from .settings import Emulate, Settings
from .table import DeviceFacts, Table

EMULATOR_FILE = "_emulator.so"

# CUdevice_attribute of cuda.h.
_CC_MAJOR, _CC_MINOR, _NUM_SMS, _SMEM_OPTIN, _SMEM_PER_SM = 75, 76, 16, 97, 81
_REGS_PER_SM, _THREADS_PER_SM, _BLOCKS_PER_SM = 82, 39, 106

_OPTION_FIELDS = {
    "sm": "sm",
    "sms": "num_sms",
    "smem_optin": "max_smem_bytes",
    "smem_per_sm": "smem_per_sm_bytes",
    "regs_per_sm": "regs_per_sm",
    "max_threads_per_sm": "max_threads_per_sm",
    "max_blocks_per_sm": "max_blocks_per_sm",
}
"""Options of the emulator that are facts of the device; the others (checks, seed, ...) pass through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """Where tensors live, as torch counts: `cuda:1`, or the CPU."""

    type: Literal["cpu", "cuda"]
    index: int

    @property
    def code(self) -> int:
        """DLPack's device type."""
        return CPU if self.type == "cpu" else CUDA

    def __str__(self) -> str:
        return "cpu (emulated GPU)" if self.type == "cpu" else f"cuda:{self.index}"


CPU_KEY = DeviceKey(type="cpu", index=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDevice:
    """A device with its driver. `names`: what a table row may call it, in lower case."""

    key: DeviceKey
    driver: DriverObject
    ordinal: int
    facts: DeviceFacts
    names: frozenset[str]
    is_emulated: bool


def open_gpu(launcher: Launcher, key: DeviceKey, settings: Settings, tables: Sequence[Table]) -> OpenDevice:
    """Open a GPU through the driver.

    Raises:
        DriverError: if there is no driver, or no such GPU.
    """
    driver = launcher.driver(settings.driver)
    title = driver.device_name(key.index)

    def ask(attribute: int) -> int:
        return driver.device_attribute(key.index, attribute)

    facts = DeviceFacts(
        name=title,
        title=title,
        sm=10 * ask(_CC_MAJOR) + ask(_CC_MINOR),
        num_sms=ask(_NUM_SMS),
        max_smem_bytes=ask(_SMEM_OPTIN),
        smem_per_sm_bytes=ask(_SMEM_PER_SM),
        regs_per_sm=ask(_REGS_PER_SM),
        max_threads_per_sm=ask(_THREADS_PER_SM),
        max_blocks_per_sm=ask(_BLOCKS_PER_SM),
    )
    return OpenDevice(
        key=key,
        driver=driver,
        ordinal=key.index,
        facts=facts,
        names=_names_of(facts, tables),
        is_emulated=driver.is_emulator,
    )


def open_emulator(launcher: Launcher, folder: Path, settings: Settings, tables: Sequence[Table]) -> OpenDevice:
    """Open the emulator in the module's folder and make it play a device.

    Raises:
        DriverError: if the module has no emulator, or no table describes the device.
    """
    library = folder / EMULATOR_FILE
    if not library.is_file():
        raise DriverError(
            f"{folder.name} was built without the emulator ({EMULATOR_FILE} is absent), so it takes CUDA tensors "
            "only. Move the tensors to a GPU, or build the module again without --no-emulator."
        )
    facts = emulated_facts(settings.emulate, tables)
    driver = launcher.driver(str(library))
    if driver.is_emulator:
        driver.configure(configuration(facts, settings.emulate))
    return OpenDevice(
        key=CPU_KEY,
        driver=driver,
        ordinal=0,
        facts=facts,
        names=_names_of(facts, tables),
        is_emulated=driver.is_emulator,
    )


def emulated_facts(emulate: Emulate, tables: Sequence[Table]) -> DeviceFacts:
    """Return the device that the emulator is to play: the one named, else the tables' first.

    Raises:
        DriverError: if no table describes it, or an option of it is no number.
    """
    known = {name: facts for table in reversed(tables) for name, facts in table.devices.items()}
    name = emulate.device or next((name for table in tables for name in table.devices), None)
    if name is None or name not in known:
        raise DriverError(
            f"KERNELWRIGHT_EMULATE names the device {name!r}; the tables describe: {', '.join(known) or 'none'}."
        )
    changes: dict[str, Any] = {}  # Any: the fields of DeviceFacts named here are all ints
    for option, value in emulate.options:
        if option in _OPTION_FIELDS:
            if not (value.isascii() and value.isdecimal()) or len(value) > 18 or int(value) < 1:
                raise DriverError(
                    f"KERNELWRIGHT_EMULATE: {option}={value[:40]} must be a positive whole number, as in {option}=3."
                )
            changes[_OPTION_FIELDS[option]] = int(value)
    return replace(known[name], **changes)


def configuration(facts: DeviceFacts, emulate: Emulate) -> str:
    """Return the text that configures the emulator."""
    pairs = [("name", facts.name)]
    pairs += [(option, str(getattr(facts, field))) for option, field in _OPTION_FIELDS.items()]
    pairs += [(option, value) for option, value in emulate.options if option not in _OPTION_FIELDS]
    return ",".join(f"{option}={value}" for option, value in pairs if value != "0")


def _names_of(facts: DeviceFacts, tables: Sequence[Table]) -> frozenset[str]:
    """A row may name a device as the driver does, as the tables do, or without the maker's name."""
    names = {facts.name.lower(), facts.title.lower()}
    for table in tables:
        names |= {key.lower() for key, one in table.devices.items() if one.title.lower() in names}
    return frozenset(names | {name.removeprefix("nvidia ") for name in names})
