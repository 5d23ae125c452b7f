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
    (cache / f"library-{'0a' * 10}").mkdir()
    (cache / f"library-{'0a' * 10}" / "library.so").write_bytes(b"x" * 1000)
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
    dead = tmp_path / "tmp" / "dead.kernelwright"
    dead.mkdir(parents=True)
    (dead / ".owner").write_text("")
    unborn = tmp_path / "tmp" / "unborn.kernelwright"
    unborn.mkdir()
    old = tmp_path / "tmp" / "old.kernelwright"
    old.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    with scratch_dir(tmp_path, "alive") as alive:
        assert sweep_scratch(tmp_path) == 2
        assert alive.exists() and unborn.exists() and not dead.exists() and not old.exists()
    assert not alive.exists()


def test_clearing_a_folder_named_as_cache_by_mistake_leaves_the_rest_alone(build, variants, cache):
    precious = [
        cache / name
        for name in ("photos/a.jpg", "kernels/mine.cl", "kernels/ab/notes", "toolchains/gcc.json", "tmp/x", "a-b/a.so")
    ]
    for path in precious:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    build(variants[:1])
    assert clear_cache(cache).kernels == 1
    assert all(path.read_text() == "precious" for path in precious)
    assert cache_size(cache).num_bytes == 0


def test_folders_in_tmp_that_are_not_ours_are_not_swept(tmp_path):
    for name in ("session", "owned"):
        (tmp_path / "tmp" / name).mkdir(parents=True)
        os.utime(tmp_path / "tmp" / name, (time.time() - 7200,) * 2)
    (tmp_path / "tmp" / "owned" / ".owner").write_text("")
    assert sweep_scratch(tmp_path) == 0
    assert (tmp_path / "tmp" / "session").exists() and (tmp_path / "tmp" / "owned").exists()
