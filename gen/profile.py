"""Build profiles: which problems a module answers (configs/profiles/*.yaml)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from kernelwright import resource_dir
from kernelwright.gen.errors import ConfigError, SpecError
from kernelwright.gen.schema import Node, read_yaml
from kernelwright.gen.spec import DTYPES, Dtype, ForwardProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named list of problems without repetition."""

    name: str
    problems: tuple[ForwardProblem, ...]

    def restricted(self, head_dims: list[int] | None, dtypes: list[Dtype] | None) -> Profile:
        """Return the profile for other head dimensions or dtypes, each problem's other choices kept.

        Raises:
            SpecError: if a head dimension or dtype makes no problem.
        """
        changed = [
            ForwardProblem(dtype=dtype, head_dim=head_dim, is_causal=problem.is_causal)
            for problem in self.problems
            for head_dim in (head_dims or [problem.head_dim])
            for dtype in (dtypes or [problem.dtype])
        ]
        return Profile(name=self.name, problems=tuple(dict.fromkeys(changed)))


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the project."""
    return sorted(path.stem for path in (resource_dir("configs") / "profiles").glob("*.yaml"))


def load_profile(name_or_file: str) -> Profile:
    """Read a profile by name or by path.

    Raises:
        ConfigError: if there is none, or its file has a fault.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = resource_dir("configs") / "profiles" / f"{name_or_file}.yaml"
        if name_or_file not in profile_names():
            raise ConfigError(
                f"profile {name_or_file!r}: unknown; known: {', '.join(profile_names())}, or a path ending in .yaml"
            )
    root = read_yaml(path, schema=1)
    rows = root.mapping(["schema", "problems"])["problems"].items()
    problems = [problem for row in rows for problem in _problems(row)]
    return Profile(name=path.stem, problems=tuple(dict.fromkeys(problems)))


def _problems(row: Node) -> list[ForwardProblem]:
    choices = row.mapping(["dtype", "head_dim", "is_causal"])
    dtypes: list[Dtype] = ["bf16" if node.text(DTYPES) == "bf16" else "fp16" for node in choices["dtype"].one_or_more()]
    head_dims = [node.integer() for node in choices["head_dim"].one_or_more()]
    masks = [node.boolean() for node in choices["is_causal"].one_or_more()]
    try:
        return [
            ForwardProblem(dtype=dtype, head_dim=head_dim, is_causal=is_causal)
            for dtype, head_dim, is_causal in itertools.product(dtypes, head_dims, masks)
        ]
    except SpecError as error:
        raise row.fail(str(error)) from error
