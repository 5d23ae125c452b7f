"""What our commands share: exit statuses, and errors and odd standard streams that must not end in a traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from kernelwright.gen.errors import KernelError

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def run_command(
    name: str, run: Callable[[], int], *, misuse: tuple[type[KernelError], ...], interrupted: Callable[[], str]
) -> int:
    """Run a command and return its exit status; what goes wrong is one line on stderr.

    Args:
        name: tool and verb, which begin every message.
        run: does the work and returns the status.
        misuse: errors that mean the command was called wrongly.
        interrupted: returns what to say after Ctrl-C.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status
    except misuse as error:
        print(f"{name}: {error}", file=sys.stderr)
        return MISUSED
    except KernelError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; {interrupted()}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        drop_output()
        return DONE
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        drop_output()
        return FAILED


def open_streams() -> None:
    """Let paths be printed that the terminal has no letters for, and a closed stdout or stderr swallow everything."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Keep the interpreter from failing again as it ends, when it writes what stdout did not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
