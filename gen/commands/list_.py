"""`gen list`: what a build would hold and cost, and what it refuses."""

from __future__ import annotations

import argparse

from kernelwright.gen.commands.common import add_plan_arguments, describe_plan, plan_from, print_json, print_plan

HELP = "List the kernels of a profile, what is refused and why, and what a build would cost."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add_plan_arguments(parser, arch_required=False)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    plan = plan_from(args)
    if args.json:
        print_json(describe_plan(plan))
    else:
        print_plan(plan)
    return 0
