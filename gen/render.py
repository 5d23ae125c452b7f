"""Variants to CUDA text. The only place where jinja2 is used."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import jinja2

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings, struct_fields
from kernelwright.gen.errors import SpecError
from kernelwright.gen.layout import tile_layout
from kernelwright.gen.spec import OPERATION, Variant

TEMPLATE = "flash_fwd_mma.cu.jinja"
_INCLUDE = re.compile(rb'^\s*#include\s+"([^"]+)"', re.MULTILINE)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_dir("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def include_dir() -> Path:
    """Return the folder that nvcc finds our headers in."""
    return resource_dir("templates") / "include"


def render(variant: Variant) -> str:
    """Return the CUDA source of a variant: the same bytes for the same variant, always."""
    spec = json.dumps(variant.to_dict(), sort_keys=True)
    header = "\n".join(
        [
            f"// {variant.name}",
            f"// Generated from templates/{TEMPLATE}. Do not edit: change the template or the spec.",
            f"// Spec: {spec}",
            f"// Regenerate: gen show {variant.name}",
            "// SPDX-License-Identifier: Apache-2.0",
        ]
    )
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            header=header,
            entry=variant.name,
            problem=variant.problem,
            schedule=variant.schedule,
            layout=tile_layout(variant),
            params={"struct": "FlashFwdParams", "fields": struct_fields(bindings()[OPERATION])},
        )
    )


def included_headers(source: str) -> dict[str, bytes]:
    """Return the headers that a rendered source includes, directly or not, by name, sorted.

    Raises:
        SpecError: if one does not exist.
    """
    found: dict[str, bytes] = {}
    queue = [source.encode()]
    while queue:
        for match in _INCLUDE.findall(queue.pop()):
            name = match.decode()
            if name in found:
                continue
            path = include_dir() / name
            if not path.is_file():
                raise SpecError(f'#include "{name}": no such file in templates/include')
            found[name] = path.read_bytes()
            queue.append(found[name])
    return dict(sorted(found.items()))
