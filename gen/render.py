"""Variants to CUDA text. The only place where jinja2 is used."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jinja2

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings, struct_fields
from kernelwright.gen.layout import tile_layouts
from kernelwright.gen.spec import Variant
from kernelwright.gen.visibility import visibility

TEMPLATES = {
    "flash_fwd": ("flash_fwd_mma.cu.jinja", "FlashFwdParams"),
    "flash_bwd": ("flash_bwd_mma.cu.jinja", "FlashBwdParams"),
    "flash_bwd_dq": ("flash_bwd_dq_mma.cu.jinja", "FlashBwdDqParams"),
    "flash_bwd_delta": ("flash_bwd_delta.cu.jinja", "FlashBwdDeltaParams"),
    "flash_bwd_convert": ("flash_bwd_convert.cu.jinja", "FlashBwdConvertParams"),
}
"""The template of each operation and the name of its parameter struct."""


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
    template, struct = TEMPLATES[variant.operation]
    spec = json.dumps(variant.to_dict(), sort_keys=True)
    header = "\n".join(
        [
            f"// {variant.name}",
            f"// Generated from templates/{template}. Do not edit: change the template or the spec.",
            f"// Spec: {spec}",
            f"// Regenerate: gen show {variant.name}",
            "// SPDX-License-Identifier: Apache-2.0",
        ]
    )
    return (
        _environment()
        .get_template(template)
        .render(
            header=header,
            entry=variant.name,
            problem=variant.problem,
            schedule=variant.schedule,
            layouts={name: layout.arguments for name, layout in tile_layouts(variant).items()},
            visibility=visibility(variant.problem),
            params={"struct": struct, "fields": struct_fields(bindings()[variant.operation])},
        )
    )
