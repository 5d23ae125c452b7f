"""Tuning without Optuna: every point once, resumable, tied to its sources, and said."""

import io
import subprocess
import sys
from dataclasses import replace

import pytest
from tuner_fakes import IDENTITY, FakeScorer, make_request, make_work, run

from kernelwright.tuner import tune as tuning
from kernelwright.tuner.errors import StudyExistsError, TunerError
from kernelwright.tuner.store import SUFFIX


@pytest.fixture(autouse=True)
def without_optuna(monkeypatch):
    monkeypatch.setattr(tuning, "has_optuna", lambda: False)


def test_every_point_is_tried_once_and_the_default_first(tmp_path):
    request = make_request(tmp_path)
    scorer = FakeScorer()
    result = run(request, make_work(scorer=scorer))
    assert sorted(scorer.scored) == sorted(variant.name for variant in request.pool.legal.values())
    assert result.outcomes[0].variant == request.pool.legal[request.pool.default]
    assert result.facts.end == "every point tried"


def test_a_resumed_study_tries_what_is_left_even_after_a_line_was_cut_off(tmp_path):
    first = make_request(tmp_path, trials=3)
    run(first, make_work(scorer=FakeScorer()))
    (path,) = tmp_path.glob(f"*{SUFFIX}")
    path.write_bytes(path.read_bytes()[:-9])
    scorer = FakeScorer()
    whole = make_request(tmp_path, resume=True)
    run(whole, make_work(scorer=scorer))
    assert len(scorer.scored) == len(whole.pool.legal) - 2


def test_a_study_is_not_continued_without_resume(tmp_path):
    run(make_request(tmp_path, trials=2), make_work(scorer=FakeScorer()))
    with pytest.raises(StudyExistsError, match="--resume"):
        run(make_request(tmp_path, trials=2), make_work(scorer=FakeScorer()))


def test_a_storage_is_refused(tmp_path):
    with pytest.raises(TunerError, match="needs optuna"):
        run(replace(make_request(tmp_path), storage="x.journal"), make_work(scorer=FakeScorer()))


def test_it_says_so(tmp_path):
    request, said = make_request(tmp_path, trials=1), io.StringIO()
    tuning.tune(request, IDENTITY, lambda: make_work(scorer=FakeScorer()), stream=said)
    assert "optuna is not installed: every point is tried" in said.getvalue()


def test_the_command_starts_where_optuna_cannot_be_imported():
    code = "import sys; sys.modules['optuna'] = None; from kernelwright.tuner.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
