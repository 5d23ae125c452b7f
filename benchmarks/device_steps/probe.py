"""What torch and the driver say about the device and what it can reach; every function runs isolated."""

from __future__ import annotations

from typing import Any

MIN_TORCH = (2, 10)
_COPY_BYTES = 2 << 30
_MATMUL_SIZE = 8192
_WARM_UP, _REPETITIONS = 10, 30


def facts(*, driver: str) -> dict[str, Any]:  # Any: JSON
    """Return torch's version and the GPU's properties, or a `problem` that ends the run."""
    try:
        import torch
    except ImportError as error:
        return {"problem": f"torch cannot be imported: {error}. Install it: https://pytorch.org/get-started"}
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < MIN_TORCH:
        needed = ".".join(map(str, MIN_TORCH))
        return {"problem": f"torch {torch.__version__} is too old; at least {needed} is needed"}
    found: dict[str, Any] = {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
    if driver == "emulator":
        return {**found, "device": "emulator", "sm": 80}
    if not torch.cuda.is_available():
        reason = "it is built without CUDA" if torch.version.cuda is None else "it sees no GPU"
        return {
            "problem": f"torch {torch.__version__} cannot use a GPU here: {reason}. "
            "Without a GPU the whole run can be tried with --driver emulator --quick"
        }
    from kernelwright.build.driver import driver_release

    one = torch.cuda.get_device_properties(0)
    return {
        **found,
        "device": one.name,
        "sm": 10 * one.major + one.minor,
        "num_sms": one.multi_processor_count,
        "memory_mib": one.total_memory >> 20,
        "l2_mib": round(one.L2_cache_size / 2**20),
        "driver_cuda": ".".join(map(str, driver_release())),
        "num_gpus": torch.cuda.device_count(),
    }


def copy_rate(*, l2_mib: int, device: str = "cuda", copy_bytes: int = _COPY_BYTES) -> dict[str, Any]:  # Any: JSON
    """Measure a copy on the device: bytes read and written over the median time."""
    import torch

    source = torch.empty(copy_bytes // 4, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    time_us = _median_us(lambda: target.copy_(source), l2_mib)
    return {"time_us": round(time_us, 3), "gb_per_s": round(2 * copy_bytes / time_us / 1e3, 1), "bytes": 2 * copy_bytes}


def matmul_rate(*, l2_mib: int, device: str = "cuda", size: int = _MATMUL_SIZE) -> dict[str, Any]:  # Any: JSON
    """Measure torch's bf16 product of square matrices of random normal values, which draw more power than zeros."""
    import torch

    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)
    time_us = _median_us(lambda: torch.mm(a, b, out=out), l2_mib)
    return {"time_us": round(time_us, 3), "tflops": round(2 * size**3 / time_us / 1e6, 1), "size": size}


def _median_us(call: Any, l2_mib: int) -> float:  # Any: a call whose result nobody looks at
    from kernelwright.runtime.cuda_timer import CudaTimer
    from kernelwright.tuner.measure import median_us

    return median_us(call, CudaTimer(l2_mib), warm_up=_WARM_UP, repetitions=_REPETITIONS)
