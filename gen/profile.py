"""Build profiles: which problems a module answers (configs/profiles/*.yaml)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelwright import resource_dir
from kernelwright.gen.errors import ConfigError, SpecError
from kernelwright.gen.schema import Node, read_yaml
from kernelwright.gen.spec import DTYPES, FEATURES, Dtype, ForwardProblem, backward_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named list of problems without repetition. `trained`: those of them that get the backward kernels too."""

    name: str
    problems: tuple[ForwardProblem, ...]
    trained: frozenset[ForwardProblem] = frozenset()

    def restricted(
        self,
        head_dims: list[int] | None,
        dtypes: list[Dtype] | None,
        head_dim_v: int | None = None,
        features: list[str] | None = None,
        *,
        backward: bool = False,
    ) -> Profile:
        """Return the profile for other head dimensions, dtypes or features, each problem's other choices kept.

        Args:
            head_dim_v: None is that of the profile, or head_dim where that is changed.
            features: of FEATURES, in place of each problem's own; empty is none.
            backward: whether every problem gets the backward kernels too; else those of the profile that do.

        Raises:
            SpecError: if a choice makes no problem.
        """
        unknown = sorted(set(features or []) - set(FEATURES))
        if unknown:
            raise SpecError(f"feature {unknown[0]!r}: unknown; known: {', '.join(FEATURES)}, or none")
        flags = {} if features is None else {flag: name in features for name, flag in FEATURES.items()}
        changed = [
            (
                problem in self.trained or backward,
                replace(
                    problem,
                    dtype=dtype,
                    head_dim=head_dim,
                    head_dim_v=head_dim_v or (problem.head_dim_v if head_dims is None else head_dim),
                    **flags,
                ),
            )
            for problem in self.problems
            for head_dim in (head_dims or [problem.head_dim])
            for dtype in (dtypes or [problem.dtype])
        ]
        return _profile(self.name, changed)


def _profile(name: str, problems: list[tuple[bool, ForwardProblem]]) -> Profile:
    """Return a profile of problems, each with whether it gets the backward kernels; said twice, it does if either does.

    Raises:
        SpecError: if there is no backward kernel of a problem that is to get one.
    """
    trained = frozenset(problem for is_trained, problem in problems if is_trained)
    for _, problem in problems:
        if problem in trained and (fault := backward_fault(problem)):
            raise SpecError(fault)
    return Profile(name=name, problems=tuple(dict.fromkeys(problem for _, problem in problems)), trained=trained)


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
    return _profile(path.stem, [one for row in rows for one in _problems(row)])


def _problems(row: Node) -> list[tuple[bool, ForwardProblem]]:
    """Every combination of a row's choices and whether it is trained; a flag that the row does not name is off."""
    choices = row.mapping(["dtype", "head_dim"], ["head_dim_v", *FEATURES.values(), "backward"])
    is_trained = "backward" in choices and choices["backward"].boolean()
    dtypes: list[Dtype] = ["bf16" if node.text(DTYPES) == "bf16" else "fp16" for node in choices["dtype"].one_or_more()]
    values: dict[str, list[Any]] = {"head_dim": [node.integer() for node in choices["head_dim"].one_or_more()]}
    if "head_dim_v" in choices:
        values["head_dim_v"] = [node.integer() for node in choices["head_dim_v"].one_or_more()]
    values |= {
        name: [node.boolean() for node in choices[name].one_or_more()] for name in FEATURES.values() if name in choices
    }
    try:
        found = [
            (is_trained, ForwardProblem(dtype=dtype, **dict(zip(values, chosen, strict=True))))
            for dtype in dtypes
            for chosen in itertools.product(*values.values())
        ]
        _profile("", found)
        return found
    except SpecError as error:
        raise row.fail(str(error)) from error
