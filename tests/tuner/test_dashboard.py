"""A study's storage is an ordinary one of Optuna's: optuna-dashboard and anybody's script read it without our code."""

import importlib.util
import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from tuner_fakes import FakeVerifier, make_request, make_work, run

READ = """
import json, sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
where = sys.argv[1]
file = optuna.storages.journal.JournalFileBackend
storage = where if "://" in where else optuna.storages.JournalStorage(file(where))
study = optuna.load_study(storage=storage, study_name="small-sm80")
assert not [name for name in sys.modules if name.startswith("kernelwright")]
print(json.dumps({
    "attributes": study.user_attrs,
    "best": study.best_trial.user_attrs["variant"],
    "best_value": study.best_value,
    "importances": sorted(optuna.importance.get_param_importances(study)),
    "kinds": [trial.user_attrs["kind"] for trial in study.trials],
    "params": [trial.params for trial in study.trials],
    "states": sorted({trial.state.name for trial in study.trials}),
}))
"""


def tuned(folder, kind):
    """Return a finished study with two failures, and where its storage is."""
    storage = f"sqlite:///{folder}/studies.db" if kind == "database" else None
    request = replace(make_request(folder), storage=storage)
    names = [variant.name for variant in request.pool.legal.values()]
    return run(request, make_work(verifier=FakeVerifier(wrong=names[:2]))), request.where


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_optuna_alone_reads_a_study(tmp_path, kind):
    result, where = tuned(tmp_path, kind)
    done = subprocess.run([sys.executable, "-I", "-c", READ, where], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    best = min(result.outcomes, key=lambda one: one.score)
    assert (found["best"], found["best_value"]) == (best.variant.name, pytest.approx(best.score))
    assert found["states"] == ["COMPLETE"] and found["kinds"].count("correctness") == 2 and len(found["kinds"]) == 16
    assert found["attributes"]["label"] == "modelled" and "block_n" in found["importances"]
    assert all(isinstance(value, int | bool) for params in found["params"] for value in params.values())


def ask(app, path, query=""):
    status = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environment, lambda said, headers, *more: status.append(said)))
    assert status == ["200 OK"], (path, body)
    return json.loads(body)


@pytest.mark.skipif(
    importlib.util.find_spec("optuna_dashboard") is None, reason="no optuna-dashboard: pip install optuna-dashboard"
)
@pytest.mark.parametrize("kind", ["journal", "database"])
def test_the_dashboard_shows_a_study(tmp_path, kind):
    import optuna
    from optuna_dashboard import wsgi

    result, where = tuned(tmp_path, kind)
    backend = optuna.storages.journal.JournalFileBackend
    storage = optuna.storages.JournalStorage(backend(where)) if kind == "journal" else where
    app = wsgi(storage)
    (study,) = ask(app, "/api/studies")["study_summaries"]
    assert study["study_name"] == "small-sm80"
    shown = ask(app, f"/api/studies/{study['study_id']}", "after=0")
    assert len(shown["trials"]) == 16 and {trial["state"] for trial in shown["trials"]} == {"Complete"}
    best = min(result.outcomes, key=lambda one: one.score)
    (found,) = [t for t in shown["trials"] if {"key": "variant", "value": best.variant.name} in t["user_attrs"]]
    assert found["values"] == [pytest.approx(best.score)] and {one["name"] for one in found["params"]} >= {"block_m"}
    (importances,) = ask(app, f"/api/studies/{study['study_id']}/param_importances")["param_importances"]
    assert {one["name"] for one in importances} >= {"block_m", "block_n"}
