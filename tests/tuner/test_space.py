"""Spaces: faults are named by path, refusals are counted by rule."""

from dataclasses import fields, replace

import pytest
from tuner_fakes import SPACE

from kernelwright.gen.devices import devices, reference_device
from kernelwright.gen.errors import ConfigError
from kernelwright.gen.ladder import default_backward_schedule
from kernelwright.gen.spec import BackwardSchedule
from kernelwright.tuner.cli import main
from kernelwright.tuner.errors import NoLegalPointError
from kernelwright.tuner.pool import SPEC_RULE, enumerate_pool, require_legal_points
from kernelwright.tuner.space import DEFAULT_SPACE, load_space, point_of, space_names

GOOD = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: [64, 128], block_n: [32, 64], num_warps: 4, num_stages: [1, 2], q_in_regs: [false, true]}
constraints: [smem_fits, registers_fit]
shapes: {batch: 4, num_heads_q: 16, num_heads_kv: 4, seqlen: [512, 8192]}
"""


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_space_is_read_whole(tmp_path):
    space = load_space(write(tmp_path, GOOD))
    assert (space.name, space.sm, space.values["num_warps"]) == ("mine", 80, (4,))
    assert [shape.seqlen_k for shape in space.shapes] == [512, 8192]
    assert load_space(write(tmp_path, GOOD), 86).sm == 86


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ("kernel: flash_fwd", "kernel: gemm", r"\$\.kernel: found 'gemm'; allowed: flash_fwd"),
        ("arch: sm80", "arch: sm90", r"\$\.arch: .*Hopper has no kernel family yet"),
        ("head_dim: 64", "head_dim: 63", r"\$\.problem: head_dim must be a multiple of 8"),
        ("head_dim: 64", "head_dim: 64, softcap: 3", r"\$\.problem: unknown key 'softcap'"),
        ("num_warps: 4", "num_warps: four", r"\$\.schedule\.num_warps: expected an integer"),
        ("num_warps: 4, ", "", r"\$\.schedule: missing key 'num_warps'"),
        ("num_warps: 4", "num_warps: 4, cluster: 2", r"\$\.schedule: unknown key 'cluster'"),
        ("block_n: [32, 64]", "block_n: [32, 32]", r"\$\.schedule\.block_n\[1\]: found 32 twice"),
        ("block_n: [32, 64]", "block_n: []", r"\$\.schedule\.block_n: expected at least one"),
        ("q_in_regs: [false, true]", "q_in_regs: [0, 1]", r"\$\.schedule\.q_in_regs\[0\]: expected true or false"),
        ("registers_fit]", "registers_fit, is_fast]", r"\$\.constraints\[1\]|\$\.constraints\[2\]"),
        ("num_heads_kv: 4", "num_heads_kv: 5", r"\$\.shapes\.num_heads_kv: found 5; allowed: what divides"),
        ("seqlen: [512, 8192]", "seqlen: [512, 0]", r"\$\.shapes\.seqlen\[1\]: found 0"),
        ("schema: 1", "schema: 2", r"schema is 2; this version reads schema 1"),
        ("schema: 1", "schema: 1\nnote: x", r"\$: unknown key 'note'"),
        ("arch: sm80", "arch: !!python/object/apply:os.getcwd []", r"not plain YAML"),
        ("arch: sm80", "arch: sm80\narch: sm86", r"given twice"),
    ],
)
def test_a_fault_is_named_by_its_path(tmp_path, before, after, path):
    assert before in GOOD
    with pytest.raises(ConfigError, match=path):
        load_space(write(tmp_path, GOOD.replace(before, after)))


FEATURED = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: fp16, head_dim: 64, head_dim_v: 128, is_causal: false, is_local: true, is_varlen: true}
schedule: {block_m: 64, block_n: 32, num_warps: 4, num_stages: 2, q_in_regs: false,
           num_slices: [1, 2], pack_gqa: [false, true], persistent_blocks: [0, 2]}
constraints: [smem_fits]
shapes: {batch: 4, num_heads_q: 8, num_heads_kv: 2, seqlen: 512, window: [100, -1]}
"""


def test_a_space_may_vary_what_features_bring_and_leave_it_out(tmp_path):
    space = load_space(write(tmp_path, FEATURED))
    assert space.problem.features == ("local", "varlen") and space.problem.head_dim_v == 128
    assert (space.values["num_slices"], space.values["pack_gqa"]) == ((1, 2), (False, True))
    assert space.values["persistent_blocks"] == (0, 2)
    (shape,) = space.shapes
    assert (shape.window_left, shape.window_right, shape.name) == (100, -1, "b4_hq8_hkv2_q512_k512_wl100")
    plain = load_space(write(tmp_path, GOOD))
    assert [plain.values[name] for name in ("num_slices", "pack_gqa", "persistent_blocks")] == [(1,), (False,), (0,)]
    pool = enumerate_pool(space, reference_device(80))
    assert pool.num_points == 8 and {variant.schedule.pack_gqa for variant in pool.legal.values()} == {False, True}


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ("window: [100, -1]", "window: [100]", r"\$\.shapes\.window: expected two sizes"),
        ("window: [100, -1]", "window: [100, -2]", r"\$\.shapes\.window\[1\]: found -2"),
        ("is_varlen: true", "is_varlen: 1", r"\$\.problem\.is_varlen: expected true or false"),
        ("is_causal: false", "is_causal: true", r"\$\.problem: is_causal and is_local exclude"),
        ("persistent_blocks: [0, 2]", "persistent_blocks: [-1]", r"\$\.schedule\.persistent_blocks\[0\]: found -1"),
        ("num_slices: [1, 2]", "num_slices: [0]", r"\$\.schedule\.num_slices\[0\]: found 0"),
    ],
)
def test_a_fault_of_features_is_named_by_its_path(tmp_path, before, after, path):
    assert before in FEATURED
    with pytest.raises(ConfigError, match=path):
        load_space(write(tmp_path, FEATURED.replace(before, after)))


def test_an_unknown_space_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match=f"unknown; known: .*{DEFAULT_SPACE}"):
        load_space("nonesuch")


@pytest.mark.parametrize("sm", [80, 86, 89])
@pytest.mark.parametrize("name", space_names())
def test_every_shipped_space_has_legal_points_and_the_default_among_them(name, sm):
    pool = enumerate_pool(load_space(name, sm), reference_device(sm))
    assert len(pool.legal) >= 16 and pool.default in pool.legal


def test_every_point_is_legal_or_counted_as_refused():
    space = replace(SPACE, values={**SPACE.values, "block_m": (64, 96, 256), "num_warps": (4, 8)})
    pool = enumerate_pool(space, reference_device(80))
    in_product = [point for point in pool.legal if all(v in space.values[n] for n, v in zip(space.values, point))]  # noqa: B905
    assert pool.num_points == 48 == len(in_product) + pool.num_refused
    assert pool.refused[SPEC_RULE] == 24  # 96 rows with 4 and 8 warps, 64 rows with 8
    assert pool.refused["registers_fit"] > 0 and pool.refused["smem_fits"] == 0
    assert "block_m=96" in pool.examples[SPEC_RULE] or "block_m=64" in pool.examples[SPEC_RULE]


def test_shared_memory_refuses_more_on_sm86():
    values = {**SPACE.values, "block_n": (128,), "num_stages": (2, 3)}
    refused = [enumerate_pool(replace(SPACE, sm=sm, values=values), reference_device(sm)).refused for sm in (80, 86)]
    assert refused[0]["smem_fits"] == 0 < refused[1]["smem_fits"]


def test_the_default_is_tried_even_where_the_lists_lack_it():
    space = replace(SPACE, values={**SPACE.values, "block_m": (64,), "block_n": (32,)})
    pool = enumerate_pool(space, reference_device(80))
    assert pool.default in pool.legal and len(pool.legal) == 5 and pool.num_points == 4
    assert pool.choices["block_m"][0] == 64 and 128 in pool.choices["block_m"]


def test_a_space_without_a_legal_point_names_the_rules():
    space = replace(SPACE, values={**SPACE.values, "block_m": (512,), "num_warps": (1, 4)})
    device = devices()["a100"]
    pool = enumerate_pool(space, device)
    with pytest.raises(
        NoLegalPointError, match=r"none of its 16 points is legal on a100.*registers_fit 16.*block_m=512"
    ):
        require_legal_points(space, device, pool)


def test_a_point_and_a_schedule_are_the_same_thing():
    for point, variant in enumerate_pool(SPACE, reference_device(80)).legal.items():
        assert point_of(variant.schedule) == point and SPACE.variant_of(point) == variant


BACKWARD = """
schema: 1
kernel: flash_bwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule:
  {block_m: [64], block_n: [64, 128], num_warps: 8, num_stages: [1, 2], warps_scores: 4, warps_kv: [2, 4], warps_q: 4}
constraints: [smem_fits, registers_fit]
shapes: {batch: 4, num_heads_q: 16, num_heads_kv: 4, seqlen: [512, 8192]}
"""


def test_a_space_of_another_operation_has_the_fields_of_its_schedule(tmp_path):
    space = load_space(write(tmp_path, BACKWARD))
    pool = enumerate_pool(space, devices()["a100"])
    assert list(pool.choices) == [field.name for field in fields(BackwardSchedule)]
    assert {one.operation for one in pool.legal.values()} == {"flash_bwd"} and len(pool.legal) >= 6
    assert pool.default == point_of(default_backward_schedule(80, space.problem))
    for point, variant in pool.legal.items():
        assert point_of(variant.schedule) == point and space.variant_of(point) == variant
    with pytest.raises(ConfigError, match=r"\$\.schedule: (missing|unknown) key"):
        load_space(write(tmp_path, BACKWARD.replace("flash_bwd", "flash_bwd_dq")))
    with pytest.raises(ConfigError, match=r"\$\.kernel: found 'flash_bwd_delta'; allowed: .*flash_bwd_dq"):
        load_space(write(tmp_path, BACKWARD.replace("flash_bwd", "flash_bwd_delta")))


def test_the_operation_is_part_of_a_digest(tmp_path):
    found = {load_space(name).digest for name in space_names()}
    assert len(found) == len(space_names())


def test_a_digest_covers_everything_but_the_name():
    assert replace(SPACE, name="other").digest == SPACE.digest
    assert replace(SPACE, sm=86).digest != SPACE.digest
    assert replace(SPACE, shapes=SPACE.shapes[:1]).digest != SPACE.digest


def test_a_dry_run_prints_what_each_rule_refuses_and_compiles_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert main(["run", write(tmp_path, GOOD.replace("num_warps: 4", "num_warps: [4, 8]")), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "32 points, 8 refused, 24 legal" in printed
    assert "registers_fit" in printed and "block_m must be a multiple of 16 rows for each of 8 warps" in printed


def test_no_legal_point_is_exit_status_1_and_misuse_is_2(tmp_path, capsys):
    bad = write(tmp_path, GOOD.replace("[64, 128]", "[512]"))
    assert main(["run", bad, "--arch", "sm80", "--out", str(tmp_path)]) == 1
    assert "none of its" in capsys.readouterr().err
    for words in (["nonesuch"], ["--arch", "sm12"], ["--trials", "0"], ["--minutes", "nan"], ["--jobs", "0"]):
        assert main(["run", *words]) == 2, words
