"""Errors of a dispatch module: each says what it concerns, what was found, what is allowed, what to do."""

from __future__ import annotations


class KernelError(Exception):
    """Base of all errors a dispatch module raises on purpose."""


class NoKernelError(KernelError, LookupError):
    """No kernel of this module may run the call; the last line of the message is the command that adds one."""


class LaunchError(KernelError, RuntimeError):
    """The driver or the emulator refused to load or to run a kernel."""


class TableError(KernelError, ValueError):
    """A dispatch table or a file that it names is missing, damaged or newer than this module."""


class DriverError(KernelError, RuntimeError):
    """The CUDA driver or the emulator cannot be used."""


class UnsupportedInputError(KernelError, ValueError):
    """The arguments are of the right types, but no kernel computes this."""


class InputTypeError(UnsupportedInputError, TypeError):
    """An argument is of a type that no kernel takes."""


class GradientError(UnsupportedInputError, NotImplementedError):
    """A gradient is asked for that the module's kernels do not compute."""


class NoBackwardKernelError(NoKernelError, GradientError):
    """A gradient is asked for, and the module holds no backward kernel for the call."""


class FallbackWarning(UserWarning):
    """`scaled_dot_product_attention` left a call to torch; the message says why, and how to build what it lacks."""


class EmulationWarning(UserWarning):
    """CPU tensors run the GPU's kernel in an emulator: for checking, thousands of times slower than a GPU."""
