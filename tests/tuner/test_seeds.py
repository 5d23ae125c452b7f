"""Seeds: winners of tables and stores come right after the default, the same architecture's first."""

from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, make_request, make_work, run, wide_space

from kernelwright.tuner import commands
from kernelwright.tuner.cli import _parser
from kernelwright.tuner.export import tuned_rows, write_table
from kernelwright.tuner.seeds import MAX_SEEDS, find_stores, find_tables, winners
from kernelwright.tuner.space import point_of
from kernelwright.tuner.store import SUFFIX

SPACE = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: [64, 128], block_n: [32, 64], num_warps: 4, num_stages: [1, 2], q_in_regs: [false, true]}
constraints: [smem_fits]
shapes: {batch: 1, num_heads_q: 2, num_heads_kv: 2, seqlen: [512, 1024]}
"""


def make_table(folder, space, favourite):
    """Write the table of a study in which one point is by far the best; return that point."""
    request = make_request(folder / "study", space=space)
    variant = list(request.pool.legal.values())[favourite]
    result = run(request, make_work(scorer=FakeScorer(favourites=[variant.name])))
    assert result.choice.winner.variant == variant
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    write_table(folder / "table", "t", rows, [fakes.fake_kernel(variant)], {})
    return point_of(variant.schedule)


def test_winners_of_tables_of_this_architecture_come_before_those_of_others_and_of_stores(tmp_path):
    other = make_table(tmp_path / "sm86", replace(fakes.SPACE, sm=86), 1)
    same = make_table(tmp_path / "sm80", fakes.SPACE, 2)
    request = make_request(tmp_path, space=wide_space(4))
    tables = [tmp_path / "sm86" / "table", tmp_path / "sm80" / "table", tmp_path / "nothing"]
    assert winners(request.space, request.pool, tables, []) == (same, other)
    stores = find_stores(tmp_path / "sm86" / "study")
    assert stores == [tmp_path / "sm86" / "study" / f"small-sm86{SUFFIX}"]
    assert winners(request.space, request.pool, [], stores)[0] == other
    assert len(winners(request.space, request.pool, tables, stores)) <= MAX_SEEDS


def test_winners_for_another_problem_are_no_seeds(tmp_path):
    make_table(tmp_path, fakes.SPACE, 2)
    full = replace(fakes.SPACE, problem=replace(fakes.PROBLEM, is_causal=False))
    request = make_request(tmp_path, space=full)
    assert winners(full, request.pool, [tmp_path / "table"], find_stores(tmp_path / "study")) == ()


def test_a_table_or_store_with_a_fault_is_passed_over_with_a_warning(tmp_path, caplog):
    request = make_request(tmp_path)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "table.json").write_text("{")
    (tmp_path / f"x{SUFFIX}").write_text("no\n")
    assert winners(request.space, request.pool, [tmp_path / "table"], find_stores(tmp_path)) == ()
    assert caplog.text.count("its winners are not tried") == 2


def test_the_command_begins_with_the_winner_of_the_table_that_is_there(tmp_path, monkeypatch):
    best = make_table(tmp_path / "out" / "tuner" / "earlier", fakes.SPACE, 3)
    asked = []

    class SeenError(Exception):
        pass

    def see(request, *_):
        asked.append(request)
        raise SeenError

    monkeypatch.setattr(commands, "tune_and_publish", see)
    space = tmp_path / "mine.yaml"
    space.write_text(SPACE)
    words = ["run", str(space), "--arch", "sm80", "--backend", "modelled", "--out", str(tmp_path / "out")]
    with pytest.raises(SeenError):
        commands.run(_parser().parse_args(words))
    assert asked[0].first == (best,)
    assert find_tables(tmp_path / "out", tmp_path / "m", tmp_path)[0] == tmp_path / "m"
