"""CUDA attention kernels generated, checked on a CPU, tuned and shipped for the model and GPU at hand."""

from pathlib import Path as _Path

__version__ = "0.1.0"

_here = _Path(__file__).resolve().parent
if not (_here / "gen").is_dir():  # a checkout without its links (zip download, Windows)
    __path__.append(str(_here.parents[1]))


def resource_dir(name: str) -> _Path:
    """Return the folder `name` (`templates`, `configs`, ...) of a checkout or of an installed package.

    Raises:
        FileNotFoundError: if this installation does not hold it.
    """
    for base in map(_Path, __path__):
        if (base / name).is_dir():
            return base / name
    raise FileNotFoundError(f"{name}: not part of this installation of kernelwright")
