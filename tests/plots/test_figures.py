"""Figures hold the numbers they were given, in every format, without touching matplotlib's own settings."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from symcere import plots
from symcere.plots.figures import _cliques

matplotlib = pytest.importorskip("matplotlib")


def lines(axes):
    return [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]


def words(figure):
    """Every text in a figure."""
    from matplotlib.text import Text

    return {t.get_text() for t in figure.findobj(Text) if t.get_text()}


def test_training_curve_marks_the_best_epoch_and_skips_missing_ones():
    metric = np.array([0.1, np.nan, 0.3, np.nan, 0.2])
    figure = plots.training_curve(np.arange(1, 6), [5, 4, 3, 2, 1], metric)
    left, right = figure.axes
    assert lines(left)[0].tolist() == [[1, 5], [2, 4], [3, 3], [4, 2], [5, 1]]
    assert lines(right)[0].tolist() == [[1, 0.1], [3, 0.3], [5, 0.2]]
    assert "best 0.3000\nepoch 3" in words(figure)
    assert plots.png(plots.training_curve([1], [0.5], [np.nan])).startswith(b"\x89PNG")


def test_trade_off_names_its_weights():
    figure = plots.popularity_trade_off([0, 0.5, 1], [0.1, 0.2, 0.25], [10, 20, 40], [0.05, 0.04, 0.01])
    assert lines(figure.axes[0])[0].tolist() == [[10, 0.1], [20, 0.2], [40, 0.25]]
    assert lines(figure.axes[1])[0].tolist() == [[10, 0.05], [20, 0.04], [40, 0.01]]
    for axes, values in zip(figure.axes, ([0.1, 0.2, 0.25], [0.05, 0.04, 0.01]), strict=True):
        at = {label.get_text(): label.xy for label in axes.texts}
        assert at == {"w = 0": (10, values[0]), "w = 0.5": (20, values[1]), "w = 1": (40, values[2])}
    assert len(plots.popularity_trade_off([0, 1], [0.1, 0.1], [3, 3]).axes) == 1


def test_norms_show_medians_and_flat_lengths_stay_flat():
    popularity = np.repeat([1, 10, 100], 20)
    figure = plots.norm_against_popularity(popularity, np.log(popularity) + 1)
    medians = lines(figure.axes[0])[0]
    assert medians[:, 0].tolist() == [1, 10, 100]
    assert medians[:, 1] == pytest.approx(np.log([1, 10, 100]) + 1)
    flat = plots.norm_against_popularity(popularity, 1 + 1e-7 * np.random.default_rng(0).random(60))
    assert flat.axes[0].get_ylim()[0] == 0
    skewed = plots.norm_against_popularity([1] * 5 + [50] * 5, [0, 1, 2, 10, 90, 3, 4, 5, 20, 99])
    assert lines(skewed.axes[0])[0].tolist() == [[1, 2], [50, 5]]  # the means are far above


def test_no_legend_lies_over_the_points():
    figure = plots.norm_against_popularity([1, 2, 30], {"a": [1, 2, 3], "b": [3, 2, 1]})
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_legend().get_window_extent().x0 > axes.get_window_extent().x1


def test_temperatures_are_sorted_and_gaps_left_out():
    figure = plots.temperature_curve([0.4, 0.1, 0.2], {"a": [3, 1, np.nan]}, {"a": [0.1, 0.1, 0.1]})
    assert lines(figure.axes[0])[0].tolist() == [[0.1, 1], [0.4, 3]]
    assert {"0.1", "0.2", "0.4"} <= words(figure)


def test_temperatures_that_were_drawn_have_labels_that_can_be_read():
    drawn = np.exp(np.random.default_rng(0).uniform(np.log(0.1), 0, 20))
    figure = plots.temperature_curve(drawn, {"a": drawn})
    (axes,) = figure.axes
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) >= 5
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    assert len(axes.lines[0].get_xdata()) == 20


def test_a_ring_marks_the_best_temperature_within_a_band_of_spreads():
    figure = plots.temperature_curve([0.1, 0.2, 0.4], {"a": [1, 3, 2]}, {"a": [0.1, 0.2, 0.3]})
    (axes,) = figure.axes
    ring = axes.lines[1]
    assert ring.get_markerfacecolor() == "none"
    assert np.asarray(ring.get_xydata()).tolist() == [[0.2, 3]]
    (band,) = axes.collections
    corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0.1, 0.9), (0.1, 1.1), (0.2, 2.8), (0.2, 3.2), (0.4, 1.7), (0.4, 2.3)}


def test_critical_difference_joins_what_cannot_be_told_apart():
    assert _cliques(np.array([1.0, 1.5, 3, 3.2, 5]), 1) == [(0, 1), (2, 3)]
    assert _cliques(np.array([1.0, 2, 3]), 1) == [(0, 1), (1, 2)]
    assert _cliques(np.array([1.0, 2, 3]), 5) == [(0, 2)]
    assert _cliques(np.array([1.0, 2, 3]), float("nan")) == []
    figure = plots.critical_difference(["b", "a"], [2.0, 1.0], 0.5, datasets=15)
    assert {"a  1.00", "2.00  b", "critical difference 0.50", "Average rank over 15 data sets (1 is best)"} <= words(
        figure
    )


def test_a_bar_spans_the_methods_that_it_joins():
    figure = plots.critical_difference(["a", "b", "c", "d"], [1.2, 3.9, 1.6, 3.3], 1.0)
    thick = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines if line.get_linewidth() > 4]
    assert len(thick) == 2
    for bar, (first, last) in zip(thick, ((1.2, 1.6), (3.3, 3.9)), strict=True):
        assert bar[:, 0] == pytest.approx([first, last], abs=0.05)  # and a little over
        assert bar[0, 0] < first < last < bar[1, 0]


def test_words_are_ordered_by_size_and_coloured_by_class():
    figure = plots.word_weights(["good", "gasket", "hose"], [0.1, -0.9, 0.5], ["sentiment", "objective", "objective"])
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["good", "hose", "gasket"]
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.5, -0.9]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[1] == colours[2] != colours[0]
    assert len(plots.word_weights(list("abcdef"), np.arange(6), most=4).axes[0].patches) == 4


def test_bars_stand_side_by_side_with_their_errors():
    figure = plots.bars(["x", "y"], {"a": [1, 2], "b": [3, np.nan]}, {"a": [0.1, 0.2]})
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:3] == [1, 2, 3]
    assert np.isnan(heights[3])
    starts = [bar.get_x() for bar in axes.patches]
    assert starts[0] < starts[2] < starts[1]
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize(("errors", "below"), [([0.1, 0.2], [0.1, 0.2]), ([[0.5, 0.6], [0.1, 0.2]], [0.5, 0.6])])
def test_error_lines_stand_on_their_bars(errors, below):
    figure = plots.bars(["x", "y"], {"a": [1, 2], "b": [3, 4]}, {"b": errors})
    (axes,) = figure.axes
    middle = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches[2:]]
    (error_lines,) = axes.collections
    for at, line, value, down, up in zip(middle, error_lines.get_segments(), [3, 4], below, [0.1, 0.2], strict=True):
        np.testing.assert_allclose(line, [[at, value - down], [at, value + up]])


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    figure = plots.bars(["$x^2$", "y"], {"$5$ shop": [1, 2], "b": [1, 2]}, title="of $1$")
    svg = plots.save(figure, tmp_path / "figure.svg").read_text(encoding="utf-8")
    for name in ("$x^2$", "$5$ shop", "of $1$"):
        assert f">{name}</text>" in svg


def test_letters_that_no_font_has_are_nobodys_warning(tmp_path, recwarn):
    figure = plots.word_weights(["गिटार", "กีตาร์", "ギター", "\U00012000"], [4, 3, 2, 1])
    plots.png(figure)
    plots.svg(figure)
    plots.save(figure, tmp_path / "words.pdf")
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_saved_files_are_what_their_ending_says(tmp_path, ending, magic):
    path = plots.save(plots.bars(["x"], {"a": [1]}), tmp_path / f"figure.{ending}")
    assert path.read_bytes().startswith(magic)


def test_matplotlibs_own_settings_stay_as_they_were():
    before = dict(matplotlib.rcParams)
    plots.png(plots.bars(["x"], {"a": [1]}))
    assert dict(matplotlib.rcParams) == before


def test_the_room_opens_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import symcere.plots"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
