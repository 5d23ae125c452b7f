"""The cache as a whole: its size, clearing it, and the litter of killed builds."""

from __future__ import annotations

import os
import time

import pytest

from kernelwright.build.cache import cache_size, clear_cache
from kernelwright.build.store import scratch_dir, sweep_scratch
from kernelwright.gen.errors import BuildError


def test_an_absent_cache_holds_nothing(cache):
    assert (cache_size(cache).kernels, cache_size(cache).num_bytes) == (0, 0)
    assert clear_cache(cache).kernels == 0
    assert not cache.exists()


def test_size_counts_kernels_and_bytes_and_clear_removes_them(build, variants, cache, tmp_path, compile_log):
    build(variants[:2])
    (cache / "emulator").mkdir()
    (cache / "emulator" / "library.so").write_bytes(b"x" * 1000)
    size = cache_size(cache)
    assert size.kernels == 2 and size.num_bytes > 2 * 24_000 + 1000
    assert clear_cache(cache) == size
    assert cache_size(cache).num_bytes == 0
    build(variants[:2], tmp_path / "other")
    assert len(compile_log()) == 4


def test_a_cache_that_cannot_be_cleared_says_so(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tmp").write_text("a file where a folder belongs")
    with pytest.raises(BuildError, match="clearing"):
        clear_cache(tmp_path / "cache")


def test_only_scratch_without_an_owner_is_swept(tmp_path):
    dead = tmp_path / "tmp" / "dead"
    dead.mkdir(parents=True)
    (dead / ".owner").write_text("")
    unborn = tmp_path / "tmp" / "unborn"
    unborn.mkdir()
    old = tmp_path / "tmp" / "old"
    old.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    with scratch_dir(tmp_path, "alive") as alive:
        assert sweep_scratch(tmp_path) == 2
        assert alive.exists() and unborn.exists() and not dead.exists() and not old.exists()
    assert not alive.exists()
