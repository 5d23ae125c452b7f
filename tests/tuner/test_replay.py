"""`tuner replay`: recorded spaces read or refused with a reason, and strategies counted by one rule."""

import gzip
import json
import math

import pytest
import recordings

from kernelwright.gen.terminal import FAILED, MISUSED
from kernelwright.tuner.cli import main
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.recording import load_recording
from kernelwright.tuner.replay import replay, summarise


@pytest.fixture
def file(tmp_path):
    return recordings.write_cache(tmp_path / "cache.json")


def test_a_cache_is_read_whole_with_its_failures_and_raw_repeats(file):
    recording = load_recording(file)
    data = recordings.cache()["cache"]
    assert len(recording.pool) == len(data)
    assert sum(math.isinf(one) for one in recording.figures) == recording.failures["RuntimeFailedConfig"] > 10
    index = recording.pool.index()[recordings.BEST]
    assert len(recording.samples[index]) == 5
    assert recording.figures[index] == pytest.approx(sum(recording.samples[index]) / 5)
    assert recording.cost_ms[index] == 920.0 and recording.title == "gemm on Test GPU"


def test_a_gzipped_cache_and_one_that_was_never_closed_are_the_same(file, tmp_path):
    packed = tmp_path / "cache.json.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    unfinished = tmp_path / "unfinished.json"
    unfinished.write_text(file.read_text().rstrip().rstrip("}").rstrip() + "},")  # as Kernel Tuner leaves it
    whole = load_recording(file)
    assert load_recording(packed).figures == whole.figures
    assert load_recording(unfinished).figures == whole.figures


def test_t4_results_are_read_too(tmp_path):
    def result(a, times, invalidity):
        return {
            "configuration": {"a": a, "b": 2},
            "times": {"compilation": 10, "runtimes": times},
            "invalidity": invalidity,
        }

    path = tmp_path / "space_T4.json"
    path.write_text(json.dumps({"results": [result(1, [2.0, 4.0], "correct"), result(2, [], "runtime")]}))
    recording = load_recording(path)
    assert recording.figures == (3.0, math.inf) and recording.failures == {"runtime": 1}
    assert recording.title == "space_T4" and recording.cost_ms[0] == 16.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON"),
        (b"hello", "no JSON"),
        (b"[1, 2]", "not a recorded space"),
        (b'{"schema": 1}', "not a recorded space"),
        (b'{"cache": {"1": {"a": 1}}, "tune_params_keys": ["a"], "kernel_name": "k", "device_name": "d"}', "'time'"),
        (b'{"cache": {}, "tune_params_keys": ["a"], "kernel_name": "k", "device_name": "d"}', "none of its 0 points"),
        (gzip.compress(b'{"cache": {}}' * 99)[:-9], "truncated"),
        (b"\x1f\x8b\x08\x00 no gzip at all", "cannot be read|damaged"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name_and_reason(tmp_path, content, said):
    path = tmp_path / "odd.json.gz"
    path.write_bytes(content)
    with pytest.raises(TunerError, match=rf"odd\.json\.gz: .*({said})"):
        load_recording(path)


def test_a_truncated_cache_is_said_to_be_truncated(file):
    file.write_text(file.read_text()[:-2000])
    with pytest.raises(TunerError, match="truncated: its JSON ends in the middle"):
        load_recording(file)


def test_the_summary_counts_evaluations_from_one_and_regret_against_the_best_mean(file):
    recording = load_recording(file)
    order = sorted(range(len(recording.pool)), key=lambda index: recording.figures[index])
    failed = order[-1]
    found = summarise("x", recording, [[failed, order[40], order[0]], [order[0]], [order[40]]], 3)
    assert found.evaluations_to_5pct[:2] == (3.0, 1.0) and math.isinf(found.evaluations_to_5pct[2])
    assert found.median_evaluations_to_5pct == 3.0 and found.success_by_200 == pytest.approx(2 / 3)
    assert found.regrets[0] == 0 and found.regrets[2] == pytest.approx(
        recording.figures[order[40]] / recording.optimum - 1
    )
    assert found.plain()["p90_evaluations_to_5pct"] is None


def test_the_same_seed_gives_the_same_searches_on_one_process_or_two(file):
    recording = load_recording(file)
    options = {"repeats": 3, "budget": 30, "seed": 5, "noisy": True}
    alone = replay(file, recording, "random", jobs=1, **options)
    assert replay(file, recording, "random", jobs=2, **options) == alone
    assert replay(file, recording, "random", jobs=1, **{**options, "seed": 6}) != alone
    assert all(len(set(trace.points)) == 30 for trace in alone)


def test_the_command_prints_what_was_found_as_json_and_progress_on_stderr(file, capsys):
    command = ["replay", str(file), "--strategy", "random", "--strategy", "tpe", "--repeats", "2", "--budget", "25"]
    assert main([*command, "--jobs", "1", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert list(found["strategies"]) == ["random", "tpe"] and found["optimum_by"] == "mean of the recorded repeats"
    for row in found["strategies"].values():
        assert {"median_evaluations_to_5pct", "success_by_200", "mean_regret"} <= row.keys()
    assert "random: 2/2 searches" in said.err and "searches" not in said.out
    assert main([*command, "--jobs", "1"]) == 0
    assert "gemm on Test GPU" in capsys.readouterr().out


def test_a_search_of_the_whole_pool_always_succeeds(file, capsys):
    assert main(["replay", str(file), "--repeats", "1", "--budget", "5000", "--jobs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["strategies"]["exhaustive"]
    assert found["mean_regret"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--strategy", "bayes"], "'bayes': unknown; allowed: exhaustive, gp, forest, tpe, random"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--budget", "0"], "--budget must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--seed", "-1"], "--seed must be from 0"),
    ],
)
def test_a_misused_replay_says_why(file, capsys, arguments, said):
    assert main(["replay", str(file), *arguments]) == MISUSED
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["replay", str(tmp_path / "none.json")]) == FAILED
    error = capsys.readouterr().err
    assert "none.json: cannot be read: No such file" in error and "Traceback" not in error
