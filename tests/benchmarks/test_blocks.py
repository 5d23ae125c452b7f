"""The step `blocks` without a GPU: bytes are counted, times are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from device_steps import blocks  # noqa: E402
from steps_context import make_context, run_step  # noqa: E402

from kernelwright.build.kernels import build_kernels  # noqa: E402
from kernelwright.build.launcher import compile_launcher, emulator_library  # noqa: E402
from kernelwright.build.module import ModuleContent, assemble_module  # noqa: E402
from kernelwright.build.settings import read_settings  # noqa: E402
from kernelwright.gen.table import hand_row  # noqa: E402


@pytest.mark.parametrize("sm", [80, 86, 89])
def test_every_tile_is_allowed_everywhere(sm):
    assert len(blocks.variants(sm, False)) == len(blocks.TILES) == len({one.name for one in blocks.variants(sm, False)})


def test_larger_blocks_of_queries_move_fewer_bytes():
    found = [
        (one.schedule.block_m, blocks.counted_bytes(one, blocks.SHAPE)["global_bytes"])
        for one in blocks.variants(80, False)
    ]
    by_rows = dict(sorted(found))
    assert list(by_rows.values()) == sorted(by_rows.values(), reverse=True)
    # Q and the output once; keys and values once for each of the 4 blocks of 256 queries.
    assert by_rows[256] == 2 * 64 * 64 * 16 * 1024 * (1 + 1 + 2 * 4)


def test_a_tile_that_crashes_leaves_the_others(tmp_path, fake_table):
    quick = blocks.variants(80, True)
    _name_kernels(fake_table, [one.name for one in quick])

    def answer(target, kwargs):
        if quick[1].name in kwargs["names"]:
            return {"fault": "crash", "detail": "the process died (SIGSEGV)"}
        return {
            "results": {name: {"time_us": 50.0, "tflops": 1.0, "worst_difference": 0.1} for name in kwargs["names"]}
        }

    context = make_context(tmp_path, "blocks", module_dir=fake_table, driver="cuda", answer=answer)
    records = run_step(blocks, context, [task for task in blocks.plan(context) if task.key == "times"])
    assert [one.get("time_us") for one in records] == [50.0, None, 50.0]
    assert [one.get("fault") for one in records] == [None, "crash: the process died (SIGSEGV)", None]
    assert all(one["label"] == "measured" for one in records)


def _name_kernels(module: Path, names: list[str]) -> None:
    path = module / "kernels" / "table.json"
    (entry,) = json.loads(path.read_text())["kernels"].values()
    path.write_text(json.dumps({"kernels": dict.fromkeys(names, entry)}))


def test_a_tile_that_the_module_lacks_is_reported(tmp_path, fake_table):
    context = make_context(tmp_path, "blocks", module_dir=fake_table, driver="cuda")
    records = run_step(blocks, context)
    assert len(records) == 6
    assert {one["note"] for one in records} == {"refused: this module was built without it"}


@pytest.fixture
def fake_table(tmp_path: Path) -> Path:
    """A module's table with one kernel of another problem."""
    folder = tmp_path / "module"
    (folder / "kernels").mkdir(parents=True)
    entry = {
        "operation": "flash_fwd",
        "sm": 80,
        "problem": {"dtype": "fp16", "head_dim": 128, "is_causal": True},
        "schedule": {},
        "files": {"ptx": {"sha256": ""}},
    }
    (folder / "kernels" / "table.json").write_text(json.dumps({"kernels": {"other": entry}}))
    return folder


@pytest.fixture(scope="module")
def tiles_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module with the tiles of a quick run."""
    out = tmp_path_factory.mktemp("tiles")
    kernels = build_kernels(blocks.variants(80, True), out)
    content = ModuleContent(
        name="flash_tiles",
        kernels=kernels,
        rows=[hand_row(kernels[0].variant, {})],
        launcher=compile_launcher(read_settings().cache_dir),
        emulator=emulator_library(),
        info={"profile": "tiles", "archs": ["sm80"]},
    )
    assemble_module(out / "flash_tiles", content)
    return out / "flash_tiles"


@pytest.mark.nvcc
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_whole_step_runs_on_the_emulator(tmp_path, tiles_module):
    context = make_context(tmp_path, "blocks", module_dir=tiles_module)
    records = run_step(blocks, context)
    counted = [one for one in records if one["key"].endswith("/bytes")]
    timed = [one for one in records if one["key"].endswith("/time")]
    assert len(counted) == len(timed) == 3
    for one in counted:
        assert one["label"] == "counted" and one["counted_by"].startswith("closed form, equal to the emulator's count")
        assert not one.get("fault"), one
    for one in timed:
        assert one["label"] != "measured" and not one.get("fault")
        assert one["time_us"] is None and one["tflops"] is None and one["samples_us"] == []
        assert one["worst_difference"] <= 1
    lines = blocks.table(records)
    assert len(lines) == 3 and all("(counted), not measured" in line for line in lines)
    assert run_step(blocks, context) == []  # all is done
