"""A stand-in for nvcc and ptxas, so that most tests of the builder need neither and take no time.

    python fake_nvcc.py nvcc|ptxas ARGUMENTS...

Compiles as nvcc does as far as the builder can tell: reads the source and its headers, writes PTX, a depfile and
a cubin that depend on them. Told by the environment to misbehave:

    FAKE_FAIL=text      nvcc refuses a source that contains the text, as at its line
    FAKE_SLEEP=seconds  nvcc takes this long for a kernel
    FAKE_LOG=file       one line for each kernel is appended
    FAKE_BROKEN=nvcc|ptxas   that tool fails whatever it is asked
    FAKE_SPILL=bytes    ptxas reports so many bytes of spill stores
    FAKE_VERSION=x.y.z  what both say they are
"""

import hashlib
import os
import re
import sys
import time
from pathlib import Path

VERSION = os.environ.get("FAKE_VERSION", "13.0.88")


def option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def nvcc(arguments: list[str]) -> int:
    source = Path(next(word for word in arguments if word.endswith(".cu")))
    text = source.read_text()
    is_kernel = source.stem != "probe"
    log = os.environ.get("FAKE_LOG")
    if log and is_kernel:
        with Path(log).open("a") as stream:
            stream.write(f"{source.name}\n")
    time.sleep(float(os.environ.get("FAKE_SLEEP", "0")) * is_kernel)
    if fail := os.environ.get("FAKE_FAIL"):
        for number, line in enumerate(text.splitlines(), 1):
            if fail in line:
                print(f'{source}({number}): error: identifier "{fail}" is undefined\n  {line}\n  ^\n')
                print(f'1 error detected in the compilation of "{source}".')
                return 2
    include = Path(option(arguments, "-I") or ".")
    headers = sorted({include / name for name in re.findall(r'#include "([^"]+)"', text)})
    digest = hashlib.sha256(text.encode())
    for header in headers:
        digest.update(header.read_bytes())
    arch = next(word for word in arguments if word.startswith("-arch="))
    ptx = f"// Compiler Build ID: CL-1\n// Cuda compilation tools, release 13.0, V{VERSION}\n// {arch}\n"
    if "-lineinfo" in arguments:
        ptx += f'\t.file\t1 "{source.resolve()}"\n'
    ptx += (
        f".version 9.0\n.visible .entry {source.stem}() // {digest.hexdigest()}\n" + "// padding\n" * 2000 * is_kernel
    )
    if depfile := option(arguments, "-MF"):
        Path(depfile).write_text(f"x : {source} \\\n    " + " \\\n    ".join(map(str, headers)) + "\n")
    Path(option(arguments, "-o") or "").write_text(ptx)
    return 0


def ptxas(arguments: list[str]) -> int:
    source = Path(next(word for word in arguments if word.endswith(".ptx")))
    ptx = source.read_text()
    entry = re.search(r"\.entry (\w+)", ptx)
    spill = os.environ.get("FAKE_SPILL", "0")
    print(
        f"ptxas info    : Compiling entry function '{entry[1] if entry else 'probe'}' for 'sm_80'\n"
        f"    0 bytes stack frame, {spill} bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem, 368 bytes cmem[0]"
    )
    cubin = b"\x7fELF" + hashlib.sha256(ptx.encode()).digest() * (512 if entry else 1)
    Path(option(arguments, "-o") or "").write_bytes(cubin)
    return 0


def main() -> int:
    tool, *arguments = sys.argv[1:]
    if os.environ.get("FAKE_BROKEN") == tool and "--version" not in arguments:
        print(f"{tool} fatal   : Unsupported .version 9.5; current version is '9.0'")
        return 255
    if "--version" in arguments:
        print(f"Cuda compilation tools, release 13.0, V{VERSION}")
        return 0
    return nvcc(arguments) if tool == "nvcc" else ptxas(arguments)


sys.exit(main())
