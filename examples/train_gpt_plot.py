"""Loss curves as a PNG by matplotlib (the extra `plots`), or as an SVG without it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

COLOURS = ("#c0392b", "#2c3e50", "#95a5a6")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 480, 60, 20, 40, 50


def plot_losses(curves: Mapping[str, Sequence[float]], title: str, folder: Path) -> Path:
    """Draw loss.png, or loss.svg where matplotlib is not installed; return the file."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional package
    except ImportError:
        path = folder / "loss.svg"
        path.write_text(svg(curves, title), encoding="utf-8")
        return path
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for index, (name, losses) in enumerate(curves.items()):
        style = "--" if index == 1 else "-"
        axes.plot(range(1, len(losses) + 1), losses, style, label=name, color=COLOURS[index % 3], zorder=3 - index)
    axes.set(title=title, xlabel="step", ylabel="loss (nats a byte)")
    axes.legend()
    figure.savefig(path := folder / "loss.png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)
    return path


def svg(curves: Mapping[str, Sequence[float]], title: str) -> str:
    """The same as SVG text."""
    values = [loss for losses in curves.values() for loss in losses]
    low, high = min(values, default=0.0), max(values, default=1.0)
    high = high if high > low else low + 1.0
    most = max(2, *(len(losses) for losses in curves.values()))

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / (most - 1)

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    def label(at: tuple[float, float], text: str, anchor: str = "middle") -> str:
        return f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    parts = [label((WIDTH / 2, 20), title), label((WIDTH / 2, HEIGHT - 10), "step; loss in nats a byte")]
    for tick in range(5):
        loss, step = low + (high - low) * tick / 4, 1 + (most - 1) * tick / 4
        parts += [label((LEFT - 8, y(loss) + 4), f"{loss:.2f}", "end"), label((x(step), HEIGHT - 30), f"{step:.0f}")]
        parts.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
    for index, (name, losses) in reversed(list(enumerate(curves.items()))):
        points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in enumerate(losses, start=1))
        dashes = ' stroke-dasharray="6 4"' if index == 1 else ""
        colour = COLOURS[index % 3]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        place = TOP + 18 * (index + 1)
        parts.append(f'<rect x="{WIDTH - 190}" y="{place - 9}" width="12" height="10" fill="{colour}"/>')
        parts.append(label((WIDTH - 172, place), name, "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return f'{head} font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
