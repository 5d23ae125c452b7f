"""The text of `build.ninja`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_LINE = "# Written by gen build. Do not edit."


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Target:
    """One kernel to compile: `src/<variant>.cu` for the architecture `target` (`80`, `90a`)."""

    variant: str
    target: str


def ninja_text(targets: Sequence[Target], python: str, package_root: str, settings_digest: str) -> str:
    """Return the build file of `targets`; paths of inputs and outputs are relative to its folder.

    Args:
        targets: in any order.
        python: the interpreter that runs the compile script.
        package_root: the folder that `kernelwright` is imported from.
        settings_digest: changes when the compiler or its flags do, and so rebuilds everything.
    """
    command = [
        f"PYTHONPATH={shlex.quote(package_root)}",
        shlex.quote(python),
        "-P -S -s -m kernelwright.build.compile_kernel",
        "$variant $target",
        settings_digest,
    ]
    lines = [
        FIRST_LINE,
        "ninja_required_version = 1.10",
        "",
        "rule kernel",
        f"  command = {' '.join(_escape(part) for part in command)}",
        "  depfile = obj/$variant.d",
        "  deps = gcc",
        "  restat = 1",
        "  description = nvcc $variant",
    ]
    for target in sorted(set(targets)):
        name = target.variant
        lines += [
            "",
            f"build obj/{name}.json | obj/{name}.ptx obj/{name}.cubin: kernel src/{name}.cu",
            f"  variant = {name}",
            f"  target = {target.target}",
        ]
    return "\n".join(lines) + "\n"


def _escape(part: str) -> str:
    """Escape what ninja would expand, except our own two variables."""
    return part if part == "$variant $target" else part.replace("$", "$$")
