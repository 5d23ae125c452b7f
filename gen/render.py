"""Variants to CUDA text. The only place where jinja2 is used."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jinja2

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings, struct_fields
from kernelwright.gen.layout import tile_layouts
from kernelwright.gen.spec import OPERATION, Variant
from kernelwright.gen.visibility import visibility

TEMPLATE = "flash_fwd_mma.cu.jinja"


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
    layouts = tile_layouts(variant)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            header=header,
            entry=variant.name,
            problem=variant.problem,
            schedule=variant.schedule,
            layouts={"qk": layouts.qk.arguments, "v": layouts.v.arguments},
            visibility=visibility(variant.problem),
            params={"struct": "FlashFwdParams", "fields": struct_fields(bindings()[OPERATION])},
        )
    )
