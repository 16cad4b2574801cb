"""One style for every figure, and the figure that more than one chapter draws."""

from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.font_manager import fontManager

STYLE = Path(__file__).with_name("figures.mplstyle")


def use_style():
    """Give all figures of a chapter the suite's look, and letters for Chinese, which its usual font lacks."""
    plt.style.use(STYLE)
    fontManager.addfont(
        Path(find_spec("zhplot").origin).parent / "fonts" / "NotoSansSC-Regular.ttf"
    )
    plt.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans SC"]


def draw_bars(labels, values, xlabel, texts, low_high=None):
    """Draw one horizontal bar for each label, the first on top, with its text behind it.

    low_high: shape (2, bars), the ends of an interval drawn as a line over each bar
    """
    _, axes = plt.subplots(figsize=(7, 0.6 + 0.45 * len(labels)))
    errors = None if low_high is None else np.abs(np.asarray(low_high) - np.asarray(values))
    ends = values if low_high is None else low_high[1]
    axes.barh(labels, values, xerr=errors, height=0.6, color="C0", ecolor="black", capsize=4)
    for row, text in enumerate(texts):
        axes.annotate(
            text, (ends[row], row), xytext=(6, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    axes.set_xlabel(xlabel)
    plt.show()
