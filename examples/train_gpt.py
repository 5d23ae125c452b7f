"""Train a small GPT on a text, byte by byte: once on a built module's kernels, once on torch's attention, same seeds.

    gen build --arch sm80 --profile examples/train_gpt_kernels.yaml
    python examples/train_gpt.py --module flash_sm80 --path out

On a GPU it trains 12 layers; without one a tiny model in the emulator, in a minute or two. Both runs have the same
weights, text and learning rates, so their losses may differ by rounding alone. How much that is a third run says: torch
once more with everything in float32 (with dropout, which draws other numbers here and there: with another seed of
it). It passes when kernels and torch are no further apart than twice that noise (with dropout three times), root mean
square over the steps. A fault smaller than that is for `check_model` of the module to find.

Writes checkpoints, losses (result.json) and a plot (loss.png, or loss.svg without matplotlib) to --out. Ctrl-C ends
after the step it is in and keeps a checkpoint; --resume goes on from there, bit for bit. Exit status: 0 passed,
1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from train_gpt_config import Config, ConfigError, read_config
from train_gpt_model import GPT, Text, make_block_mask, mixed_seed
from train_gpt_plot import plot_losses

HERE = Path(__file__).resolve().parent
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
ROUNDING_FACTOR, DROPOUT_FACTOR = 2.0, 3.0
"""Times the noise that kernels and torch may be apart; two draws of dropout are, themselves, now more, now less so."""

LEAST_NOISE = 1e-5  # nats: a few roundings of a loss in float32
ANOTHER_SEED = 1 << 20  # above every seed of a configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of the runs: whose attention, in what dtype (None: float32), and what dropout draws from."""

    name: str
    use_flash: bool
    dtype: torch.dtype | None
    dropout_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run gave; `exam` is its loss on text it has not seen."""

    name: str
    losses: list[float]
    exam: float
    seconds: float
    peak_bytes: int | None
    time_label: str


class Interrupted(Exception):
    """Ctrl-C was pressed, and a checkpoint is written."""


class Interrupt:
    """Notes the first Ctrl-C, so that a step is finished; the second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("\nending after this step; once more to end at once")


def kinds_of(config: Config) -> list[Kind]:
    """The runs of a configuration: kernels, torch, and what shows the noise; or torch alone."""
    dtype, seed = DTYPES[config.training.dtype], config.training.seed
    torch_run = Kind(name="torch", use_flash=False, dtype=dtype, dropout_seed=seed)
    if not config.attention.use_flash_attention:
        return [torch_run]
    if config.model.dropout:
        noise = Kind(
            name="torch, another seed of dropout", use_flash=False, dtype=dtype, dropout_seed=seed ^ ANOTHER_SEED
        )
    else:
        noise = Kind(name="torch, float32", use_flash=False, dtype=None, dropout_seed=seed)
    return [Kind(name="kernels", use_flash=True, dtype=dtype, dropout_seed=seed), torch_run, noise]


class Trainer:
    """One run, from its first step or from a checkpoint."""

    def __init__(self, kind: Kind, config: Config, module: ModuleType, text: Text, device: str, folder: Path) -> None:
        self.kind, self.config, self.text, self.device = kind, config, text, device
        self.file = folder / f"{kind.name.replace(', ', '_').replace(' ', '_')}.pt"
        self.model = GPT(config, module.nn).to(device)
        self.model.use_flash(kind.use_flash)
        self.mask = make_block_mask(config, module, device)
        matrices = [one for one in self.model.parameters() if one.dim() == 2]
        others = [one for one in self.model.parameters() if one.dim() != 2]
        decay = config.training.weight_decay
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.training.learning_rate, betas=(0.9, 0.95))
        # Small numbers of float16 would vanish; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device, enabled=kind.dtype == torch.float16)
        self.losses: list[float] = []
        self.seconds = 0.0
        self.peak_bytes: int | None = None

    def train(self, interrupt: Interrupt) -> Result:
        """Go through the steps that are left.

        Raises:
            Interrupted: after Ctrl-C, with a checkpoint written.
        """
        one = self.config.training
        self.model.train()
        while len(self.losses) < one.steps:
            start = time.perf_counter()
            self.losses.append(self._step(len(self.losses)))
            self.seconds += time.perf_counter() - start
            done = len(self.losses)
            if done % 10 == 0 or done == one.steps:
                say(f"{self.kind.name}: step {done} of {one.steps}, loss {self.losses[-1]:.4f}, {self.seconds:.1f} s")
            if done % one.save_every == 0 or done == one.steps or interrupt.asked:
                self._save()
            if interrupt.asked:
                raise Interrupted(f"{self.kind.name} stopped after step {done}. Go on with --resume.")
        return Result(
            name=self.kind.name,
            losses=self.losses,
            exam=self._exam(),
            seconds=self.seconds,
            peak_bytes=self.peak_bytes,
            time_label="emulated: says nothing of a GPU" if self._is_emulated else "measured",
        )

    @property
    def _is_emulated(self) -> bool:
        return self.kind.use_flash and self.device == "cpu"

    def _step(self, step: int) -> float:
        """One step of the optimizer; return the mean loss of its forward passes."""
        one = self.config.training
        torch.manual_seed(
            mixed_seed(self.kind.dropout_seed, step)
        )  # of the step alone, so that resuming changes nothing
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        total = torch.zeros((), device=self.device)
        for part in range(one.accumulate):
            loss = self._loss(self.text.pieces(step, part)) / one.accumulate
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), one.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        found = float(total)  # waits for a GPU
        if self.device == "cuda":
            self.peak_bytes = max(self.peak_bytes or 0, torch.cuda.max_memory_allocated())
        if not math.isfinite(found):
            raise FloatingPointError(f"{self.kind.name}: the loss of step {step + 1} is {found}")
        return found

    def _loss(self, pieces: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=self.kind.dtype, enabled=self.kind.dtype is not None):
            loss: torch.Tensor = self.model(pieces, self.mask)
        return loss

    def _exam(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return float(self._loss(self.text.exam()))

    # ------------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        """Write a checkpoint by one rename, so that there is always a whole one."""
        state = {
            "config": stored_config(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
        }
        written = self.file.with_suffix(".tmp")
        torch.save(state, written)
        written.replace(self.file)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            ConfigError: if it was made by another configuration, or cannot be read.
        """
        if not self.file.exists():
            return
        try:
            state: dict[str, Any] = torch.load(
                self.file, map_location=self.device, weights_only=True
            )  # Any: of any kind
        except Exception as error:  # of whatever kind torch.load has for a damaged file
            raise self._damaged(error) from error
        if not isinstance(state, dict) or state.get("config") != stored_config(self.config):
            raise ConfigError(f"{self.file} is of another configuration. Choose another --out, or leave --resume away.")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.losses, self.seconds, self.peak_bytes = state["losses"], state["seconds"], state["peak_bytes"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        say(f"{self.kind.name}: goes on from step {len(self.losses)}")

    def _damaged(self, error: Exception) -> ConfigError:
        why = next(iter(str(error).splitlines()), "")  # torch writes paragraphs, or nothing
        found = f"{type(error).__name__}: {why}" if why else type(error).__name__
        return ConfigError(f"{self.file} cannot be read: {found}. Remove it, or leave --resume away.")


def stored_config(config: Config) -> str:
    """What a checkpoint must agree with: all but how often they are written."""
    values = asdict(config)
    del values["training"]["save_every"]
    return json.dumps(values, sort_keys=True)


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square of the differences of two loss curves, in nats."""
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))


def counted_memory(config: Config) -> dict[str, object]:
    """Bytes that attention holds from forward to backward, all layers of one forward pass, in closed form."""
    one = config.model
    tokens = config.training.batch * one.context * one.heads
    kept = one.layers * (4 * 2 * tokens * one.head_dim)  # q, k, v and the result, 2 bytes each
    return {
        "label": "counted",
        "kernels_bytes": kept + one.layers * 4 * tokens,  # and one float32 a row
        "scores_written_out_bytes": kept + one.layers * 2 * tokens * one.context,  # and all probabilities
    }


def measured_memory(config: Config, module: ModuleType, device: str) -> dict[str, object]:
    """Bytes of one layer's attention on a GPU, without projections: kept by the forward pass, and at most at once."""
    one = config.model
    dtype, sizes = DTYPES[config.training.dtype], (config.training.batch, one.context, one.heads, one.head_dim)
    q, k, v = (torch.randn(sizes, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "kernels": lambda: module.flash_attn_func(q, k, v, causal=True),
        "torch": lambda: torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True),
    }
    found: dict[str, object] = {"label": "measured"}
    for name, attend in ways.items():
        for _ in range(2):  # the first time loads kernels and workspaces
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            out = attend()
            kept = torch.cuda.memory_allocated() - before
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
            found[name] = {"kept_bytes": kept, "peak_bytes": torch.cuda.max_memory_allocated() - before}
            del out
    return found


def summary(config: Config, results: list[Result], device: str) -> dict[str, object]:
    """What was found, as plain data."""
    curves = {one.name: one.losses for one in results}
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "config": asdict(config),
        "runs": [asdict(one) for one in results],
        "attention_memory": counted_memory(config),
        "passed": True,
    }
    if len(results) == 3:
        ours, theirs, other = curves.values()
        factor = DROPOUT_FACTOR if config.model.dropout else ROUNDING_FACTOR
        difference, noise = apart(ours, theirs), max(apart(theirs, other), LEAST_NOISE)
        found |= {
            "difference": difference,
            "noise": noise,
            "noise_of": results[2].name,
            "noise_factor": factor,
            "passed": difference <= factor * noise,
        }
    return found


def report(found: dict[str, Any], config: Config, plot: Path) -> str:
    """The summary in words."""
    one = config.model
    size = f"{one.layers} layers, {one.heads} heads of {one.head_dim}, {one.context} bytes of context"
    lines = [f"{found['device']}: {size}, {config.training.steps} steps", ""]
    lines.append("run                               first    last  unseen text  ms a step  most memory")
    for run in found["runs"]:
        memory = "-" if run["peak_bytes"] is None else f"{run['peak_bytes'] / 2**20:,.0f} MiB"
        pace = 1e3 * run["seconds"] / len(run["losses"])
        label = "" if run["time_label"] == "measured" else f"  ({run['time_label']})"
        losses = f"{run['losses'][0]:8.4f}{run['losses'][-1]:8.4f}{run['exam']:13.4f}"
        lines.append(f"{run['name']:<31}{losses}{pace:11.1f}{memory:>13}{label}")
    held = found["attention_memory"]
    ours, full = held["kernels_bytes"] / 2**20, held["scores_written_out_bytes"] / 2**20
    lines += [
        "",
        f"attention holds {ours:,.2f} MiB from forward to backward, {full:,.2f} with its scores written out (counted)",
    ]
    if layer := found.get("attention_memory_of_a_layer"):
        parts = []
        for name in ("kernels", "torch"):
            kept, most = (layer[name][which] / 2**20 for which in ("kept_bytes", "peak_bytes"))
            parts.append(f"{kept:,.2f} MiB kept and {most:,.2f} at most by {name}")
        lines.append(f"attention of one layer, beside its inputs: {', '.join(parts)} (measured)")
    if "noise" in found:
        verdict = "within" if found["passed"] else "NOT within"
        lines.append(
            f"kernels and torch are {found['difference']:.2e} nats apart (root mean square over the steps), {verdict} "
            f"{found['noise_factor']:g}x the noise: {found['noise']:.2e}, between torch and {found['noise_of']}"
        )
    return "\n".join([*lines, f"plot: {plot}"])


def say(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def load(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder.resolve()))
    command = "gen build --arch sm80 --profile examples/train_gpt_kernels.yaml"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"There is no module {name} in {folder}. Make one: {command}") from error
    if not hasattr(module, "EmulationWarning"):
        raise ConfigError(f"--module {name}: {module.__file__} is no built module. Make one: {command}")
    return module


def open_folder(folder: Path) -> None:
    """Make the folder for results, and see that files can be written there before hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}. Choose a folder that can be written.") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=HERE / "train_gpt.yaml", help="default: the one beside this file"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as training.steps=10")
    parser.add_argument("--module", default="flash_sm80", help="the built module (default: %(default)s)")
    parser.add_argument("--path", type=Path, default=Path("out"), help="folder it lies in (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/train_gpt"), help="for results (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args()


def read_text(config: Config, path: Path, device: str) -> Text:
    file = path.parent / config.training.text
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"$.training.text: {file}: {error.strerror}") from error
    if len(data) < 10 * (config.model.context + 1):
        raise ConfigError(
            f"$.training.text: {file} has {len(data):,} bytes; a tenth is held back and must hold $.model.context + 1, "
            f"{config.model.context + 1}"
        )
    return Text(data, config, device)


def main() -> int:
    args = parse_arguments()
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: torch finds no GPU here. Leave it away, or say --device cpu.")
        config = read_config(args.config, args.set, on_gpu=args.device == "cuda")
        text = read_text(config, args.config, args.device)
        module = load(args.module, args.path)
        open_folder(args.out)
    except ConfigError as error:
        say(str(error))
        return 2
    warnings.simplefilter("ignore", module.EmulationWarning)  # the report says it
    if args.device == "cpu":
        torch.set_num_threads(1)  # tensors are small: threads cost more than they bring
    interrupt = Interrupt()
    results = []
    try:
        for kind in kinds_of(config):
            trainer = Trainer(kind, config, module, text, args.device, args.out)
            if args.resume:
                trainer.resume()
            results.append(trainer.train(interrupt))
    except ConfigError as error:
        say(str(error))
        return 2
    except Interrupted as stopped:
        say(str(stopped))
        return 130
    except (module.KernelError, FloatingPointError) as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    found = summary(config, results, args.device)
    plot = plot_losses({one.name: one.losses for one in results}, "A small GPT, byte by byte", args.out)
    found["plot"] = plot.name
    if args.device == "cuda" and config.attention.use_flash_attention:
        found["attention_memory_of_a_layer"] = measured_memory(config, module, args.device)
    written = args.out / "result.tmp"
    written.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    written.replace(args.out / "result.json")
    print(json.dumps(found) if args.json else report(found, config, plot))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)  # asked twice: leave whatever is running
