"""Studies: exhaustive without repetition, resumable, tied to their sources, safe against broken journals."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeCompiler, FakeScorer, make_request, make_work, run, wide_space

from kernelwright.tuner.errors import StudyChangedError, StudyExistsError, TunerError
from kernelwright.tuner.interrupts import uninterrupted
from kernelwright.tuner.seeds import prior
from kernelwright.tuner.study import mend_journal

JOURNAL = "small-sm80.journal"


def trials(out, name=JOURNAL):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(Path(out).absolute() / name))
    )
    return optuna.load_study(storage=storage, study_name=name.removesuffix(".journal")).trials


def order_of(result):
    return [outcome.variant.name for outcome in result.outcomes]


def test_a_small_pool_is_tried_whole_and_no_point_twice(tmp_path):
    request = make_request(tmp_path)
    scorer = FakeScorer()
    result = run(request, make_work(scorer=scorer))
    assert sorted(order_of(result)) == sorted(variant.name for variant in request.pool.legal.values())
    assert len(set(scorer.scored)) == len(scorer.scored) == len(request.pool.legal)
    assert result.facts.end == "every point tried"


def test_every_point_is_an_optuna_trial_with_its_attributes_and_label(tmp_path):
    result = run(make_request(tmp_path))
    found = trials(tmp_path)
    assert len(found) == len(result.outcomes)
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    assert {trial.user_attrs["label"] for trial in found} == {"modelled"}
    assert all(trial.params["block_m"] in (64, 128) for trial in found)
    best = min(found, key=lambda trial: trial.value)
    assert best.user_attrs["outcome"]["figures"].keys() == {shape.name for shape in fakes.SHAPES}


def test_the_default_is_tried_first(tmp_path):
    request = make_request(tmp_path)
    assert order_of(run(request))[0] == request.pool.legal[request.pool.default].name


def test_the_same_seed_tries_the_same_points_in_the_same_order(tmp_path):
    orders = [
        order_of(run(replace(make_request(tmp_path / str(index), trials=12, seed=seed), strategy="random")))
        for index, seed in enumerate((7, 7, 8))
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_small_pool_is_tried_in_the_order_of_the_model(tmp_path):
    request = make_request(tmp_path, trials=12)
    order = order_of(run(request))
    expected = dict(zip(request.pool.legal.values(), prior(request.pool, request.device, fakes.SHAPES), strict=True))
    found = [expected[fakes.Variant.parse(name)] for name in order]
    assert found[1:] == sorted(found[1:]) and order[0] == request.pool.legal[request.pool.default].name


def test_tpe_never_repeats_a_point_and_beats_random_on_an_easy_space(tmp_path):
    request = replace(make_request(tmp_path, space=wide_space(), trials=40), strategy="tpe")
    assert len(request.pool.legal) > 60
    result = run(request)
    order = order_of(result)
    assert len(set(order)) == len(order) == 40
    assert result.facts.end == "trials spent"
    better = sorted(
        FakeScorer().score(fakes.Compiled(variant=v, kernel=None))[fakes.SHAPES[0].name]
        for v in request.pool.legal.values()
    )
    assert min(one.figures[fakes.SHAPES[0].name] for one in result.outcomes) <= better[2]


def test_an_existing_study_is_refused_without_resume_and_the_choice_is_said(tmp_path):
    run(make_request(tmp_path))
    with pytest.raises(StudyExistsError, match=r"16 finished trials.*--resume.*--out OTHER"):
        run(make_request(tmp_path))


def test_resume_tries_only_what_is_left(tmp_path):
    first = run(make_request(tmp_path, trials=3))
    assert len(first.outcomes) == 3 and first.facts.end == "trials spent"
    scorer = FakeScorer()
    second = run(make_request(tmp_path, resume=True), make_work(scorer=scorer))
    assert len(second.outcomes) == 16 and len(scorer.scored) == 13
    assert not set(order_of(first)) & set(scorer.scored)
    third = run(make_request(tmp_path, resume=True), None)
    assert order_of(third) == order_of(second)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source_digest": "b" * 64}, "source_digest"),
        ({"toolkit": "13.1.0"}, "toolkit"),
        ({"label": "measured"}, "label"),
    ],
)
def test_resuming_with_other_sources_is_refused_by_name(tmp_path, change, named):
    run(make_request(tmp_path, trials=3))
    with pytest.raises(StudyChangedError, match=f"made with another {named}"):
        run(make_request(tmp_path, resume=True), **change)


def test_resuming_with_another_space_of_the_same_name_is_refused(tmp_path):
    run(make_request(tmp_path, trials=3))
    with pytest.raises(StudyChangedError, match="space_digest"):
        run(make_request(tmp_path, resume=True, space=replace(fakes.SPACE, shapes=fakes.SHAPES[:1])))


def test_a_truncated_last_line_is_dropped_with_a_warning(tmp_path, caplog):
    run(make_request(tmp_path, trials=4))
    journal = tmp_path / JOURNAL
    data = journal.read_bytes()
    journal.write_bytes(data[:-20])
    with caplog.at_level(logging.WARNING):
        result = run(make_request(tmp_path, resume=True))
    assert "unfinished last line" in caplog.text
    assert len(result.outcomes) == len(set(order_of(result))) == 16


def test_a_journal_without_a_fault_is_left_alone(tmp_path):
    path = tmp_path / "journal"
    assert not mend_journal(path)
    path.write_bytes(b'{"a": 1}\n{"b": 2}\n')
    assert not mend_journal(path)
    path.write_bytes(b'{"a": 1}\n{"b"\n')
    assert mend_journal(path) and path.read_bytes() == b'{"a": 1}\n'


def test_a_storage_that_is_no_journal_is_said_so(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello\nworld\nagain\n")
    with pytest.raises(TunerError, match=r"notes.txt: not a journal"):
        run(replace(make_request(tmp_path), storage=str(path)))
    assert path.read_text().startswith("hello")


def test_a_database_url_is_a_storage_too(tmp_path):
    request = replace(make_request(tmp_path, trials=3), storage=f"sqlite:///{tmp_path}/studies.db")
    assert len(run(request).outcomes) == 3
    assert len(run(replace(request, resume=True, budget=replace(request.budget, trials=9))).outcomes) == 9


def test_a_database_that_was_lost_is_made_again_from_the_store(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    first = run(replace(make_request(tmp_path), storage=url))
    (tmp_path / "studies.db").unlink()
    scorer = FakeScorer()
    again = run(replace(make_request(tmp_path, resume=True), storage=url), make_work(scorer=scorer))
    assert not scorer.scored and {one.variant for one in again.outcomes} == {one.variant for one in first.outcomes}
    found = optuna.load_study(storage=url, study_name="small-sm80").trials
    assert [trial.value for trial in found] == [one.score for one in first.outcomes]


@pytest.mark.parametrize(
    "url", ["nosuch://host/db", "sqlite:////proc/none/studies.db", "postgresql://user:pw@localhost:1/db"]
)
def test_a_database_that_cannot_be_used_is_said_so_without_its_password(tmp_path, url):
    with pytest.raises(TunerError, match=r"--storage \w+://\.\.\.: cannot be used") as caught:
        run(replace(make_request(tmp_path), storage=url))
    assert ":pw@" not in str(caught.value)


def test_two_runs_do_not_share_a_journal(tmp_path):
    class Nested(FakeCompiler):
        def compile(self, variants):
            with pytest.raises(TunerError, match="another tuner is at work"):
                run(make_request(tmp_path, resume=True))
            return super().compile(variants)

    run(make_request(tmp_path), make_work(compiler=Nested()))


def test_time_is_kept_but_for_what_runs(tmp_path):
    result = run(make_request(tmp_path, seconds=0.5), make_work(scorer=FakeScorer(pause_s=0.2)))
    assert 1 <= len(result.outcomes) <= 4 and result.facts.end == "time spent"


def test_points_of_a_killed_run_are_tried_again(tmp_path):
    """A kill leaves trials that look as if they were running."""

    class Spy(FakeCompiler):
        def compile(self, variants):
            (tmp_path / "copy").write_bytes((tmp_path / JOURNAL).read_bytes())
            raise SystemExit  # stands for the kill: what the journal held by now is put back below

    with pytest.raises(SystemExit):
        run(make_request(tmp_path), make_work(compiler=Spy()))
    (tmp_path / JOURNAL).write_bytes((tmp_path / "copy").read_bytes())
    assert {trial.state.name for trial in trials(tmp_path)} == {"RUNNING"}
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)  # and Optuna's lock
    result = run(make_request(tmp_path))
    assert len(result.outcomes) == 16


def test_ctrl_c_keeps_finished_points_and_says_how_to_go_on(tmp_path):
    space = tmp_path / "small.yaml"
    space.write_text(
        "schema: 1\nkernel: flash_fwd\narch: sm80\nproblem: {dtype: bf16, head_dim: 64, is_causal: true}\n"
        "schedule: {block_m: [64, 128], block_n: [32, 64], num_warps: 4, num_stages: [1, 2], q_in_regs: [false, true]}"
        "\n"
        "constraints: [smem_fits, registers_fit]\n"
        "shapes: {batch: 1, num_heads_q: 2, num_heads_kv: 2, seqlen: [512, 1024]}\n"
    )
    command = [
        sys.executable,
        fakes.__file__,
        "run",
        str(space),
        "--arch",
        "sm80",
        "--out",
        str(tmp_path),
        "--jobs",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    journal = tmp_path / "tuner" / JOURNAL
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count('"values"') < 2:
        assert process.poll() is None and time.monotonic() < deadline, "the study has not begun"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted; finished points are kept" in said and "--resume" in said
    done = [trial for trial in trials(tmp_path / "tuner") if trial.state.name == "COMPLETE"]
    assert 2 <= len(done) < 16
    finished = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert answer["trials"] == 16 and len({row["variant"] for row in answer["ranking"]}) == 16
    assert answer["label"] == "modelled" and {row["label"] for row in answer["ranking"]} == {"modelled"}


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_interrupted():
    steps = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        steps.append("after the signal")
    assert steps == ["after the signal"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with uninterrupted():
        steps.append("quiet")
    assert steps[-1] == "quiet"
