"""The commands of a dispatch module. Results on stdout, progress on stderr; exit 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence

from .errors import KernelError
from .module import DispatchModule


def main(module: DispatchModule, arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser(module.engine.package).parse_args(arguments)
    try:
        status = int(options.run(module, options))
        sys.stdout.flush()
        return status
    except KernelError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        return 0
    except OSError as error:
        print(error, file=sys.stderr)
        _drop_output()
        return 1


def _drop_output() -> None:
    """Keep the interpreter from failing again as it ends, when it writes what stdout did not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 999999999, got {text[:40]!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"must be a whole number of at most 18 digits, got {text[:40]!r}")
    return int(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


def _parser(package: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    support = commands.add_parser("support", help="list the kernels and how each was verified")
    support.add_argument("--json", action="store_true", help="print plain data")
    support.set_defaults(run=_support)

    check = commands.add_parser("check", help="compare every kernel with a float64 reference")
    check.add_argument(
        "--device", type=_device, default=None, help="cpu (the emulator) or cuda; default: cuda where there is one"
    )
    check.add_argument("--problems", type=_positive, default=12, metavar="N", help="problems per kernel (default 12)")
    check.add_argument("--seed", type=_seed, default=0, help="of the random inputs (default 0)")
    check.add_argument("--variant", action="append", default=None, metavar="NAME", help="only this kernel; repeatable")
    check.add_argument("--json", action="store_true", help="print plain data")
    check.set_defaults(run=_check)

    bench = commands.add_parser("bench", help="time the kernels beside torch's scaled_dot_product_attention")
    bench.add_argument("--device", type=_device, default="cuda", help="which GPU (default cuda)")
    bench.add_argument("--seqlen", type=_positive, nargs="+", default=[512, 2048, 8192], help="lengths to time")
    bench.add_argument("--json", action="store_true", help="print plain data")
    bench.set_defaults(run=_bench)
    return parser


def _support(module: DispatchModule, options: argparse.Namespace) -> int:
    found = module.support(json=options.json)
    if options.json:
        print(json.dumps(found, indent=1))
    return 0


def _check(module: DispatchModule, options: argparse.Namespace) -> int:
    from .check import check_module

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result = check_module(
        module,
        problems=options.problems,
        device=options.device,
        seed=options.seed,
        variants=options.variant,
        progress=progress,
    )
    print(json.dumps(result.to_dict(), indent=1) if options.json else result)
    return 0 if result.passed else 1


def _bench(module: DispatchModule, options: argparse.Namespace) -> int:
    from .bench import bench_module, why_no_gpu

    reason = why_no_gpu()
    if reason:
        print(f"bench needs an NVIDIA GPU: {reason}. Nothing was measured.", file=sys.stderr)
        return 1
    rows = bench_module(module, device=options.device, seqlens=options.seqlen)
    print(json.dumps([row.to_dict() for row in rows], indent=1) if options.json else "\n".join(map(str, rows)))
    return 0
