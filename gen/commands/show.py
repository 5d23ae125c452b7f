"""`gen show`: the CUDA source of one variant."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from kernelwright.gen.commands.common import UsageError, print_json
from kernelwright.gen.errors import SpecError

if TYPE_CHECKING:
    from kernelwright.gen.spec import Variant

HELP = "Print the CUDA source of a variant."
_MOST_SHOWN = 12
_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("variant", metavar="VARIANT", help="a variant's name, or a part of only one name of a profile")


def run(args: argparse.Namespace) -> int:
    """Print the source."""
    from kernelwright.gen.constraints import reasons_against
    from kernelwright.gen.devices import reference_device
    from kernelwright.gen.render import render

    variant = find_variant(args.variant)
    for _rule, reason in reasons_against(variant, reference_device(variant.sm)):
        _log.warning("%s", reason)
    source = render(variant)
    if args.json:
        print_json({"variant": variant.name, **variant.to_dict(), "source": source})
    else:
        sys.stdout.write(source)
    return 0


def find_variant(text: str) -> Variant:
    """Return the variant with this name, or the only one of the profiles whose name contains `text`.

    Raises:
        UsageError: if there is none, or more than one.
    """
    from kernelwright.gen.devices import SUPPORTED_SMS
    from kernelwright.gen.plan import make_plan
    from kernelwright.gen.profile import load_profile, profile_names
    from kernelwright.gen.spec import Variant

    try:
        return Variant.parse(text)
    except SpecError as error:
        if Variant.is_name(text):  # well formed, and of something that cannot be
            raise UsageError(f"{text!r}: {error}") from error
    plans = [make_plan(load_profile(name), list(SUPPORTED_SMS)) for name in profile_names()]
    known = dict.fromkeys(kernel.variant for plan in plans for kernel in plan.kernels)
    found = [variant for variant in known if text in variant.name]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"{text!r}: no variant of any profile has this in its name. See them with: gen list")
    shown = "".join(f"\n  {variant.name}" for variant in found[:_MOST_SHOWN])
    more = f"\n  and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    raise UsageError(f"{text!r} is in the names of {len(found)} variants; say more:{shown}{more}")
