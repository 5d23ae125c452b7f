"""`gen doctor`: is everything there, and what mends what is not."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from kernelwright.gen.commands.common import print_json

HELP = "Check that everything a build needs is there and works."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print one line a part; fails if a needed one is missing."""
    from kernelwright.build.diagnosis import diagnose
    from kernelwright.build.settings import read_settings

    findings = diagnose(read_settings())
    sound = all(finding.ok or not finding.needed for finding in findings)
    if args.json:
        print_json({"ok": sound, "parts": [asdict(finding) for finding in findings]})
        return 0 if sound else 1
    for finding in findings:
        state = "ok" if finding.ok else "missing" if finding.needed else "absent"
        print(f"{state:<8}{finding.part:<14}{finding.detail}")
        if finding.mend:
            print(f"{'':<22}mend: {finding.mend}")
    return 0 if sound else 1
