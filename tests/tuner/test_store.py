"""The store is the truth: kills, lost journals, full disks and other versions cost no result and mix none."""

import errno
import io
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tuner_fakes as fakes
from tuner_fakes import IDENTITY, FakeScorer, FakeVerifier, make_request, make_work, run, wide_space

from kernelwright.tuner import store as stores
from kernelwright.tuner import tune as tuning
from kernelwright.tuner.errors import StoreError, StudyExistsError, TunerError
from kernelwright.tuner.records import read_bursts, read_store
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.store import SUFFIX, Store, open_store
from kernelwright.tuner.work import Scored, Timed

STORE = f"small-sm80{SUFFIX}"
JOURNAL = "small-sm80.journal"


def plain_outcomes(result):
    return {one.variant.name: asdict(one) for one in result.outcomes}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------- what is kept


def test_a_record_holds_the_figures_the_samples_the_state_and_where_they_are_from(tmp_path):
    class Sampling(FakeScorer):
        def score(self, compiled):
            figures = super().score(compiled)
            states = {name: {"sm_mhz": 1410, "throttle": ["software power cap"]} for name in figures}
            return Scored(figures=figures, samples={name: [1.5, 2.5] for name in figures}, states=states)

    result = run(make_request(tmp_path, trials=2), make_work(scorer=Sampling()))
    record = lines(tmp_path / STORE)[0]
    assert {key: record[key] for key in asdict(IDENTITY)} == asdict(replace(IDENTITY, space_digest=fakes.SPACE.digest))
    assert (record["status"], record["kind"], record["study"]) == ("ok", "correct", "small-sm80")
    assert record["time"].startswith("20") and record["verified"]["by"] == "emulator"
    for shape in fakes.SHAPES:
        assert record["shapes"][shape.name]["samples"] == [1.5, 2.5]
        assert record["shapes"][shape.name]["state"]["throttle"] == ["software power cap"]
    first = result.outcomes[0]
    assert (
        list(first.samples[fakes.SHAPES[0].name]) == [1.5, 2.5] and first.states[fakes.SHAPES[0].name]["sm_mhz"] == 1410
    )


def test_what_was_read_back_is_what_was_written(tmp_path):
    names = [variant.name for variant in make_request(tmp_path).pool.legal.values()]
    first = run(make_request(tmp_path), make_work(verifier=FakeVerifier(wrong=names[:2])))
    again = run(make_request(tmp_path, resume=True))
    assert plain_outcomes(first) == plain_outcomes(again)
    kinds = Counter(record["kind"] for record in lines(tmp_path / STORE))
    assert kinds == {"correct": 14, "correctness": 2}


@pytest.mark.parametrize("lost", [JOURNAL, STORE])
def test_a_lost_file_is_made_again_from_the_other_with_the_same_outcomes(tmp_path, lost):
    wrong = next(iter(make_request(tmp_path).pool.legal.values())).name
    first = run(make_request(tmp_path), make_work(verifier=FakeVerifier(wrong=[wrong])))
    (tmp_path / lost).unlink()
    scorer = FakeScorer()
    again = run(make_request(tmp_path, resume=True), make_work(scorer=scorer))
    assert plain_outcomes(again) == plain_outcomes(first) and not scorer.scored
    assert again.choice == first.choice
    assert (tmp_path / JOURNAL).exists() and (tmp_path / STORE).exists()


def test_without_the_journal_a_study_is_still_not_begun_again_unasked(tmp_path):
    run(make_request(tmp_path))
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(StudyExistsError, match="16 finished trials"):
        run(make_request(tmp_path))


def test_a_study_goes_on_without_optuna_and_back(tmp_path, monkeypatch):
    run(make_request(tmp_path, trials=5))
    monkeypatch.setattr(tuning, "has_optuna", lambda: False)
    middle = FakeScorer()
    run(make_request(tmp_path, trials=9, resume=True), make_work(scorer=middle))
    monkeypatch.undo()
    last = FakeScorer()
    result = run(make_request(tmp_path, resume=True), make_work(scorer=last))
    assert (len(middle.scored), len(last.scored), len(result.outcomes)) == (4, 7, 16)


def test_the_store_is_written_before_the_study_hears_of_it(tmp_path, monkeypatch):
    from kernelwright.tuner import study

    def dies(*_):
        raise SystemExit

    monkeypatch.setattr(study.Ledger, "tell", dies)
    with pytest.raises(SystemExit):
        run(make_request(tmp_path))
    monkeypatch.undo()
    known = [one.variant.name for one in read_store(tmp_path / STORE)]
    scorer = FakeScorer()
    result = run(make_request(tmp_path, resume=True), make_work(scorer=scorer))
    assert known and not set(known) & set(scorer.scored)
    assert len(scorer.scored) == 16 - len(known) and len(result.outcomes) == 16


# ---------------------------------------------------------------------- quarantine


@pytest.mark.parametrize("with_optuna", [True, False])
def test_what_failed_is_tried_again_only_when_asked(tmp_path, monkeypatch, with_optuna):
    monkeypatch.setattr(tuning, "has_optuna", lambda: with_optuna)
    names = [variant.name for variant in make_request(tmp_path).pool.legal.values()]
    run(make_request(tmp_path), make_work(verifier=FakeVerifier(wrong=names[3:6])))
    quiet = FakeScorer()
    run(make_request(tmp_path, resume=True), make_work(scorer=quiet))
    assert not quiet.scored
    again = FakeScorer()
    asked = replace(make_request(tmp_path, resume=True), retry_quarantined=True)
    result = run(asked, make_work(scorer=again))
    assert sorted(again.scored) == sorted(names[3:6])
    assert {one.status for one in result.outcomes} == {"ok"} and len(result.outcomes) == 16
    after = FakeScorer()
    run(make_request(tmp_path, resume=True), make_work(scorer=after))
    assert not after.scored


# ---------------------------------------------------------------------- faults of the file


def test_a_last_line_that_was_cut_off_is_dropped_with_a_warning(tmp_path, caplog):
    run(make_request(tmp_path, trials=4))
    path = tmp_path / STORE
    path.write_bytes(path.read_bytes()[:-15])
    (tmp_path / JOURNAL).unlink()
    scorer = FakeScorer()
    result = run(make_request(tmp_path, resume=True), make_work(scorer=scorer))
    assert "unfinished last line" in caplog.text and STORE in caplog.text
    assert len(scorer.scored) == 13 and len(result.outcomes) == 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line | {"colour": "red"}, r":2: \$: unknown key 'colour'"),
        (lambda line: line | {"schema": 2}, r":2: \$: schema is 2; this version reads schema 1"),
        (lambda line: line | {"status": "fine"}, r":2: \$.status: found 'fine'; allowed: ok"),
        (lambda line: line | {"kind": "timeout"}, r":2: \$.kind: found 'timeout'; allowed: correct"),
        (lambda line: line | {"variant": "flash_fwd_sm80"}, r":2: \$.variant: "),
        (lambda line: {key: value for key, value in line.items() if key != "device"}, r":2: \$: missing key 'device'"),
        (lambda line: line | {"shapes": {"a": {"figure": "x", "samples": [], "state": None}}}, r"\$.shapes.a.figure"),
        (lambda line: [line], r":2: \$: expected a mapping"),
    ],
)
def test_a_record_that_is_not_ours_is_named_by_line_and_place(tmp_path, change, said):
    run(make_request(tmp_path, trials=3))
    path = tmp_path / STORE
    found = lines(path)
    found[1] = change(found[1])
    path.write_text("".join(f"{json.dumps(one)}\n" for one in found))
    with pytest.raises(StoreError, match=said):
        run(make_request(tmp_path, resume=True))
    assert len(lines(path)) == 3  # nothing was thrown away


def test_a_broken_line_in_the_middle_is_an_error_and_not_dropped(tmp_path):
    run(make_request(tmp_path, trials=3))
    path = tmp_path / STORE
    first, second, third = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:40]}\n{third}\n")
    with pytest.raises(StoreError, match=r":2: not JSON"):
        run(make_request(tmp_path, resume=True))


def test_records_of_another_source_version_are_kept_not_used_and_told(tmp_path):
    run(make_request(tmp_path, trials=5))
    (tmp_path / JOURNAL).unlink()  # as one does to go on with new sources
    said, scorer = io.StringIO(), FakeScorer()
    changed = replace(IDENTITY, space_digest=fakes.SPACE.digest, source_digest="b" * 64)
    request = make_request(tmp_path, trials=3)
    result = tuning.tune(request, changed, lambda: make_work(scorer=scorer), stream=said)
    assert len(result.outcomes) == len(scorer.scored) == 3
    assert "5 earlier records are kept and not used (5 with another source_digest)" in said.getvalue()
    assert Counter(one.identity.source_digest for one in read_store(tmp_path / STORE)) == {"a" * 64: 5, "b" * 64: 3}


def test_measured_and_modelled_records_of_one_file_never_mix(tmp_path):
    path = tmp_path / "x.jsonl"
    variant = next(iter(make_request(tmp_path).pool.legal.values()))
    measured = replace(IDENTITY, label="measured")
    with open_store(path, "x", IDENTITY) as store:
        store.append(Outcome(variant=variant, status="ok", figures={"a": 5.0}))
    with open_store(path, "x", measured) as store:
        assert store.outcomes() == [] and store.num_others == 1 and "another label" in store.others_text()
        store.append(Outcome(variant=variant, status="ok", figures={"a": 7.0}))
    assert [one.figures["a"] for one in Store(path, "x", IDENTITY).outcomes()] == [5.0]
    assert [one.figures["a"] for one in Store(path, "x", measured).outcomes()] == [7.0]


# ---------------------------------------------------------------------- disks


def test_a_disk_that_fills_up_in_a_line_leaves_the_lines_before_it(tmp_path, monkeypatch):
    write, calls = os.write, []

    def fills_up(descriptor, data):
        calls.append(descriptor)
        if len(calls) == 5:
            return write(descriptor, data[:50])  # half a line, as a disk that is almost full takes
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(stores.os, "write", fills_up)
    with pytest.raises(StoreError, match=r"no space left for .*store.jsonl. Free space there, or choose another --out"):
        run(make_request(tmp_path))
    monkeypatch.undo()
    assert len(lines(tmp_path / STORE)) == 4
    scorer = FakeScorer()
    assert len(run(make_request(tmp_path, resume=True), make_work(scorer=scorer)).outcomes) == 16
    assert len(scorer.scored) == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_store_on_a_full_device_is_said_so():
    with pytest.raises(StoreError, match="no space left"):
        stores._append(Path("/dev/full"), ["{}"])


def test_a_folder_that_may_not_be_written_is_said_so(tmp_path, monkeypatch):
    opened = os.open

    def read_only(path, flags, *more, **named):
        if str(path).endswith(SUFFIX) and flags & os.O_WRONLY:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, flags, *more, **named)

    monkeypatch.setattr(stores.os, "open", read_only)
    with pytest.raises(StoreError, match=r"may not write .*store.jsonl. Choose another --out"):
        run(make_request(tmp_path))


def test_a_journal_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileBackend

    append, calls = JournalFileBackend.append_logs, []

    def fills_up(self, logs):
        calls.append(logs)
        if len(calls) > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", fills_up)
    with pytest.raises((StoreError, OSError), match=r"[Nn]o space left"):
        run(make_request(tmp_path))
    monkeypatch.undo()
    known = [one.variant.name for one in read_store(tmp_path / STORE)]
    scorer = FakeScorer()
    result = run(make_request(tmp_path, resume=True), make_work(scorer=scorer))
    assert known and not set(known) & set(scorer.scored) and len(result.outcomes) == 16


def test_two_tuners_on_one_store_are_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    refused = pytest.raises(TunerError, match="another tuner is at work")
    with open_store(path, "x", IDENTITY), refused, open_store(path, "x", IDENTITY):
        pass


# ---------------------------------------------------------------------- kills at any moment


class Logging(FakeScorer):
    """Takes a moment for a figure, and leaves word of every point it was asked for in a file."""

    def __init__(self, log):
        super().__init__(pause_s=0.002)
        self.log = log

    def score(self, compiled):
        with self.log.open("a") as stream:
            stream.write(f"{compiled.variant.name}\n")
        return super().score(compiled)


def _tune_in_child(request, log):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = make_work(scorer=Logging(log))
    identity = replace(IDENTITY, space_digest=request.space.digest)
    try:
        tuning.tune(request, identity, lambda: work, stream=io.StringIO())
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def _measured(log):
    return log.read_text().split() if log.exists() else []


def kill_again_and_again(folder, moments, *, seed):
    """Run a study to its end in processes that are killed, then compare with one that was left alone."""
    chance = random.Random(seed)
    context = multiprocessing.get_context("fork")  # everything is imported already
    killed = finished = 0
    while killed < moments:
        place = folder / str(finished)
        log = place / "measured.log"
        request = make_request(place, space=wide_space(12), trials=1000, resume=True)
        number = len(request.pool.legal)
        store = place / f"wide-sm80{SUFFIX}"
        place.mkdir()
        while killed < moments:
            before = {one.variant.name for one in read_store(store)}
            asked_before = len(_measured(log))
            child = context.Process(target=_tune_in_child, args=(request, log))
            child.start()
            time.sleep(chance.uniform(0.0, 0.25))
            os.kill(child.pid, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            child.join()
            done = child.exitcode == 0
            killed += not done
            kept = stores.mend_journal(store) and "mended"
            after = [one.variant.name for one in read_store(store)]
            asked = _measured(log)[asked_before:]
            assert kept != "mended" or not done
            assert before <= set(after), "a result was lost"
            assert not before & set(asked), "a point that was known was measured again"
            assert len(set(after)) == len(after) and len(asked) <= len(set(after) - before) + 1
            if done:
                break
        child = context.Process(target=_tune_in_child, args=(request, log))
        child.start()
        child.join()
        assert child.exitcode == 0
        result = run(request)
        assert len(result.outcomes) == number and len({one.variant for one in result.outcomes}) == number
        alone = run(make_request(folder / f"{finished} alone", space=wide_space(12), trials=1000))
        figures = {one.variant.name: one.figures for one in alone.outcomes}
        assert {one.variant.name: one.figures for one in result.outcomes} == figures
        assert result.choice.winner.variant == alone.choice.winner.variant
        finished += 1


@pytest.mark.parametrize("with_optuna", [True, False])
def test_kills_at_random_moments_lose_nothing_and_measure_nothing_twice(tmp_path, monkeypatch, with_optuna):
    monkeypatch.setattr(tuning, "has_optuna", lambda: with_optuna)
    kill_again_and_again(tmp_path, 10, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("with_optuna", [True, False])
def test_a_hundred_kills_lose_nothing_and_measure_nothing_twice(tmp_path, monkeypatch, with_optuna):
    monkeypatch.setattr(tuning, "has_optuna", lambda: with_optuna)
    kill_again_and_again(tmp_path, 100, seed=2)


class Clocked(Logging):
    """Measures, and times again in a final."""

    def __init__(self, log):
        super().__init__(log)
        self.label = "measured"

    def time(self, compiled, shape, repeats, method):
        time.sleep(0.004)
        return Timed(samples=[FakeScorer.score(FakeScorer(), compiled)[shape]] * repeats, method=method)


def _measure_in_child(request, log):
    scorer = Clocked(log)
    work = replace(make_work(scorer=scorer), timer=scorer)
    identity = replace(IDENTITY, label="measured", space_digest=request.space.digest)
    try:
        tuning.tune(request, identity, lambda: work, stream=io.StringIO())
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def test_kills_in_a_final_cost_no_result_of_the_search_and_the_final_is_held_in_the_end(tmp_path):
    request, log, chance = make_request(tmp_path / "a", resume=True), tmp_path / "measured.log", random.Random(4)
    context = multiprocessing.get_context("fork")

    def num_bursts():
        return request.store.read_bytes().count(b'"burst"') if request.store.exists() else 0

    for _ in range(6):
        before = num_bursts()
        child = context.Process(target=_measure_in_child, args=(request, log))
        child.start()
        deadline = time.monotonic() + 60
        while num_bursts() == before:  # until it is in the final, and has kept something of it
            assert child.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(child.pid, chance.choice([signal.SIGKILL, signal.SIGINT]))
        child.join()
        assert child.exitcode != 0, "the final was over before the kill"
        stores.mend_journal(request.store)
        assert {one.outcome.final for one in read_store(request.store)} == {0}
        assert len(_measured(log)) == len(list(read_store(request.store))) == 16  # the search is not repeated
    child = context.Process(target=_measure_in_child, args=(request, log))
    child.start()
    child.join()
    assert child.exitcode == 0
    records = [one.outcome for one in read_store(request.store)]
    assert {one.final for one in records} == {0, 1} and sum(one.final == 0 for one in records) == 16
    rounds = Counter(one.variant for _, one in read_bursts(request.store) if one.part == "rounds")
    assert all(rounds[one.variant] >= 12 * 2 for one in records if one.final)
