"""Tables without a search: exported from the store, merged by evidence, compared by their intervals."""

import json
import shutil
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import IDENTITY, FakeScorer, fake_kernel, make_request, make_work, run

from kernelwright.build import kernels as building
from kernelwright.gen.spec import ForwardProblem
from kernelwright.gen.terminal import DONE, FAILED, MISUSED
from kernelwright.runtime.table import read_table
from kernelwright.tuner import commands_tables
from kernelwright.tuner.cli import main
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.export import tuned_rows, write_table
from kernelwright.tuner.tables import diff_tables, find_table, merge_tables, write_merged
from kernelwright.tuner.target import Gpu
from kernelwright.tuner.work import Scored

FULL = replace(fakes.SPACE, name="full", problem=ForwardProblem(dtype="bf16", head_dim=64, is_causal=False))
SPACE = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: [64, 128], block_n: [32, 64], num_warps: 4, num_stages: [1, 2], q_in_regs: [false, true]}
constraints: [smem_fits, registers_fit]
shapes: {batch: 1, num_heads_q: 2, num_heads_kv: 2, seqlen: [512, 1024]}
"""


def table(folder, *, space=fakes.SPACE, scorer=None, content=b"cubin", gpu=None, trials=100, **identity):
    """Tune with fakes and leave the table in a folder."""
    request = replace(make_request(folder / "study", space=space, trials=trials), gpu=gpu)
    result = run(request, make_work(scorer=scorer or FakeScorer(label=identity.get("label", "modelled"))), **identity)
    rows = tuned_rows(result.choice, result.outcomes, result.facts, space.shapes)
    named = {row["kernel"] for row in rows}
    kernels = [fake_kernel(one.variant, content) for one in result.outcomes if one.variant.name in named]
    write_table(folder / "table", folder.name, rows, kernels, {})
    return find_table(folder / "table")


class Sampled(FakeScorer):
    """Times with samples: `step` apart, `factor` times as long."""

    def __init__(self, step, factor=1.0):
        super().__init__(label="measured")
        self.step, self.factor = step, factor

    def score(self, compiled):
        figures = {name: self.factor * value for name, value in super().score(compiled).items()}
        samples = {name: [value * (1 + self.step * (one - 10)) for one in range(21)] for name, value in figures.items()}
        return Scored(figures=figures, samples=samples)


# ---------------------------------------------------------------------- merging


def test_groups_of_both_are_kept_and_files_go_with_them(tmp_path):
    first, second = table(tmp_path / "a"), table(tmp_path / "b", space=FULL, content=b"other")
    content, decisions = merge_tables(first, second, "both")
    write_merged(tmp_path / "both", content, [first, second])
    assert [one.taken for one in decisions] == ["A", "B"] and {one.why for one in decisions} == {"only there"}
    found = read_table(tmp_path / "both", origin="test")
    assert len(found.rows) == 2 and {one.files["cubin"].read() for one in found.kernels.values()} == {
        b"cubin",
        b"other",
    }


def test_measured_beats_modelled_whichever_comes_first(tmp_path):
    modelled, measured = table(tmp_path / "a"), table(tmp_path / "b", label="measured")
    for first, second, side in ((modelled, measured, "B"), (measured, modelled, "A")):
        content, (decision,) = merge_tables(first, second, "x")
        assert decision.taken == side and decision.why == "measured beats modelled"
        assert {row["label"] for row in content["rows"]} == {"measured"}


def test_of_two_of_a_kind_the_one_with_more_evidence_is_taken(tmp_path):
    few, many = table(tmp_path / "a", trials=5), table(tmp_path / "b")
    (decision,) = merge_tables(few, many, "x")[1]
    assert (decision.taken, decision.why) == ("B", "rests on 16 trials, the other on 5")
    narrow = replace(fakes.SPACE, shapes=fakes.SHAPES[:1])
    (decision,) = merge_tables(many, table(tmp_path / "c", space=narrow), "x")[1]
    assert decision.taken == "A" and "rests on 2 shapes, the other on 1" in decision.why


@pytest.mark.parametrize(
    ("change", "named"), [({"source_digest": "b" * 64}, "source_digest"), ({"toolkit": "13.1.0"}, "toolkit")]
)
def test_figures_that_cannot_be_compared_are_refused_until_one_is_preferred(tmp_path, change, named):
    first, second = table(tmp_path / "a"), table(tmp_path / "b", **change)
    with pytest.raises(TunerError, match=rf"of another {named}.*--prefer A or B"):
        merge_tables(first, second, "x")
    assert merge_tables(first, second, "x", prefer="B")[1][0].taken == "B"


def test_rows_of_different_gpus_stand_side_by_side(tmp_path):
    gpus = [Gpu(name=name, sm=80, driver="CUDA 13.0") for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA A30")]
    first, second = (
        table(tmp_path / str(index), gpu=gpu, label="measured", device=gpu.name) for index, gpu in enumerate(gpus)
    )
    content, _ = merge_tables(first, second, "x")
    assert {row["device"] for row in content["rows"]} == {gpu.name for gpu in gpus}


def test_different_kernels_of_one_name_are_refused(tmp_path):
    gpu = Gpu(name="NVIDIA A30", sm=80)
    first = table(tmp_path / "a")
    second = table(tmp_path / "b", gpu=gpu, label="measured", device=gpu.name, content=b"other bytes")
    with pytest.raises(TunerError, match="hold different kernels of this name"):
        merge_tables(first, second, "x")


def test_a_file_that_was_changed_is_not_merged(tmp_path):
    first, second = table(tmp_path / "a"), table(tmp_path / "b", space=FULL)
    next(second.folder.glob("*.cubin")).write_bytes(b"x")
    content, _ = merge_tables(first, second, "x")
    with pytest.raises(TunerError, match="neither table has it as it was written"):
        write_merged(tmp_path / "both", content, [first, second])
    assert not (tmp_path / "both").exists()


# ---------------------------------------------------------------------- differences


def test_the_same_tables_say_the_same(tmp_path):
    found = table(tmp_path / "a").content
    assert diff_tables(found, found)["same"]


@pytest.mark.parametrize(("step", "significant"), [(0.001, True), (0.02, False)])
def test_a_difference_is_significant_where_the_intervals_are_apart(tmp_path, step, significant):
    first = table(tmp_path / "a", scorer=Sampled(step), label="measured")
    second = table(tmp_path / "b", scorer=Sampled(step, factor=1.05), label="measured")
    (group,) = diff_tables(first.content, second.content)["groups"]
    assert {one["significant"] for one in group["shapes"]} == {significant}
    assert all(one["ratio"] == pytest.approx(1.05, abs=1e-3) for one in group["shapes"])


def test_modelled_figures_have_no_interval_and_are_not_compared_with_measured_ones(tmp_path):
    first = table(tmp_path / "a")
    other = next(iter(make_request(tmp_path).pool.legal.values())).name
    faster = table(tmp_path / "b", scorer=FakeScorer(favourites=[other]))
    (group,) = diff_tables(first.content, faster.content)["groups"]
    assert {one["significant"] for one in group["shapes"]} == {None}
    (group,) = diff_tables(first.content, table(tmp_path / "c", label="measured").content)["groups"]
    assert group["shapes"] == [] and group["before"] != group["after"]


# ---------------------------------------------------------------------- commands


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """A store as `tuner run` leaves it, and a compiler of fakes."""
    from kernelwright.tuner.compile import source_digest
    from kernelwright.tuner.space import load_space

    path = tmp_path / "small.yaml"
    path.write_text(SPACE)
    space = load_space(str(path))
    request = make_request(tmp_path / "tuner", space=space)
    digest = source_digest(request.pool.legal.values())
    result = run(request, None, source_digest=digest)
    monkeypatch.setattr(
        building, "build_kernels", lambda variants, out, *, num_jobs=None: [fake_kernel(one) for one in variants]
    )
    return path, result


def test_export_makes_the_table_that_a_run_would_publish(tuned, tmp_path, capsys):
    path, result = tuned
    assert main(["export", str(path), "--out", str(tmp_path), "-o", str(tmp_path / "t"), "--json"]) == DONE
    answer = json.loads(capsys.readouterr().out)
    expected = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert [row["kernel"] for row in answer["rows"]] == [row["kernel"] for row in expected]
    assert {row["label"] for row in answer["rows"]} == {"modelled"}
    assert read_table(tmp_path / "t", origin="test").rows[0].evidence["search"] == "exported from the store"


def test_export_publishes_into_a_module_in_one_step_and_refuses_a_read_only_one(tuned, tmp_path, capsys, monkeypatch):
    path, _ = tuned
    module = tmp_path / "flash_sm80"
    module.mkdir()
    (module / "build_info.json").write_text('{"kernelwright": "0"}')
    command = ["export", str(path), "--out", str(tmp_path), "--module", str(module)]
    mkdir = type(module).mkdir

    def read_only(self, *more, **named):
        if self == module / "tuned":
            raise OSError(30, "Read-only file system", str(self))
        return mkdir(self, *more, **named)

    monkeypatch.setattr(type(module), "mkdir", read_only)
    assert main(command) == FAILED
    assert "may not write" in (said := capsys.readouterr().err) and "--module" in said and "Traceback" not in said
    monkeypatch.setattr(type(module), "mkdir", mkdir)
    assert main(command) == DONE
    assert find_table(module).folder.parent == module / "tuned"


def test_export_of_other_sources_keeps_the_records_and_says_so(tuned, tmp_path, capsys, monkeypatch):
    path, _ = tuned
    monkeypatch.setattr(commands_tables, "source_digest", lambda variants: "c" * 64)
    assert main(["export", str(path), "--out", str(tmp_path), "-o", str(tmp_path / "t")]) == FAILED
    assert "16 records, none of these sources" in capsys.readouterr().err and not (tmp_path / "t").exists()


def test_export_does_not_choose_between_kinds_of_figures(tuned, tmp_path, capsys):
    from kernelwright.tuner.store import SUFFIX, Store

    path, result = tuned
    file = tmp_path / "tuner" / f"small-sm80{SUFFIX}"
    store = Store(file, "small-sm80", replace(result.facts.identity, label="measured"))
    store.append(replace(result.choice.winner, samples={}))
    command = ["export", str(path), "--out", str(tmp_path), "-o", str(tmp_path / "t")]
    assert main(command) == FAILED
    assert "results of 2 kinds, which are not mixed" in capsys.readouterr().err
    assert main([*command, "--label", "modelled"]) == DONE


def test_merge_and_diff_from_the_command_line(tmp_path, capsys):
    first, second = table(tmp_path / "a"), table(tmp_path / "b", space=FULL)
    both = str(tmp_path / "both")
    assert main(["merge", str(first.folder), str(second.folder), "-o", both]) == DONE
    assert "A  flash_fwd sm80" in (said := capsys.readouterr().out) and "2 rows, 2 kernels" in said
    assert main(["diff", str(first.folder), both]) == DONE
    assert "added flash_fwd_sm80_bf16_hd64_causal0" in capsys.readouterr().out
    assert main(["diff", str(first.folder), both, "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out)["kernels_added"]) == 1
    assert main(["diff", both, both]) == DONE
    assert "the tables say the same" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["missing", "unknown key", "schema"])
def test_a_table_with_a_fault_is_refused_by_its_place(tmp_path, capsys, fault):
    good = table(tmp_path / "a").folder
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    content = json.loads((bad / "table.json").read_text())
    if fault == "missing":
        (bad / "table.json").unlink()
    else:
        changed = content | ({"colour": 1} if fault == "unknown key" else {"schema": 99})
        (bad / "table.json").write_text(json.dumps(changed))
    assert main(["diff", str(good), str(bad)]) == FAILED
    said = capsys.readouterr().err
    expected = {"missing": "neither a table folder nor a module", "unknown key": "$.colour", "schema": "$.schema is 99"}
    assert expected[fault] in said and "Traceback" not in said


def test_misuse_is_told(capsys):
    assert main(["merge", "a", "b"]) == MISUSED
    assert main(["export", "flash_fwd_hd64_causal"]) == MISUSED
    assert "-o" in capsys.readouterr().err


def test_exported_identity_is_the_studys(tuned):
    _, result = tuned
    assert result.facts.identity.device == IDENTITY.device
