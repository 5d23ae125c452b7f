"""The state of one dispatch module: its tables, devices and loaded kernels. Made lazily, shared by threads."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from .binding import Binding, lower
from .devices import CPU_KEY, DeviceKey, OpenDevice, open_emulator, open_gpu
from .errors import NoBackwardKernelError, NoKernelError, TableError
from .launcher import KernelObject, Launcher, LaunchRow, OperationObject, load_launcher
from .routes import FORWARD, Call, Candidate, candidates, feature_names, flag_bits, forced_candidate, launch_row, select
from .settings import read_settings
from .table import Table, read_table

logger = logging.getLogger(__name__)

LOADED, ENVIRONMENT, TUNED, BUILT_IN = "load_table", "KERNELWRIGHT_TABLE", "tuned", "kernels"
MAX_HEAD_DIM, MAX_BACKWARD_HEAD_DIM = 512, 256
"""The largest that `gen build` makes a kernel for."""
WHOLE_HEAD_DIM_V = 256
"""The largest head_dim_v that one thread block computes; beyond, two share a tile's columns, in multiples of 8 each."""

_MAY_MISS = (ENVIRONMENT, TUNED)
"""Tables that are skipped, with a logged reason, when they are damaged."""


@dataclass(slots=True)
class Route:
    """What runs of one operation on one device: the candidates in order."""

    device: OpenDevice
    choices: list[Candidate]


class Served:
    """An operation that the module serves: its binding, and the launcher's side of it."""

    def __init__(self, name: str, binding: Binding, launcher: Launcher) -> None:
        self.name = name
        self.binding = binding
        self.tensors = tuple(one.name for one in binding.tensors)
        self.scalars = tuple(one.name for one in binding.scalars)
        lowered = lower(binding)
        self.operation: OperationObject = launcher.operation(
            **{one.name: getattr(lowered, one.name) for one in fields(lowered)}
        )

    def arguments(
        self,
        tensors: Mapping[str, object],
        scalars: Mapping[str, float | None],
        flags: Mapping[str, bool],
    ) -> tuple[object, ...]:
        """Return what a launch takes, in the binding's order and for the current stream.

        Names that the binding lacks are left out, tensors that are absent are None, numbers have their defaults.
        """
        return (
            *map(tensors.get, self.tensors),
            *map(scalars.get, self.scalars),
            flag_bits(self.binding, flags),
            None,
        )


class Engine:
    """Finds the kernel for a call and makes it launchable; the launching itself is the launcher's."""

    def __init__(self, package: str, folder: Path) -> None:
        self.package = package
        self.folder = folder
        self._lock = threading.RLock()
        self._explicit: Table | None = None
        self._forced: str | None = None
        self._tables: list[Table] | None = None
        self._devices: dict[DeviceKey, OpenDevice] = {}
        self._kernels: dict[tuple[DeviceKey, str, str], KernelObject] = {}  # by digest: loaded once, kept forever
        self._bindings: dict[str, Binding] = {}
        self._served: dict[str, Served] = {}
        self._routes: dict[tuple[DeviceKey, str], Route] = {}
        self._damaged: set[tuple[Path, str]] = set()
        self.trainable: set[tuple[object, ...]] = set()
        """What was found to have backward kernels, by whatever tells calls apart; emptied when tables change."""
        os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        """A thread that held the lock does not exist in a forked child, which must reach the error it gets there."""
        self._lock = threading.RLock()

    @cached_property
    def launcher(self) -> Launcher:
        """The extension, imported at first use."""
        return load_launcher(self.package, plain_ints=read_settings().plain_ints)

    @property
    def binding(self) -> Binding:
        """The forward pass's binding."""
        return self.binding_of(FORWARD)

    @property
    def launch_operation(self) -> OperationObject:
        """The launcher's side of it."""
        return self.served(FORWARD).operation

    def binding_of(self, operation: str) -> Binding:
        """Return an operation's binding: that of the built-in table, or where it has none of the first table read that
        has one. Others must agree with it.

        Raises:
            TableError: if no table has the operation.
        """
        with self._lock:
            if FORWARD not in self._bindings:
                built_in = self.folder / BUILT_IN
                found = read_table(built_in, origin=BUILT_IN).operations
                if FORWARD not in found:
                    raise TableError(f"{built_in}: has no operation {FORWARD}; build the module again")
                self._bindings.update(found)
            if operation not in self._bindings:
                self.tables()
            if operation not in self._bindings:
                raise TableError(f"{self.folder}: no table has the operation {operation}; build the module again")
            return self._bindings[operation]

    def serves(self, operation: str) -> bool:
        """Return whether some table has an operation."""
        return operation in self._served or any(operation in table.operations for table in self.tables())

    def served(self, operation: str) -> Served:
        """Return an operation, ready for launching.

        Raises:
            TableError: if no table has it.
        """
        found = self._served.get(operation)
        if found is None:
            with self._lock:
                found = self._served.get(operation)
                if found is None:
                    found = Served(operation, self.binding_of(operation), self.launcher)
                    self._served[operation] = found
        return found

    # ------------------------------------------------------------------ tables

    def tables(self) -> list[Table]:
        """Return the tables in the order in which they are asked.

        Raises:
            TableError: if the built-in table is damaged; others of the module are skipped and logged.
        """
        with self._lock:
            if self._tables is None:
                self._tables = list(self._find_tables())
            return self._tables

    def _find_tables(self) -> Iterator[Table]:
        if self._explicit:
            yield self._explicit
        for origin, find in ((ENVIRONMENT, self._environment_folder), (TUNED, self._tuned_folder)):
            try:
                folder = find()
                found = None if folder is None else self._read(folder, origin)
            except TableError as error:
                logger.warning("%s: the table is not used: %s", origin, error)
                continue
            if found is not None:
                yield found
        yield self._read(self.folder / BUILT_IN, BUILT_IN)

    def _environment_folder(self) -> Path | None:
        return read_settings().table

    def _tuned_folder(self) -> Path | None:
        current = self.folder / "tuned" / "current"
        try:
            name = current.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"{current} cannot be read: {error}. Remove it, or tune again") from error
        if not name or Path(name).name != name or name == ".." or not name.isprintable():
            raise TableError(f"{current} must hold the name of a folder beside it, got {name!r}")
        return current.parent / name

    def _read(self, path: Path, origin: str) -> Table:
        table = read_table(path, origin=origin)
        self.binding_of(FORWARD)
        for name, binding in table.operations.items():
            if self._bindings.get(name, binding) != binding:
                raise TableError(
                    f"{table.folder}: its binding of {name} differs from the module's, so its kernels take other "
                    "parameters. Write the table with the version of kernelwright that built the module"
                )
        self._bindings.update(table.operations)
        return table

    def load_table(self, path: str | Path | None) -> None:
        """Put a table before all others; None takes it away again.

        Raises:
            TableError: if the table is damaged; the tables stay as they were.
        """
        table = None if path is None else self._read(Path(path), LOADED)
        with self._lock:
            self._explicit = table
            self._forget_routes(tables=True)

    @contextmanager
    def force_variant(self, name: str) -> Iterator[None]:
        """Let one variant answer every call of its operation inside the block, in all threads.

        Raises:
            NoKernelError: if no table holds the variant.
        """
        known = {variant for table in self.tables() for variant in table.kernels}
        if name not in known:
            raise NoKernelError(f"{self.package} holds no variant {name}; it holds: {', '.join(sorted(known))}")
        with self._lock:
            previous, self._forced = self._forced, name
            self._forget_routes()
        try:
            yield
        finally:
            with self._lock:
                self._forced = previous
                self._forget_routes()

    def _forget_routes(self, *, tables: bool = False) -> None:
        self._routes.clear()
        self.trainable.clear()
        for served in self._served.values():
            served.operation.clear_devices()
        if tables:
            self._tables = None

    # ------------------------------------------------------------------ devices and kernels

    def device(self, key: DeviceKey) -> OpenDevice:
        """Open a device, once.

        Raises:
            DriverError: if there is no such device, no driver or no emulator.
        """
        with self._lock:
            if key not in self._devices:
                settings = read_settings()
                if key == CPU_KEY:
                    self._devices[key] = open_emulator(self.launcher, self.folder, settings, self.tables())
                else:
                    self._devices[key] = open_gpu(self.launcher, key, settings, self.tables())
            return self._devices[key]

    def route(self, key: DeviceKey, operation: str = FORWARD) -> Route:
        """Return what runs of an operation on a device, telling the launcher of it at first use."""
        with self._lock:
            if (key, operation) not in self._routes:
                self._routes[key, operation] = self._make_route(self.device(key), operation)
            return self._routes[key, operation]

    def _make_route(self, device: OpenDevice, operation: str) -> Route:
        if self._forced is not None and self._operation_of(self._forced) == operation:
            one = forced_candidate(self.tables(), self._forced, device.facts, is_emulated=device.is_emulated)
            choices = [] if one is None else [one]
        else:
            choices = candidates(
                self.tables(),
                device.facts,
                device.names,
                operation=operation,
                is_emulated=device.is_emulated,
            )
        choices = [one for one in choices if (one.table.folder, one.kernel.name) not in self._damaged]
        if not choices:
            return Route(device=device, choices=[])
        served = self.served(operation)
        rows: list[LaunchRow] = []
        for one in choices:
            if not one.why_illegal:
                rows.append(launch_row(one, served.binding, self._kernel(device, one)))
        served.operation.add_device(device.key.code, device.key.index, tuple(rows))
        return Route(device=device, choices=choices)

    def _operation_of(self, variant: str) -> str | None:
        return next((table.kernels[variant].operation for table in self.tables() if variant in table.kernels), None)

    def _kernel(self, device: OpenDevice, candidate: Candidate) -> KernelObject:
        """Return the launcher's kernel of a legal candidate, not yet loaded."""
        record = candidate.kernel
        assert candidate.image is not None
        identity = (device.key, record.files[candidate.image].sha256, record.name)
        if identity not in self._kernels:
            self._kernels[identity] = self.launcher.kernel(
                driver=device.driver,
                ordinal=device.ordinal,
                name=record.name,
                entry=record.entry,
                threads=record.threads,
                smem_bytes=record.smem_bytes,
                constants=tuple(
                    {**record.constants, "num_sms": device.facts.num_sms}[name]
                    for name in self.binding_of(record.operation).numbers
                ),
            )
        return self._kernels[identity]

    def kernel_for(self, key: DeviceKey, calls: Sequence[Call]) -> tuple[KernelObject, Mapping[str, bool]]:
        """Return the kernel for the first of equivalent calls that has one, loaded, and the flags of that call.

        The calls are of one operation.

        Raises:
            NoKernelError: if none may.
            TableError: if its file is damaged, in the built-in or the loaded table; others are passed over.
            LaunchError: if the driver cannot load it.
        """
        while True:
            with self._lock:
                route = self.route(key, calls[0].operation)
                found = next(((one, call) for call in calls if (one := select(route.choices, call))), None)
                if found is None:
                    kind = NoKernelError if calls[0].operation == FORWARD else NoBackwardKernelError
                    raise kind(self._why_none(route, calls[0]))
                candidate, call = found
                try:
                    return self._loaded(route.device, candidate), call.flags
                except TableError as error:
                    if candidate.table.origin not in _MAY_MISS:
                        raise
                    logger.warning("%s is not used: %s", candidate.kernel.name, error)
                    self._damaged.add((candidate.table.folder, candidate.kernel.name))
                    self._forget_routes()

    def _loaded(self, device: OpenDevice, candidate: Candidate) -> KernelObject:
        kernel = self._kernel(device, candidate)
        if not kernel.loaded:
            assert candidate.image is not None
            kernel.load(candidate.kernel.files[candidate.image].read())
        return kernel

    def preload(self, key: DeviceKey) -> int:
        """Load every kernel that may run on a device, and return their number; see `kernel_for` for errors."""
        with self._lock:
            operations = {one.operation for table in self.tables() for one in table.kernels.values()}
            routes = [self.route(key, operation) for operation in sorted(operations)]
            loaded = [self._loaded(one.device, each) for one in routes for each in one.choices if not each.why_illegal]
            return len({id(kernel) for kernel in loaded})

    def _why_none(self, route: Route, call: Call) -> str:
        device = route.device.facts
        reasons = reasons_against(route.choices, call)
        is_backward = call.operation != FORWARD
        head = f"{self.package} has no kernel for this call on {device.title} (sm{device.sm}). {call}."
        if is_backward:
            head += (
                " An input requires a gradient, and this module has no backward kernel for the call; without gradients "
                "call it under torch.no_grad()."
            )
        # The architecture of the kernels that do run here, such as sm80's on a newer GPU; else the device's own.
        near = [*route.choices, *self.route(route.device.key).choices]
        running = {(one.kernel.sm, one.kernel.is_arch_specific) for one in near if one.image}
        sm, is_arch_specific = max(running, default=(device.sm, device.sm == 90))
        arch = f"sm{sm}{'a' if is_arch_specific else ''}"
        head_dim, head_dim_v = call.sizes["head_dim"], call.sizes["head_dim_v"]
        limit, kind = (MAX_BACKWARD_HEAD_DIM, "Backward kernels") if is_backward else (MAX_HEAD_DIM, "Kernels")
        for name, size in (("head_dim", head_dim), ("head_dim_v", head_dim_v)):
            if size > limit:
                return "\n".join([head, *reasons, f"{kind} are made for {name} up to {limit}, not {size}."])
        if head_dim_v > WHOLE_HEAD_DIM_V and head_dim_v % 16:
            words = f"Kernels are made for head_dim_v in multiples of 16 above {WHOLE_HEAD_DIM_V}, not {head_dim_v}."
            return "\n".join([head, *reasons, words])
        tiled = [one for one in route.choices if one.image and one.has_other_tile(call)]
        if tiled:
            tiles = sorted({tuple(int(str(one.kernel.schedule[name])) for name in call.multiples) for one in tiled})
            sizes = ", or ".join(f"block_q of {block_m} and block_k of {block_n}" for block_m, block_n in tiles)
            return "\n".join(
                [head, *reasons, f"Make the block mask of blocks that tiles divide: multiples for {sizes}."]
            )
        add = ["gen", "build", "--arch", arch, "--head-dim", str(head_dim)]
        add += ["--head-dim-v", str(head_dim_v)] if head_dim_v != head_dim else []
        add += ["--dtype", call.dtype, "--features", ",".join(feature_names(call.flags)) or "none"]
        add += ["--backward"] if is_backward else []
        return "\n".join([head, *reasons, "Build one:", " ".join(add)])

    def report(self) -> dict[str, object]:
        """Return the emulator's report on this thread's last launch; empty where there is none."""
        device = self._devices.get(CPU_KEY)
        text = device.driver.report() if device else ""
        return dict(json.loads(text)) if text else {}


def reasons_against(choices: Sequence[Candidate], call: Call, limit: int = 8) -> list[str]:
    """Return one line per variant that does not answer, those that come nearest first."""

    def nearness(one: Candidate) -> int:
        wanted = {**call.flags, **call.sizes, "dtype": call.dtype}
        return sum(wanted.get(name) == value for name, value in one.kernel.problem.items())

    lines: dict[str, str] = {}
    for one in sorted(choices, key=nearness, reverse=True):
        reason = one.why_unfit(call)
        if reason:
            lines.setdefault(one.kernel.name, f"  {one.kernel.name} {reason}.")
    shown = list(lines.values())
    return shown[:limit] + ([f"  and {len(shown) - limit} more."] if len(shown) > limit else [])
