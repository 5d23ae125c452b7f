"""The page about a study: whole, honest about its labels, needing nothing but itself, and drawn by a real browser."""

import json
import random
import re
import shutil
import statistics
import struct
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, FakeVerifier, make_request, make_work, run

from kernelwright.gen.devices import reference_device
from kernelwright.gen.terminal import DONE, FAILED
from kernelwright.tuner import analysis
from kernelwright.tuner.analysis import best_so_far, ceiling_cycles, flops_of, heat_map, importance, share_of_ceiling
from kernelwright.tuner.cli import main
from kernelwright.tuner.export import tuned_rows
from kernelwright.tuner.html_report import Study, page
from kernelwright.tuner.intervals import interval_of
from kernelwright.tuner.pool import enumerate_pool
from kernelwright.tuner.results import contenders
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.store import Store
from kernelwright.tuner.svg import number, ticks
from kernelwright.tuner.work import Scored, Timed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DEVICE = reference_device(80)
VOID = {"meta", "br", "line", "circle", "path", "rect"}


class Sampled(FakeScorer):
    def score(self, compiled):
        figures = super().score(compiled)
        samples = {name: [one * (1 + 0.002 * step) for step in range(-10, 11)] for name, one in figures.items()}
        return Scored(figures=figures, samples=samples)


def study(folder, label="modelled", **more):
    names = [variant.name for variant in make_request(folder).pool.legal.values()]
    scorer = Sampled(label=label) if label == "measured" else FakeScorer()
    result = run(make_request(folder), make_work(verifier=FakeVerifier(wrong=names[:2]), scorer=scorer), label=label)
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    arguments = {
        "facts": result.facts,
        "outcomes": result.outcomes,
        "choice": result.choice,
        "rows": rows,
        "shapes": fakes.SHAPES,
        "device": DEVICE,
    }
    return Study(**{**arguments, **more})


class Clock(FakeScorer):
    """A GPU's clock that varies by 1 %; the further from 128 by 64 a tile is, the slower. What is slow is dropped."""

    def __init__(self, drop=""):
        super().__init__(label="measured")
        self.random, self.drop = random.Random(1), drop

    def truth(self, variant, shape):
        tile = variant.schedule
        slow = 1 + 0.05 * (tile.block_m != 128) + 0.1 * (tile.block_n != 64) + 0.002 * tile.num_stages
        return 100.0 * slow * (1 if shape == fakes.SHAPES[0].name else 3) * (3 if variant.name == self.drop else 1)

    def times(self, variant, shape, count):
        return [self.truth(variant, shape) * self.random.gauss(1, 0.01) for _ in range(count)]

    def score(self, compiled):
        dropped = compiled.variant.name == self.drop
        samples = {shape.name: self.times(compiled.variant, shape.name, 2 if dropped else 5) for shape in fakes.SHAPES}
        return Scored(
            figures={name: statistics.median(one) for name, one in samples.items()},
            samples=samples,
            methods=dict.fromkeys(samples, "events"),
            dropped=dict.fromkeys(samples, "more than 2 times the best") if dropped else {},
        )

    def time(self, compiled, shape, repeats, method):
        return Timed(samples=self.times(compiled.variant, shape, repeats), method=method)


def measured_study(folder):
    """A study that ended with a final, read from its store as `tuner report` does."""
    request = make_request(folder)
    names = [variant.name for variant in request.pool.legal.values()]
    clock = Clock(drop=names[4])
    work = replace(make_work(verifier=FakeVerifier(wrong=names[:2]), scorer=clock), timer=clock)
    result = run(request, work, label="measured")
    identity = result.facts.identity
    return Study(
        facts=result.facts,
        outcomes=result.outcomes,
        choice=result.choice,
        rows=tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES),
        shapes=fakes.SHAPES,
        device=DEVICE,
        searched=Store(request.store, request.space.study_name, identity).searched(),
    )


class Balanced(HTMLParser):
    """Notes tags that are not closed, or closed and not open."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.titles = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.mark.parametrize("label", ["modelled", "measured"])
def test_the_page_is_whole_and_needs_nothing_but_itself(tmp_path, label):
    text = page(study(tmp_path, label))
    parser = Balanced()
    parser.feed(text)
    assert parser.faults == [] and parser.open == []
    wanted = ["Best so far", "Tiles", "What decides", "Share of the ceiling", "Finalists", "Table", "Failures"]
    assert parser.titles == [*wanted, "Provenance"]
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(|src=", text)
    assert not re.search(r"\b(nan|inf)\b", text)
    other = {"modelled": "time_us", "measured": "model_cycles"}[label]
    assert other not in text and f'class="badge {label}"' in text


def section(text, title):
    return text.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def test_finalists_are_those_of_the_final_each_with_the_interval_of_its_raw_samples(tmp_path):
    known = measured_study(tmp_path)
    shown = section(page(known), "Finalists")
    last = contenders(known.outcomes)
    assert 4 <= len(last) < 14 and "Final 1 of this study" in shown and "36 on each shape" in shown
    named = re.findall(r"<code>(\w+)</code>", shown)
    assert named == [one.variant.name for one in sorted(last, key=lambda one: one.score)]
    charts = shown.split("<svg")[1:]
    assert len(charts) == 1 + len(fakes.SHAPES)  # all shapes together, then each
    for chart in charts:
        assert chart.count('class="span"') == len(last) and chart.count('class="band"') == 1
        assert chart.count('class="win"') == 1
    for shape in fakes.SHAPES:
        low, high = min(known.choice.winner.samples[shape.name]), max(known.choice.winner.samples[shape.name])
        name = known.choice.winner.variant.name
        assert f"{name} on {shape.name}: 36 samples from {low:,.2f} to {high:,.2f}, median" in shown
    assert "tied" in shown and ">72<" in shown


def test_the_width_of_a_finalists_bar_is_its_interval(tmp_path):
    known = measured_study(tmp_path)
    name = fakes.SHAPES[0].name
    chart = section(page(known), "Finalists").partition(f"<h3>{name}</h3>")[2].partition("</svg>")[0]
    bars = [tuple(map(float, one)) for one in re.findall(r'class="span" d="M([\d.]+) [\d.]+H([\d.]+)', chart)]
    intervals = [interval_of(one, name) for one in sorted(contenders(known.outcomes), key=lambda one: one.score)]
    widths = [high - low for low, high in bars]
    scale = widths[0] / (intervals[0][1] - intervals[0][0])
    assert widths == pytest.approx([scale * (high - low) for low, high in intervals], abs=0.3)


def test_the_search_is_drawn_in_its_order_with_its_own_estimates_and_what_became_of_points(tmp_path):
    known = measured_study(tmp_path)
    request = make_request(tmp_path)
    order = [json.loads(line)["variant"] for line in request.store.read_text().splitlines()]
    assert [one.variant.name for one in known.estimates] == order[: len(request.pool.legal)]
    assert {one.final for one in known.estimates} == {0}
    text = page(known)
    drawn = section(text, "Best so far")
    assert drawn.count('class="finalist"') == len(contenders(known.outcomes))
    assert (drawn.count('class="hollow"'), drawn.count('class="fail"')) == (1, 2)
    assert "<b>1</b><span>dropped early on some shape" in text
    ys = {kind: re.findall(rf'class="{kind}" cx="[\d.]+" cy="([\d.]+)"', drawn) for kind in ("hollow", "dot")}
    assert ys["hollow"] == ["14.0"] and len(set(ys["dot"])) > 3  # a rough figure does not flatten the others


def test_modelled_finalists_and_estimates_without_a_final_say_that_they_have_no_interval(tmp_path):
    modelled, estimates = page(study(tmp_path / "b")), page(study(tmp_path / "a", "measured"))
    assert "Modelled figures have no interval" in modelled and 'class="span"' not in modelled
    assert "no final was held" in estimates and "dropped early" not in section(estimates, "Finalists")
    assert all(
        "the ceiling is modelled" in text for text in (modelled, estimates, page(measured_study(tmp_path / "c")))
    )


def test_what_comes_from_kernels_is_escaped(tmp_path):
    known = study(tmp_path)
    bad = next(one for one in known.outcomes if one.status != "ok")
    odd = [replace(one, detail="<script>alert(1)</script>") if one == bad else one for one in known.outcomes]
    text = page(replace(known, outcomes=odd, notes=["<b>note</b>"]))
    assert "<script>" not in text and "&lt;script&gt;" in text and "&lt;b&gt;note" in text


def test_failures_are_told_by_kind_and_the_importance_by_its_measure(tmp_path, monkeypatch):
    known = study(tmp_path)
    text = page(known)
    assert "correctness" in text and "error 0.5 at row 3" in text and "PED-ANOVA (Optuna)" in text

    def missing(*_):
        raise ImportError

    monkeypatch.setattr(analysis, "_by_optuna", missing)
    assert "variance between values (ours)" in page(known)


# ---------------------------------------------------------------------- figures


def test_the_best_so_far_never_rises_and_a_tile_has_its_best_point(tmp_path):
    outcomes = study(tmp_path).outcomes
    curve = best_so_far(outcomes)
    assert curve == sorted(curve, reverse=True) and curve[-1] == min(one.score for one in outcomes)
    for (m, n), one in heat_map(outcomes).items():
        same = [o for o in outcomes if (o.variant.schedule.block_m, o.variant.schedule.block_n) == (m, n)]
        assert one.score == min(o.score for o in same)


@pytest.mark.parametrize("with_optuna", [True, False])
def test_the_field_that_decides_is_the_most_important(tmp_path, monkeypatch, with_optuna):
    if not with_optuna:
        monkeypatch.setattr(analysis, "_by_optuna", lambda *_: (_ for _ in ()).throw(ImportError()))

    class Stages(FakeScorer):
        def score(self, compiled):
            return {shape.name: 100.0 * compiled.variant.schedule.num_stages for shape in fakes.SHAPES}

    found = importance(run(make_request(tmp_path), make_work(scorer=Stages())).outcomes)
    assert max(found.shares, key=found.shares.get) == "num_stages"
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_the_ceiling_is_that_of_the_tensor_cores_or_of_memory():
    long = Shape(batch=4, num_heads_q=16, num_heads_kv=16, seqlen_q=4096, seqlen_k=4096)
    causal = next(iter(enumerate_pool(fakes.SPACE, DEVICE).legal.values()))
    full = replace(causal, problem=replace(causal.problem, is_causal=False))
    flops = flops_of(full, long)
    assert flops == 4 * 4 * 16 * 4096 * 4096 * 64
    assert flops_of(causal, long) == pytest.approx(flops / 2, rel=1e-3)
    peak = flops / ceiling_cycles(full, long, DEVICE) * DEVICE.boost_mhz * 1e6
    assert peak == pytest.approx(312e12, rel=0.01)  # NVIDIA A100 whitepaper, dense bf16
    decode = Shape(batch=4, num_heads_q=16, num_heads_kv=16, seqlen_q=1, seqlen_k=4096)
    seconds = ceiling_cycles(causal, decode, DEVICE) / DEVICE.boost_mhz / 1e6
    assert 2 * 2 * 4 * 16 * 4097 * 64 / seconds == pytest.approx(DEVICE.dram_gbs * 1e9, rel=0.01)


def test_a_share_is_the_same_in_cycles_and_in_microseconds(tmp_path):
    one = study(tmp_path).choice.winner
    shape = fakes.SHAPES[0]
    cycles = replace(one, figures={shape.name: 1e6})
    time = replace(one, figures={shape.name: 1e6 / DEVICE.boost_mhz})
    assert share_of_ceiling(cycles, shape, DEVICE, "modelled") == pytest.approx(
        share_of_ceiling(time, shape, DEVICE, "measured")
    )


def test_ticks_are_round_and_within():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(5, 5) == [5]
    assert ticks(430_000, 560_000) == [450_000, 475_000, 500_000, 525_000, 550_000] or len(ticks(430_000, 560_000)) < 8
    assert [number(one) for one in (0.5, 12.34, 72_500, 1.4e6)] == ["0.5", "12.3", "72.5k", "1.4M"]


# ---------------------------------------------------------------------- the command and the browser


def test_the_command_writes_the_page_or_says_why_not(tmp_path, capsys):
    from kernelwright.tuner.compile import source_digest
    from kernelwright.tuner.space import load_space

    path = tmp_path / "small.yaml"
    path.write_text(
        "schema: 1\nkernel: flash_fwd\narch: sm80\nproblem: {dtype: bf16, head_dim: 64, is_causal: true}\n"
        "schedule: {block_m: [64, 128], block_n: [32, 64], num_warps: 4, num_stages: [1, 2], q_in_regs: false}\n"
        "constraints: [smem_fits]\nshapes: {batch: 1, num_heads_q: 2, num_heads_kv: 2, seqlen: [512, 1024]}\n"
    )
    command = ["report", str(path), "--out", str(tmp_path), "-o", str(tmp_path / "deep" / "page.html")]
    assert main(command) == FAILED
    assert "no results. Make some with tuner run small" in capsys.readouterr().err
    request = make_request(tmp_path / "tuner", space=load_space(str(path)))
    run(request, None, source_digest=source_digest(request.pool.legal.values()))
    assert main(command) == DONE
    assert "small-sm80" in (tmp_path / "deep" / "page.html").read_text()


def pixels(path):
    """Return a PNG's width, height and a function of x and y that gives red, green and blue."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    at, packed, size = 8, b"", (0, 0, 0, 0)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">IIBB", body[:10])
        if kind == b"IDAT":
            packed += body
        at += 12 + length
    width, height, depth, colour = size
    assert depth == 8 and colour in (2, 6)
    step = 3 if colour == 2 else 4
    raw, rows, before = zlib.decompress(packed), [], bytearray(width * step)
    for y in range(height):
        how, line = (
            raw[y * (width * step + 1)],
            bytearray(raw[y * (width * step + 1) + 1 : (y + 1) * (width * step + 1)]),
        )
        for x in range(len(line)):
            left = line[x - step] if x >= step else 0
            corner = before[x - step] if x >= step else 0
            guess = left + before[x] - corner
            near = min((left, before[x], corner), key=lambda one, guess=guess: abs(guess - one))
            line[x] = (line[x] + (0, left, before[x], (left + before[x]) // 2, near)[how]) & 255
        rows.append(line)
        before = line
    return width, height, lambda x, y: tuple(rows[y][x * step : x * step + 3])


@pytest.mark.skipif(BROWSER is None, reason="no browser: none of chromium, chromium-browser, google-chrome")
@pytest.mark.parametrize(("scheme", "paper"), [("light", (0xFB, 0xFB, 0xF9)), ("dark", (0x14, 0x18, 0x1B))])
def test_a_browser_draws_it_in_both_schemes(tmp_path, scheme, paper):
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(page(measured_study(tmp_path)))
    dark = ["--blink-settings=preferredColorScheme=0", "--force-dark-mode"] if scheme == "dark" else []
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *dark]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=480,900", f"--screenshot={picture}"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=120)
    assert picture.exists(), done.stderr
    width, height, colour = pixels(picture)
    assert (width, height) == (480, 900) and colour(3, 3) == paper
    seen = {colour(x, y) for x in range(0, width, 3) for y in range(0, height, 3)}
    accent = (0x58, 0xB4, 0xDC) if scheme == "dark" else (0x0B, 0x6E, 0x99)
    assert len(seen) > 20 and min(sum(abs(a - b) for a, b in zip(one, accent, strict=True)) for one in seen) < 130
