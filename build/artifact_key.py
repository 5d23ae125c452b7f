"""The content address of a compiled kernel. Standard library only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def scan_headers(source: str, include_dir: Path) -> dict[str, bytes]:
    """Return the content of every header that `source` includes with quotes, directly or through another.

    Headers that `include_dir` does not hold are the toolkit's and covered by the compiler's version. Both
    branches of an `#if` are followed: a header too many costs a recompilation, one too few a wrong kernel.
    """
    found: dict[str, bytes] = {}
    pending = list(reversed(_INCLUDE.findall(source)))
    while pending:
        name = pending.pop()
        path = include_dir / name
        if name in found or not path.is_file():
            continue
        found[name] = path.read_bytes()
        pending.extend(reversed(_INCLUDE.findall(found[name].decode())))
    return found


def artifact_key(
    source: str,
    headers: Mapping[str, bytes],
    target: str,
    flags: Sequence[str],
    compiler: str,
    generator: str,
) -> str:
    """Return the key of a kernel: what decides its bytes, and nothing about where it was made.

    Args:
        source: the rendered CUDA.
        headers: content by name, as `scan_headers` returns it.
        target: the architecture as the compiler spells it, such as `80` or `90a`.
        flags: compiler flags, in order.
        compiler: `Toolchain.identity`, which holds versions and no paths.
        generator: version of the code that drives the compiler.
    """
    parts = {
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "headers": {name: hashlib.sha256(data).hexdigest() for name, data in headers.items()},
        "target": target,
        "flags": list(flags),
        "compiler": compiler,
        "generator": generator,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
