"""The configuration of train_gpt.py: what each key is, what it may be, and where a fault lies."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

SCHEMA = 1
DTYPES = ("bf16", "fp16")


class ConfigError(ValueError):
    """A fault of the configuration, named by its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    layers: int
    heads: int
    head_dim: int
    context: int
    dropout: float

    def faults(self) -> list[str]:
        return [
            *_from_one(self, "layers", "heads", "head_dim", "context"),
            *_said(0 <= self.dropout < 1, "dropout", "from 0 to below 1", self.dropout),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    use_flash_attention: bool
    block_size: int

    def faults(self) -> list[str]:
        fits = self.block_size >= 0 and self.block_size % 32 == 0
        return _said(fits, "block_size", "0, or a multiple of 32 (and of the kernel's tile)", self.block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    text: str
    steps: int
    batch: int
    accumulate: int
    learning_rate: float
    min_learning_rate: float
    warmup: int
    weight_decay: float
    clip: float
    dtype: str
    seed: int
    save_every: int

    def faults(self) -> list[str]:
        return [
            *_from_one(self, "steps", "batch", "accumulate", "save_every"),
            *_said(self.learning_rate > 0, "learning_rate", "positive", self.learning_rate),
            *_said(
                0 <= self.min_learning_rate <= self.learning_rate,
                "min_learning_rate",
                "from 0 to learning_rate",
                self.min_learning_rate,
            ),
            *_said(0 <= self.warmup < self.steps, "warmup", "from 0 to below steps", self.warmup),
            *_said(self.weight_decay >= 0, "weight_decay", "0 or more", self.weight_decay),
            *_said(self.clip > 0, "clip", "positive", self.clip),
            *_said(self.dtype in DTYPES, "dtype", " or ".join(DTYPES), self.dtype),
            *_said(0 <= self.seed < 2**20, "seed", "from 0 to below 2^20", self.seed),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration, checked."""

    model: ModelConfig
    attention: AttentionConfig
    training: TrainingConfig

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: a straight line up to the largest, then half a cosine down."""
        one = self.training
        if step < one.warmup:
            return one.learning_rate * (step + 1) / one.warmup
        done = (step - one.warmup) / max(1, one.steps - 1 - one.warmup)
        return one.min_learning_rate + (one.learning_rate - one.min_learning_rate) * (1 + math.cos(math.pi * done)) / 2


SECTIONS: dict[str, type[Any]] = {"model": ModelConfig, "attention": AttentionConfig, "training": TrainingConfig}


def read_config(path: Path, changes: Sequence[str] = (), *, on_gpu: bool) -> Config:
    """Read a file and apply changes of the form `training.steps=10`.

    Raises:
        ConfigError: naming every fault by its path.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    faults: list[str] = []
    top = _mapping(data, "$", ("schema", *SECTIONS, "on_gpu"), faults)
    if top.get("schema") != SCHEMA:
        faults.append(f"$.schema must be {SCHEMA}, got {top.get('schema')!r}")
    gpu = _mapping(top.get("on_gpu", {}), "$.on_gpu", tuple(SECTIONS), faults)
    values: dict[str, dict[str, object]] = {}
    for name, kind in SECTIONS.items():
        names = tuple(one.name for one in fields(kind))
        values[name] = _mapping(top.get(name, {}), f"$.{name}", names, faults)
        special = _mapping(gpu.get(name, {}), f"$.on_gpu.{name}", names, faults)
        values[name] |= special if on_gpu else {}
    _apply(changes, values, faults)
    made = {name: _section(name, kind, values[name], faults) for name, kind in SECTIONS.items()}
    if faults:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return Config(**made)


def _apply(changes: Sequence[str], values: dict[str, dict[str, object]], faults: list[str]) -> None:
    for change in changes:
        name, equals, text = change.partition("=")
        section, _, key = name.partition(".")
        if not equals or section not in SECTIONS or not key:
            faults.append(f"--set {change}: not of the form SECTION.KEY=VALUE, with one of {', '.join(SECTIONS)}")
            continue
        known = tuple(one.name for one in fields(SECTIONS[section]))
        try:
            values[section] |= _mapping({key: yaml.safe_load(text)}, f"--set {section}", known, faults)
        except yaml.YAMLError:
            faults.append(f"--set {change}: not a value")


def _mapping(data: object, path: str, known: tuple[str, ...], faults: list[str]) -> dict[str, object]:
    if not isinstance(data, Mapping):
        faults.append(f"{path} must be a mapping of {', '.join(known)}, got {data!r}")
        return {}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            faults.append(f"{path}.{key} is unknown{hint}")
    return {str(key): value for key, value in data.items() if key in known}


def _section(
    name: str, kind: type[Any], values: Mapping[str, object], faults: list[str]
) -> Any:  # Any: one of SECTIONS
    typed: dict[str, object] = {}
    before = len(faults)
    for one in fields(kind):
        path = f"$.{name}.{one.name}"
        if one.name not in values:
            faults.append(f"{path} is missing")
            continue
        value = values[one.name]
        if one.type == "float":
            value = _as_float(value)
        wanted = {"int": int, "float": float, "bool": bool, "str": str}[str(one.type)]
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):  # type: ignore[arg-type]
            faults.append(f"{path} must be {_WORDS[wanted]}, got {value!r}")
            continue
        typed[one.name] = value
    if len(faults) > before:
        return None
    made = kind(**typed)
    faults.extend(f"$.{name}.{fault}" for fault in made.faults())
    return made


def _as_float(value: object) -> object:
    """Whole numbers too, and `3e-4`, which YAML reads as text for want of a point."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    return value


_WORDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _from_one(section: object, *names: str) -> list[str]:
    return [
        fault
        for name in names
        for fault in _said(getattr(section, name) >= 1, name, "1 or more", getattr(section, name))
    ]


def _said(is_right: bool, name: str, allowed: str, found: object) -> list[str]:
    return [] if is_right else [f"{name} must be {allowed}, got {found!r}"]
