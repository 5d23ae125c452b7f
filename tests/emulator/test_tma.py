"""cp.async.bulk and TMA: what is copied where, when it lands, what must come before and after, and what maps allow."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

import numpy as np
import pytest
from emulator_kernels import aligned
from second_opinion.hopper_layouts import box_of, swizzled

from kernelwright import emulator as emu
from kernelwright.emulator.launch import driver

SEEDS = range(4)
HEAD = """.version 8.6
.target sm_90a
.address_size 64
.shared .align 1024 .b8 smem[{smem}];
.shared .align 8 .b64 bar[4];
.visible .entry k(.param .u64 out, .param .align 64 .b8 map[128]) {{
.reg .pred %p<20>; .reg .b32 %r<60>; .reg .b64 %rd<20>;
mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r10, bar; ld.param.u64 %rd1, [out];
mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2; setp.eq.u32 %p9, %r1, 0; setp.ne.u32 %p10, %r1, 0;
shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3; cvt.u64.u32 %rd3, %r3; add.s64 %rd3, %rd1, %rd3;
{body}
ret;
}}
"""
INIT = "@%p9 mbarrier.init.shared::cta.b64 [%r10], 1;\n@%p9 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n"
ARRIVE = "@%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], {bytes};\n"
WAIT = "$wait{n}:\nmbarrier.try_wait.parity.shared::cta.b64 %p8, [%r10], {parity};\n@!%p8 bra $wait{n};\n"
DONE = WAIT.format(n=0, parity=0)
COMPLETE = "mbarrier::complete_tx::bytes"
BULK = f"@%p9 cp.async.bulk.shared::cluster.global.{COMPLETE} [%r2], [%rd1], 256, [%r10];\n"
COMMIT = "@%p9 cp.async.bulk.commit_group;\n"
WAITED = "@%p9 cp.async.bulk.wait_group 0;\n"
FENCE = "fence.proxy.async.shared::cta;\nbar.sync 0;\n"
OUT = "ld.shared.u32 %r20, [%r4];\nst.global.u32 [%rd3+256], %r20;\n"


@pytest.fixture(autouse=True)
def hopper() -> Iterator[None]:
    emu.configure(sm=90, smem_optin=232448)
    yield
    emu.configure(sm=80, smem_optin=166912)


def some(*shape: int, dtype: type = np.uint32) -> np.ndarray:
    out = aligned(shape, dtype)
    out[...] = np.random.default_rng(sum(shape)).integers(1, 1 << 15, shape)
    return out


def launch(
    body: str,
    *,
    map_: object = bytes(128),
    out: np.ndarray | None = None,
    block: int = 64,
    smem: int = 8192,
    **options: object,
):
    out = some(128) if out is None else out
    report = emu.load(HEAD.format(body=body, smem=smem)).launch(
        "k", grid=(1,), block=(block,), args=[out, map_], **options
    )  # type: ignore[arg-type]
    return out, report


def finding(body: str, *kinds: str, seeds: range = SEEDS, **options: object) -> str:
    """The text of the finding that ends the launch, of the first of `kinds`, under every order of warps."""
    texts = {}
    for seed in seeds:
        with pytest.raises(emu.EmulatorError) as caught:
            launch(body, seed=seed, **options)
        assert caught.value.report is not None, caught.value
        found = caught.value.report.findings[0]
        assert found.kind in kinds, (seed, found)
        texts[found.kind] = found.text
    return texts.get(kinds[0], "")


def is_clean(body: str, **options: object) -> None:
    for seed in range(20):
        assert launch(body, seed=seed, **options)[1].findings == []


# ------------------------------------------------------------------------------------------ copies without a tensor

LOAD = INIT + ARRIVE.format(bytes=256) + BULK + DONE + OUT


def test_a_bulk_copy_lands_when_its_phase_is_waited_for():
    is_clean(LOAD)
    out, report = launch(LOAD)
    assert (out[64:] == out[:64]).all()
    assert report.counters["bulk_load_bytes"] == 256 and report.counters["global_load_bytes"] == 256
    for checks in ("none", "memory+init"):
        out, _ = launch(LOAD, checks=checks)
        assert (out[64:] == out[:64]).all()


def test_reading_before_the_phase_is_complete_is_found():
    assert "is counted by the mbarrier at byte 8192 of shared memory (phase 0, 0 of 1 arrivals pending, 256" in finding(
        LOAD.replace(DONE, "bar.sync 0;\n"), "async_read", "race"
    )
    wrong_parity = LOAD.replace(DONE, WAIT.format(n=0, parity=1) + "bar.sync 0;\n")
    finding(wrong_parity, "async_read", "race", "deadlock")
    # One warp waits; what the other reads has landed, but nothing orders it.
    half = "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $skip;\n" + DONE + "$skip:\n{sync}"
    finding(LOAD.replace(DONE, half.format(sync="")), "race", "async_read", "uninitialised_read")
    is_clean(LOAD.replace(DONE, half.format(sync="bar.sync 0;\n")))


@pytest.mark.parametrize(("announced", "missing"), [(128, "-128"), (272, "272"), (512, "512")])
def test_a_wrong_count_of_bytes_is_a_deadlock_that_says_what_came(announced, missing):
    text = finding(LOAD.replace("], 256;\n@", f"], {announced};\n@"), "deadlock", seeds=range(2))
    assert f"{announced} bytes were announced, the last at PTX line" in text
    assert f"0 of 1 arrivals pending, {missing} bytes pending" in text or "copies brought 256" in text


def test_bytes_announced_for_one_copy_of_two_leave_the_other_in_flight():
    second = BULK.replace("[%r2]", "[%r2+256]")
    body = INIT + ARRIVE.format(bytes=256) + BULK + second + DONE + OUT + OUT.replace("[%r4]", "[%r4+256]")
    finding(body, "async_read", "race")


def test_copies_need_bytes_in_multiples_of_16_and_aligned_addresses():
    assert "a multiple of 16" in finding(LOAD.replace("256, [", "248, ["), "misaligned")
    finding(LOAD.replace("[%r2], [%rd1]", "[%r2+8], [%rd1]"), "misaligned")
    finding(LOAD.replace("[%r2], [%rd1]", "[%r2], [%rd1+8]"), "misaligned")
    finding(LOAD.replace("[%r2], [%rd1]", "[%r2+8160], [%rd1]"), "out_of_bounds")
    finding(LOAD.replace("[%r2], [%rd1]", "[%r2], [%rd1+512]"), "out_of_bounds")


def test_an_object_whose_initialisation_the_async_proxy_may_not_see_is_found():
    text = finding(LOAD.replace("@%p9 fence.mbarrier_init.release.cluster;\n", ""), "proxy")
    assert "fence.mbarrier_init or fence.proxy.async must come after it" in text
    is_clean(LOAD.replace("fence.mbarrier_init.release.cluster", "fence.proxy.async"))
    is_clean(
        LOAD.replace(
            "@%p9 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n", "bar.sync 0;\nfence.proxy.async;\nbar.sync 0;\n"
        )
    )


def test_refilling_what_others_may_still_read_is_found():
    # The second fill of a ring of one stage.
    again = ARRIVE.format(bytes=256) + BULK + WAIT.format(n=1, parity=1) + OUT
    is_clean(LOAD + "bar.sync 0;\n" + again)
    assert "nothing orders the two" in finding(LOAD + again, "race")


def test_a_block_that_ends_before_its_copies_have_is_found():
    assert "nobody has waited for the phase" in finding(
        INIT + ARRIVE.format(bytes=256) + BULK, "async_exit", seeds=range(1)
    )
    store = "st.shared.u32 [%r4], %r1;\n" + FENCE + STORE
    assert "must commit it with" in finding(store, "async_exit")
    assert "wait_group.read before it exits" in finding(store + COMMIT, "async_exit")
    is_clean(store + COMMIT + WAITED)
    is_clean(store + COMMIT + WAITED.replace("wait_group", "wait_group.read"))


STORE = "@%p9 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 256;\n"
WRITE = "st.shared.u32 [%r4], %r1;\n"


def test_a_store_needs_a_proxy_fence_after_what_it_reads_was_written():
    for order in (FENCE, "bar.sync 0;\nfence.proxy.async;\nbar.sync 0;\n", "bar.sync 0;\n@%p9 fence.proxy.async;\n"):
        body = WRITE + order + STORE + COMMIT + WAITED
        is_clean(body)
        out, report = launch(body)
        assert out[:64].tolist() == list(range(64))
        assert report.counters["bulk_store_bytes"] == 256
    text = finding(WRITE + "bar.sync 0;\n" + STORE + COMMIT + WAITED, "proxy")
    assert "wrote at PTX line" in text and "fence.proxy.async must come between" in text
    finding(WRITE + "fence.proxy.async;\n" + STORE + COMMIT + WAITED, "race", "uninitialised_read")
    # A fence before the write orders nothing; nor does one by another warp that did not write.
    finding("fence.proxy.async;\n" + WRITE + "bar.sync 0;\n" + STORE + COMMIT + WAITED, "proxy")
    some_lanes = "setp.lt.u32 %p1, %r1, 32;\n@%p1 fence.proxy.async;\nbar.sync 0;\n"
    finding(WRITE + some_lanes + STORE + COMMIT + WAITED, "proxy")


def test_what_a_store_reads_may_not_be_written_before_it_has():
    again = WRITE + FENCE + STORE + COMMIT + "{wait}bar.sync 0;\nst.shared.u32 [%r4], 7;\n" + WAITED
    for wait in (WAITED, WAITED.replace("wait_group", "wait_group.read")):
        is_clean(again.format(wait=wait))
    assert "may still read" in finding(again.format(wait=""), "race")
    assert "may still read" in finding(again.format(wait=WAITED.replace(" 0;", " 1;")), "race")
    no_barrier = again.replace("{wait}bar.sync 0;", WAITED)
    finding(no_barrier, "race")


def test_groups_wait_for_all_but_the_youngest():
    other = STORE.replace("[%rd1], [%r2]", "[%rd1+256], [%r2+256]")
    body = (
        WRITE + "st.shared.u32 [%r4+256], 9;\n" + FENCE + STORE + COMMIT + other + COMMIT
        + "@%p9 cp.async.bulk.wait_group.read 1;\nbar.sync 0;\nst.shared.u32 [%r4{more}], 7;\n" + WAITED
    )  # fmt: skip
    is_clean(body.format(more=""))
    finding(body.format(more="+256"), "race")


@pytest.mark.parametrize(
    ("form", "dtype", "op"),
    [
        ("add.u32", np.uint32, np.add), ("min.s32", np.int32, np.minimum), ("max.u64", np.uint64, np.maximum),
        ("and.b32", np.uint32, np.bitwise_and), ("or.b64", np.uint64, np.bitwise_or),
        ("xor.b32", np.uint32, np.bitwise_xor),
        ("add.noftz.f16", np.float16, np.add), ("add.f32", np.float32, np.add), ("max.f16", np.float16, np.maximum),
        ("inc.u32", np.uint32, lambda old, top: np.where(old >= top, 0, old + 1)),
        ("dec.u32", np.uint32, lambda old, top: np.where((old == 0) | (old > top), top, old - 1)),
    ],
)  # fmt: skip
def test_reductions_combine_with_what_is_there(form, dtype, op):
    rng = np.random.default_rng(3)
    out = aligned((512 // np.dtype(dtype).itemsize,), dtype)
    out[:] = rng.integers(0, 30, out.shape)
    before, half = out.copy(), out.size // 2
    body = (
        INIT + ARRIVE.format(bytes=256) + BULK + DONE
        + f"@%p9 cp.reduce.async.bulk.global.shared::cta.bulk_group.{form} [%rd1+256], [%r2], 256;\n" + COMMIT + WAITED
    )  # fmt: skip
    launch(body, out=out)
    assert (out[:half] == before[:half]).all()
    assert (out[half:] == op(before[half:], before[:half])).all()


def test_blocks_may_add_to_one_place():
    # Each spins for long enough that the blocks would be worth several host threads.
    spin = "mov.u32 %r30, 0;\n$spin:\nadd.u32 %r30, %r30, 1; setp.lt.u32 %p3, %r30, 2000;\n@%p3 bra $spin;\n"
    store = STORE.replace("cp.async", "cp.reduce.async").replace("bulk_group", "bulk_group.add.u32")
    text = HEAD.format(body=WRITE + spin + FENCE + store + COMMIT + WAITED, smem=8192)
    out = aligned((128,), np.uint32)
    report = emu.load(text).launch("k", grid=(24,), block=(64,), args=[out, bytes(128)], threads=4)
    assert report.findings == [] and out[:64].tolist() == [24 * n for n in range(64)]


# ------------------------------------------------------------------------------------------ boxes of tensors


def load_of(rank: int, corner: tuple[int, ...], nbytes: int, base: int = 0) -> str:
    at = ", ".join(str(c) for c in reversed(corner))
    return (
        INIT + ARRIVE.format(bytes=nbytes)
        + f"@%p9 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.{COMPLETE} [%r2+{base}], [%rd2, "
          f"{{{at}}}], [%r10];\n"
        + DONE
    )  # fmt: skip


def copy_out(nbytes: int, base: int = 0) -> str:
    return "".join(
        f"ld.shared.u32 %r20, [%r4+{base + 256 * n}];\nst.global.u32 [%rd3+{256 * n}], %r20;\n"
        for n in range(nbytes // 256)
    )


CASES = [
    # shape, box, corner, steps, dtype, swizzle
    ((300,), (128,), (40,), (1,), np.uint16, 0),
    ((300,), (128,), (-30,), (1,), np.uint16, 0),
    ((300,), (64,), (280,), (1,), np.uint32, 0),
    ((40, 64), (16, 32), (-3, 8), (1, 1), np.uint32, 128),
    ((40, 64), (16, 32), (31, 48), (1, 1), np.uint32, 128),
    ((40, 64), (32, 16), (9, -5), (1, 1), np.uint32, 64),
    ((40, 64), (32, 8), (39, 60), (1, 1), np.uint32, 32),
    ((9, 10, 32), (4, 2, 16), (6, -1, 20), (1, 1, 1), np.uint32, 0),
    ((9, 10, 32), (8, 4, 32), (0, 7, 0), (2, 3, 1), np.uint32, 128),
    ((3, 4, 5, 32), (2, 2, 3, 64), (2, 3, -1, 8), (1, 1, 1, 1), np.uint8, 64),
    ((3, 2, 4, 5, 32), (2, 1, 2, 2, 32), (-1, 1, 3, 4, 0), (1, 1, 1, 1, 1), np.uint64, 0),
    ((40, 64), (16, 32), (100, 100), (1, 1), np.uint32, 128),
]


@pytest.mark.parametrize(("shape", "box", "corner", "steps", "dtype", "span"), CASES)
@pytest.mark.parametrize("base", [0, 384])
def test_a_box_lands_where_the_isa_says(shape, box, corner, steps, dtype, span, base):
    tensor = some(*shape, dtype=dtype)
    want = box_of(tensor, corner, box, steps)
    out = aligned((-(-want.nbytes // 4),), np.uint32)
    body = load_of(len(shape), corner, want.nbytes, base) + copy_out(want.nbytes, base)
    map_ = emu.TensorMap(array=tensor, box=box, swizzle=span, steps=steps)
    _, report = launch(body, map_=map_, out=out, seed=base)
    assert (out.view(np.uint8)[: want.nbytes] == swizzled(want, span, base)).all()
    assert report.counters["bulk_load_bytes"] == want.nbytes  # what is filled counts too
    inside = box_of(np.ones_like(tensor), corner, box, steps).sum() * tensor.itemsize
    assert report.counters["global_load_bytes"] == inside


@pytest.mark.parametrize(("shape", "box", "corner", "steps", "dtype", "span"), CASES)
def test_a_stored_box_leaves_what_is_outside_alone(shape, box, corner, steps, dtype, span):
    given = some(*box, dtype=dtype)  # as large as the box at least
    tensor = some(*shape, dtype=dtype)
    want = tensor.copy()
    counts = [-(-size // step) for size, step in zip(box, steps, strict=True)]
    data = given.reshape(-1)[: int(np.prod(counts))].reshape(counts)
    for at in np.ndindex(*counts):
        place = tuple(c + i * s for c, i, s in zip(corner, at, steps, strict=True))
        if all(0 <= p < n for p, n in zip(place, tensor.shape, strict=True)):
            want[place] = data[at]
    source = aligned((data.nbytes // 4,), np.uint32)
    source[:] = swizzled(data.copy(), span).view(np.uint32)
    at = ", ".join(str(c) for c in reversed(corner))
    body = (
        INIT + ARRIVE.format(bytes=data.nbytes) + BULK.replace("256, [", f"{data.nbytes}, [") + DONE
        + f"@%p9 cp.async.bulk.tensor.{len(shape)}d.global.shared::cta.tile.bulk_group [%rd2, {{{at}}}], [%r2];\n"
        + COMMIT + WAITED
    )  # fmt: skip
    map_ = emu.TensorMap(array=tensor, box=box, swizzle=span, steps=steps, access="write")
    launch(body, map_=map_, out=source)
    assert (tensor == want).all()


def test_a_tensor_reduction_adds_by_the_maps_type():
    tensor = aligned((8, 64), np.float16)
    tensor[:] = 1.5
    source = aligned((64,), np.float16)
    source[:] = np.arange(64)
    body = (
        INIT + ARRIVE.format(bytes=128) + BULK.replace("256, [", "128, [") + DONE
        + "@%p9 cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%rd2, {0, 3}], [%r2];\n"
        + COMMIT + WAITED
    )  # fmt: skip
    launch(body, map_=emu.TensorMap(array=tensor, box=(1, 64), access="read_write"), out=source)
    assert (tensor[3] == 1.5 + np.arange(64)).all() and (tensor[[0, 1, 2, 4, 5, 6, 7]] == 1.5).all()


def test_what_is_outside_can_become_nan():
    tensor = aligned((4, 64), np.float32)
    out = aligned((256,), np.float32)
    body = load_of(2, (2, 0), 1024) + copy_out(1024)
    launch(body, map_=emu.TensorMap(array=tensor, box=(4, 64), fill="nan"), out=out)
    assert (out[:128] == 0).all() and np.isnan(out[128:]).all()


def test_prefetches_only_look_at_the_map():
    tensor = some(40, 64)
    map_ = emu.TensorMap(array=tensor, box=(16, 32))
    lines = "cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%rd2, {0, 0}];\n"
    lines += "cp.async.bulk.prefetch.L2.global [%rd1], 64;\n"
    assert launch(lines, map_=map_)[1].counters["bulk_load_bytes"] == 0
    assert "2 dimensions" in finding(lines.replace("2d", "1d").replace("{0, 0}", "{0}"), "tensor_map", map_=map_)


def test_what_is_no_tensor_map_is_found():
    body = load_of(2, (0, 0), 2048)
    assert "at which no tensor map lies" in finding(body, "tensor_map")
    map_ = emu.TensorMap(array=some(40, 64), box=(16, 32))
    assert "no multiple of 64" in finding(body.replace("[%rd2,", "[%rd2+8,"), "tensor_map", map_=map_)
    finding(body.replace("[%r2+0]", "[%r2+64]"), "misaligned", map_=map_)


def test_a_box_larger_than_shared_memory_is_found_before_it_is_copied():
    map_ = emu.TensorMap(
        array=some(40, 64), box=(256, 256, 256, 256, 64), shape=(1, 1, 1, 40, 64), strides=(0, 0, 0, 256)
    )
    assert "copies a box of 1099511627776 bytes" in finding(load_of(5, (0,) * 5, 1024), "out_of_bounds", map_=map_)


def test_a_map_over_more_than_the_array_is_out_of_bounds_where_the_box_goes_there():
    tensor = some(40, 64)
    map_ = emu.TensorMap(array=tensor, box=(16, 32), shape=(80, 64))
    launch(load_of(2, (24, 0), 2048), map_=map_)
    finding(load_of(2, (32, 0), 2048), "out_of_bounds", map_=map_)
    read_only = emu.TensorMap(array=tensor, box=(16, 32))
    store = WRITE + FENCE + "@%p9 cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd2, {0, 0}], [%r2];\n"
    assert "read-only" in finding(store, "access", map_=read_only)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": 0}, "tensorRank must be 1 to 5"), ({"rank": 6}, "tensorRank must be 1 to 5"),
        ({"address": 8}, "globalAddress must be a multiple of 16"),
        ({"extents": (0, 40)}, r"globalDim\[0\] must be 1 to 2\^32"),
        ({"strides": (264,)}, "must be a multiple of 16 bytes, got 264"),
        ({"strides": (1 << 40,)}, r"must be below 2\^40"),
        ({"box": (257, 1)}, "must be 1 to 256, got 257"), ({"box": (2, 1)}, "is 8 bytes; it must be a multiple of 16"),
        ({"swizzle": 1}, "more than the swizzle's 32"), ({"swizzle": 3, "box": (16, 4)}, "not modelled"),
        ({"steps": (1, 9)}, r"elementStrides\[1\] must be 1 to 8, got 9"), ({"fill": 1}, "needs a floating-point type"),
        ({"type": 16}, "does not exist"), ({"type": 11}, "not modelled"), ({"interleave": 1}, "interleaved layouts"),
        ({"interleave": 3}, "does not exist"), ({"swizzle": 4}, "needs sm_100"), ({"promotion": 4}, "does not exist"),
        ({"map": 8}, "aligned to 64 bytes"),
    ],
)  # fmt: skip
def test_the_drivers_rules_for_maps(change, says):
    lib, memory = driver(), ctypes.create_string_buffer(256)
    place = -(-ctypes.addressof(memory) // 64) * 64
    given = {
        "type": 2, "rank": 2, "address": 4096, "extents": (64, 40), "strides": (256,), "box": (32, 16), "steps": (1, 1),
        "interleave": 0, "swizzle": 0, "promotion": 0, "fill": 0, "map": 0,
    }  # fmt: skip

    def encode(values: dict) -> int:
        return lib.cuTensorMapEncodeTiled(
            ctypes.c_void_p(place + values["map"]), values["type"], values["rank"], ctypes.c_void_p(values["address"]),
            (ctypes.c_uint64 * 2)(*values["extents"]), (ctypes.c_uint64 * 1)(*values["strides"]),
            (ctypes.c_uint * 2)(*values["box"]), (ctypes.c_uint * 2)(*values["steps"]),
            values["interleave"], values["swizzle"], values["promotion"], values["fill"],
        )  # fmt: skip

    assert encode(given) == 0
    assert encode({**given, "strides": (0,)}) == 0  # every row the same
    assert encode({**given, **change}) != 0
    assert re.search(says, lib.kw_message().decode())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            f"cp.async.bulk.shared::cluster.global.{COMPLETE}.multicast::cluster [%r2], [%rd1], 16, [%r10], 3;",
            "clusters",
        ),
        (f"cp.async.bulk.shared::cluster.shared::cta.{COMPLETE} [%r2], [%r4], 16, [%r10];", "clusters"),
        (
            f"cp.async.bulk.tensor.3d.shared::cluster.global.im2col.{COMPLETE} [%r2], [%rd2, {{0, 0, 0}}], "
            f"[%r10], {{0}};",
            "only boxes",
        ),
        ("tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd2;", "not changed by kernels"),
        (f"cp.async.bulk.tensor.2d.shared::cluster.global.{COMPLETE} [%r2], [%rd2, {{0}}], [%r10];", "2 coordinates"),
        ("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%rd1], [%r2], 16;", "not one the emulator knows"),
        ("cp.async.bulk.wait_group -1;", "0 or more"),
    ],
)
def test_what_is_not_modelled_is_refused(line, says):
    with pytest.raises(emu.EmulatorError, match=says):
        launch(line)


def test_maps_that_do_not_fit_their_array_are_refused():
    with pytest.raises(ValueError, match="do not fit a tensor of 2 dimensions"):
        launch("ret;", map_=emu.TensorMap(array=some(4, 64), box=(4,)))
    with pytest.raises(ValueError, match="lie side by side"):
        launch("ret;", map_=emu.TensorMap(array=some(64, 64).T, box=(4, 4)))
    with pytest.raises(emu.EmulatorError, match="boxDim"):
        launch("ret;", map_=emu.TensorMap(array=some(4, 64), box=(4, 300)))
