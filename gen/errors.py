"""Errors of the generator, the builder and the tuner. Catch `KernelError` to catch them all."""


class KernelError(Exception):
    """Base of every error that is the caller's to handle."""


class SpecError(KernelError):
    """A problem, schedule or variant that makes no sense on any GPU."""


class InfeasibleSpec(KernelError):
    """A variant that is well formed but does not fit its architecture."""


class ConfigError(KernelError):
    """A data file (devices, profile, space) with a fault, named by its path in the file."""


class BuildError(KernelError):
    """A build that failed: no compiler, a compile error, no space."""
