"""Errors of the tuner. All are `KernelError`s."""

from kernelwright.gen.errors import KernelError


class UsageError(KernelError):
    """A command that was called wrongly."""


class TunerError(KernelError):
    """A tuning run that cannot start, go on or end as asked."""


class NoLegalPointError(TunerError):
    """A space whose every point some rule refuses on this device."""


class StoreError(TunerError):
    """A store of results that cannot be read or written."""


class DeviceGivenUpError(TunerError):
    """A device that answers no more, or whose workers are lost one after the other."""


class StudyExistsError(TunerError):
    """A study that holds results and was not asked to be continued."""


class StudyChangedError(TunerError):
    """A study made from other sources, another space or another device than now."""
