"""scripts/bootstrap.py: what it chooses for which machine, and that half an environment is not kept."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bootstrap.py"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
ORDINARY = "torch>=2.4"


@pytest.fixture(scope="module")
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bootstrap"]


def choose(bootstrap, *, version=None, has_gpu=False, wish=""):
    found = bootstrap.FoundTorch(version=version, paths=("/parent/site-packages",)) if version else None
    return bootstrap.choose_torch(found, has_gpu=has_gpu, wish=wish, ordinary=ORDINARY)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_torch_that_is_there_is_reused_and_pinned(bootstrap, has_gpu):
    choice = choose(bootstrap, version="2.11.0+cu130", has_gpu=has_gpu)
    assert (choice.requirement, choice.reused) == ("torch==2.11.0+cu130", True)


def test_a_torch_older_than_the_project_allows_is_not_reused(bootstrap):
    assert choose(bootstrap, version="2.3.1").requirement == "torch==2.13.0+cpu"


def test_a_machine_with_a_gpu_gets_the_ordinary_torch_and_hears_its_size(bootstrap):
    choice = choose(bootstrap, has_gpu=True)
    assert choice.requirement == ORDINARY
    assert "2.7 GB" in choice.note


def test_a_machine_without_a_gpu_gets_the_label_that_brings_no_cuda_packages(bootstrap):
    choice = choose(bootstrap)
    assert choice.requirement == "torch==2.13.0+cpu"
    assert choice.may_fall_back


def test_torch_none_means_none_even_where_there_is_one(bootstrap):
    assert choose(bootstrap, version="2.13.0", has_gpu=True, wish="none").requirement is None


def test_torch_cuda_asks_for_the_ordinary_build(bootstrap):
    assert choose(bootstrap, wish="cuda").requirement == ORDINARY


def test_another_wish_is_refused_with_what_is_allowed(bootstrap):
    with pytest.raises(bootstrap.SetupError, match="TORCH=cpu: expected none, cuda"):
        choose(bootstrap, wish="cpu")


def test_the_core_dependencies_are_exactly_five(bootstrap):
    names = [bootstrap.name_of(line) for line in PROJECT["dependencies"]]
    assert names == ["jinja2", "torch", "ninja", "optuna", "pyyaml"]


def test_the_compiler_wheels_come_only_where_there_is_no_nvcc(bootstrap):
    with_cuda = bootstrap.requirements(PROJECT, with_cuda=True)
    without = bootstrap.requirements(PROJECT, with_cuda=False)
    assert sorted(set(with_cuda) - set(without)) == PROJECT["optional-dependencies"]["cuda"]
    assert not any(line.startswith("torch") for line in with_cuda)


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_nvcc_is_found_in_a_named_toolkit(bootstrap, tmp_path, variable):
    nvcc = executable(tmp_path / "bin" / "nvcc")
    assert bootstrap.find_nvcc({variable: str(tmp_path), "PATH": ""}) == str(nvcc)
    assert bootstrap.find_nvcc({"PATH": str(tmp_path / "bin")}) == str(nvcc)
    assert bootstrap.find_nvcc({"PATH": str(tmp_path)}) is None


def test_the_compiler_may_be_named_with_options(bootstrap, tmp_path):
    compiler = executable(tmp_path / "my-c++")
    assert bootstrap.find_compiler({"CXX": "my-c++ -pipe", "PATH": str(tmp_path)}) == str(compiler)
    assert bootstrap.find_compiler({"PATH": str(tmp_path)}) is None


@pytest.mark.parametrize("change", [{"python": "3.12"}, {"wish": "none"}, {"with_cuda": True}])
def test_the_stamp_changes_with_the_machine(bootstrap, change):
    facts = {"python": "3.11", "wish": "", "with_cuda": False}
    assert bootstrap.stamp_text(PYPROJECT, **facts) == bootstrap.stamp_text(PYPROJECT, **facts)
    assert bootstrap.stamp_text(PYPROJECT, **facts | change) != bootstrap.stamp_text(PYPROJECT, **facts)


def test_the_stamp_changes_with_the_dependencies_and_not_with_a_lint_rule(bootstrap):
    facts = {"python": "3.11", "wish": "", "with_cuda": False}
    project = {**PROJECT, "dependencies": [*PROJECT["dependencies"], "new"]}
    tool = {**PYPROJECT["tool"], "ruff": {}}
    stamp = bootstrap.stamp_text(PYPROJECT, **facts)
    assert bootstrap.stamp_text({**PYPROJECT, "project": project}, **facts) != stamp
    assert bootstrap.stamp_text({**PYPROJECT, "tool": tool}, **facts) == stamp


def test_where_the_index_lacks_the_cpu_build_the_ordinary_one_follows_its_size(bootstrap, monkeypatch, capsys):
    asked = []

    def fake_run(command, hint=""):
        asked.append(command[-1])
        if command[-1] == "torch==2.13.0+cpu":
            raise bootstrap.SetupError("ERROR: No matching distribution found for torch==2.13.0+cpu")

    monkeypatch.setattr(bootstrap, "run", fake_run)
    assert bootstrap.install_torch(["pip", "install"], choose(bootstrap), ORDINARY) == ORDINARY
    assert asked == ["torch==2.13.0+cpu", ORDINARY]
    said = capsys.readouterr().err
    assert "2.7 GB" in said
    assert "TORCH=none" in said


def test_a_network_that_fails_does_not_lead_to_the_ordinary_torch(bootstrap, monkeypatch):
    def fake_run(command, hint=""):
        raise bootstrap.SetupError("ERROR: Could not install packages due to an OSError: connection reset")

    monkeypatch.setattr(bootstrap, "run", fake_run)
    with pytest.raises(bootstrap.SetupError, match="connection reset"):
        bootstrap.install_torch(["pip", "install"], choose(bootstrap), ORDINARY)


def test_a_folder_that_is_no_environment_is_left_alone(bootstrap, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(bootstrap.SetupError, match="is no virtual environment"):
        bootstrap.create(tmp_path, PROJECT, wish="none", with_cuda=False)
    assert (tmp_path / "thesis.txt").exists()


def test_without_a_compiler_it_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--venv", tmp_path / "venv"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no C++ compiler" in done.stderr
    assert "apt install g++" in done.stderr


def test_a_python_without_headers_is_named_with_what_to_install(bootstrap, tmp_path):
    (line,) = bootstrap.missing_tools("/usr/bin/g++", tmp_path)
    assert str(tmp_path) in line
    assert "python3-dev" in line


def test_an_environment_whose_installation_failed_is_not_taken_for_good(tmp_path):
    """Real pip and an index that holds nothing: the error is shown and no stamp stays behind."""
    venv, empty, broken = (tmp_path / name for name in ("venv", "empty", "broken"))
    empty.mkdir()
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError\n")  # hides the torch of whoever runs the tests
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    index = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(empty)}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--venv", venv],
        env=ours | index | {"PYTHONPATH": str(broken), "TORCH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "No matching distribution found for torch" in done.stderr
    assert venv.exists()
    assert not (venv / "kernelwright-stamp").exists()
