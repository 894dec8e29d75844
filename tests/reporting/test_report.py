"""The whole report: what the page says is what the store holds, and what is missing is said."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from symcere import cli, steps, tracking
from symcere.errors import UserError
from symcere.reporting import Results, Sweep, collect, document, search
from symcere.reporting.document import Document, Figure, Table, Text
from symcere.reporting.words import file_name


def section(report: Document, title: str):
    return next(s for s in report.sections if s.title.startswith(title))


def words(report: Document, title: str) -> str:
    return " ".join(b.text for b in section(report, title).blocks if isinstance(b, Text))


def table(report: Document, name: str) -> Table:
    return next(t for t in report.tables() if t.name == name)


def cut(sweep: Sweep, **changes) -> Document:
    """The report of a sweep of which only some runs are there."""
    kept = {"trials": sweep.trials, "finals": sweep.finals, "unfinished": (), **changes}
    with pytest.MonkeyPatch.context() as patch:
        if len(tuple(kept["trials"])) >= 10:  # what takes long and is shown elsewhere
            patch.setattr(search, "importance", lambda trials: "it was left out")
        return document(Results(Sweep(sweep.name, sweep.experiment, **{k: tuple(v) for k, v in kept.items()})))


@pytest.fixture(scope="module")
def losses_sweep(store) -> Sweep:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(store))
        return collect("losses")


@pytest.fixture(scope="module")
def report(losses_sweep) -> Document:
    return document(Results(losses_sweep))


# ---------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def told(store) -> dict:
    """What `symcere report losses --json` prints; its files are there."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("SYMCERE_HOME", str(store))
        assert cli.main(["report", "losses", "--json"]) == 0
    return json.loads(printed.getvalue())


def test_every_form_is_written_and_logged(told, losses):
    folder = losses / "reports" / "losses"
    assert told["page"] == str(folder / "report.html")
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {"report.html", "report.md", "tables/main_ndcg_at_10.tex", "tables/significance.tex"} <= names
    for figure in ("critical_difference", "objective_ranking_temperature_symcere", "popularity_hotels", "norms_hotels"):
        assert {f"figures/{figure}.png", f"figures/{figure}.pdf"} <= names
    run = tracking.find_run(told["run"])
    assert (run.status, run.experiment, run.tags["symcere.role"]) == ("FINISHED", "losses", "report")
    logged = run.artifact("report")
    assert {p.relative_to(logged).as_posix() for p in logged.rglob("*") if p.is_file()} == names


def test_a_report_is_no_part_of_the_next_one(told, losses):
    assert len(collect("losses").runs) == 3 * (22 + 5)


def test_the_page_says_the_figures_of_the_store(told, losses, losses_sweep):
    shown = re.sub(r"<[^>]+>", " ", Path(told["page"]).read_text())
    for dataset in ("hotels", "instruments", "magazines"):
        values = [
            r.metrics["test_ndcg_at_10"] for r in losses_sweep.finals if (r.dataset, r.method) == (dataset, "symcere")
        ]
        assert re.search(rf"{np.mean(values):.4f}\s+± {np.std(values, ddof=1):.4f}", shown)
    assert told["finding"] in re.sub(r"[ \n]+", " ", shown)
    assert "better on hotels, instruments and magazines" in told["finding"]


def test_the_command_prints_the_results(told):
    row = next(r for r in told["results"] if (r["data set"], r["method"]) == ("hotels", "symcere"))
    assert row["seeds"] == 2
    assert row["over"] == "lightgcn"
    assert row["gain"] == pytest.approx(0.22, abs=0.03)  # planted: 1 / 0.82
    assert row["p"] < 0.05


def test_bad_input_is_answered(losses, tmp_path, capsys):
    assert cli.main(["report", "lossess"]) == 2
    assert "Did you mean losses?" in capsys.readouterr().err
    assert cli.main(["report", "losses", "--method", "lightgnc"]) == 2
    assert "Did you mean lightgcn?" in capsys.readouterr().err
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else than a report"):
        steps.report("losses", tmp_path)
    assert (tmp_path / "thesis.tex").exists()


# ---------------------------------------------------------------- what each section holds


def test_the_main_table_marks_the_best_and_tells_the_gain(report):
    main = table(report, "main_ndcg_at_10")
    assert main.head == ["data set", "popularity", "lightgcn", "symcere", "strongest", "gain"]
    for row in main.rows:
        assert [c.best for c in row[1:4]] == [False, False, True]
        assert [c.second for c in row[1:4]] == [False, True, False]
        assert row[1].spread == ""  # a closed form has one seed
        assert row[4] == "lightgcn"
        assert row[5].marks
        assert row[5].good == 1


def test_significance_stands_with_effect_interval_and_both_p(report):
    found = table(report, "significance")
    assert [*found.head[3:]] == ["difference", "95 % interval", "relative", "d", "p", "p (Holm)", "users", "seeds"]
    assert len(found.rows) == 2 * 3
    assert {row[-2] for row in found.rows} == {"200"}
    assert len(table(report, "comparisons").rows) == 3 * 2


def test_the_temperature_curve_peaks_where_it_was_planted(report):
    (figure,) = [f for f in report.figures() if f.name == "objective_ranking_temperature_symcere"]
    (axes,) = figure.drawn.axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
    assert len(lines) == 3
    for line in lines:  # the peak is at 0.25, between 0.2 and 0.4
        assert line.get_xdata()[np.argmax(line.get_ydata())] in (0.2, 0.4)
        assert max(line.get_ydata()) == pytest.approx(1)


def test_losses_and_methods_are_shares_of_the_same_best(losses_sweep, report):
    """A line's height tells which is better: only the best of all reaches 1."""
    trials = [t for t in losses_sweep.trials if t.finished]
    best = {d: max(t.validation for t in trials if t.dataset == d) for d in losses_sweep.datasets}

    def lines(name: str) -> dict[str, float]:
        (figure,) = [f for f in report.figures() if f.name == name]
        (axes,) = figure.drawn.axes
        return {line.get_label(): max(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) > 1}

    of_losses = lines("objective_ranking_temperature_symcere--by-ranking-loss")
    for loss, height in of_losses.items():
        shares = [
            t.validation / best[t.dataset]
            for t in trials
            if t.method == "symcere" and t.params["objective.ranking.loss"] == loss
        ]
        assert height == pytest.approx(max(shares))
    assert sorted(h == pytest.approx(1) for h in of_losses.values()) == [False] * (len(of_losses) - 1) + [True]


@pytest.mark.parametrize(("one", "other"), [("v1.0", "v1-0"), ("a_b", "a.b")])
def test_names_of_data_sets_stay_apart_as_files(one, other):
    assert file_name(one) != file_name(other)


def test_the_ablation_finds_the_planted_normalisation(report):
    found = table(report, "ablation_model_normalise")
    rows = {tuple(row[:2]): row[2:] for row in found.rows}
    assert set(rows) == {("symcere", "l2"), ("symcere", "none")}
    assert all(c.best for c in rows["symcere", "l2"])
    assert all(c.spread.endswith(", 5") for c in rows["symcere", "none"])
    assert "validation" in found.caption


def test_importance_names_the_planted_setting_first(report):
    (figure,) = [f for f in report.figures() if f.name == "importance_symcere"]
    labels = [t.get_text() for t in figure.drawn.axes[0].get_yticklabels()]
    assert labels[-1] == "normalise"  # the topmost bar


def test_popularity_tells_length_against_popularity(report):
    rows = {tuple(row[:2]): row[2:] for row in table(report, "popularity").rows}
    assert rows["hotels", "symcere"][-1] == "constant"
    assert rows["hotels", "popularity"][-1] == "–"
    assert float(rows["hotels", "lightgcn"][-1]) > 0.8


def test_cost_counts_trials_failures_and_hours(report):
    rows = {tuple(row[:2]): row[2:] for row in table(report, "cost").rows}
    assert rows["hotels", "symcere"][:2] == ["11", "1"]
    assert rows["hotels", "symcere"][4] == "120"  # seconds from start to end
    assert rows["hotels", "symcere"][5] == "0.37"  # 11 x 2 minutes
    assert table(report, "failures").rows == [["symcere", "the loss is not finite at step 12 (term: ranking)", "3"]]
    assert any("3 trials of 66 failed" in gap and "not finite" in gap for gap in report.gaps)


# ---------------------------------------------------------------- what is missing is said, never made up


def test_without_final_models_there_is_what_the_search_shows(losses_sweep, tmp_path):
    found = cut(losses_sweep, finals=())
    assert "No final model is finished yet" in found.lead[0]
    assert any("no finished final model" in gap for gap in found.gaps)
    assert not any(t.name.startswith(("main", "significance")) for t in found.tables())
    assert any(f.name.startswith("objective_ranking_temperature") for f in found.figures())
    assert words(found, "Average rank") == (
        "Fewer than two methods have test NDCG@10 on every data set, so there is no rank."
    )


def test_one_seed_has_no_spread_and_says_of_what_its_p_speaks(losses_sweep):
    found = cut(losses_sweep, finals=[r for r in losses_sweep.finals if r.seed == 0])
    assert any("one seed" in gap and "these very models" in gap for gap in found.gaps)
    assert {c.spread for row in table(found, "main_ndcg_at_10").rows for c in row[1:4]} == {""}
    assert {row[-1] for row in table(found, "significance").rows} == {"1"}


def test_one_method_is_compared_with_nothing(losses_sweep):
    alone = {k: [r for r in getattr(losses_sweep, k) if r.method == "symcere"] for k in ("trials", "finals")}
    found = cut(losses_sweep, **alone)
    assert "nothing to measure symcere against" in found.lead[0]
    assert words(found, "Significance") == "Nothing is compared: the sweep has one method only."
    assert table(found, "main_ndcg_at_10").head == ["data set", "symcere"]


def test_one_data_set_has_no_average_rank(losses_sweep):
    one = {k: [r for r in getattr(losses_sweep, k) if r.dataset == "hotels"] for k in ("trials", "finals")}
    found = cut(losses_sweep, **one)
    assert "One data set gives an order" in words(found, "Average rank")
    assert "critical_difference" not in [f.name for f in found.figures()]
    assert "few for it" in words(cut(losses_sweep), "Average rank")  # three are drawn, with a caution


def test_without_varied_settings_there_is_no_curve_no_ablation_no_importance(losses_sweep):
    first = {(t.dataset, t.method): t for t in losses_sweep.trials if t.finished}
    found = cut(losses_sweep, trials=first.values())
    assert (
        words(found, "Temperature") == "No temperature with an effect was varied in this sweep, so there is no curve."
    )
    assert "not searched over its normalisation and ranking loss" in words(found, "Normalisation")
    assert "1 finished trials are too few" in words(found, "Importance")
    assert not [b for b in section(found, "Importance").blocks if isinstance(b, Figure)]


def test_only_trials_that_ended_speak_of_the_search(losses_sweep):
    trials = [replace(t, status="RUNNING") if t.finished and t.dataset == "hotels" else t for t in losses_sweep.trials]
    found = cut(losses_sweep, trials=trials)
    assert any("21 trials still run" in gap for gap in found.gaps)
    assert table(found, "ablation_model_normalise").head == ["method", "normalise", "instruments", "magazines"]


def test_searched_without_a_final_model_is_named(losses_sweep):
    finals = [r for r in losses_sweep.finals if (r.dataset, r.method) != ("hotels", "lightgcn")]
    failed = [r for r in losses_sweep.finals if (r.dataset, r.method, r.seed) == ("hotels", "lightgcn", 0)]
    broken = [replace(failed[0], status="FAILED", error="out of memory")]
    found = cut(losses_sweep, finals=finals, unfinished=broken)
    assert "Searched, but without a finished final model: lightgcn on hotels." in found.gaps
    assert "The final model of lightgcn on hotels, seed 0, failed: out of memory" in found.gaps
    assert "–" in table(found, "main_ndcg_at_10").rows[0]
    assert "without a rank: lightgcn" in words(found, "Average rank")


def test_without_stored_vectors_and_users_the_page_says_so(sweep):
    sweep("bare", ("hotels",), ("lightgcn", "symcere"), trials=1, per_user=False)
    found = document(Results(collect("bare")))
    assert "lightgcn on hotels: no per-user metrics were stored" in words(found, "Significance")
    gain = table(found, "main_ndcg_at_10").rows[0][-1]
    assert (gain.marks, gain.good) == ("", 0)  # a gain, but nothing that says it is real
    assert float(gain.text.replace("\u00a0%", "")) > 10


# ---------------------------------------------------------------- real models


@pytest.mark.slow
def test_real_trainings_become_a_report(home, tmp_path: Path):
    for n, dataset in enumerate(("north", "south")):
        steps.prepare("synthetic", name=dataset, settings={"core": 2, "split.seed": n})
        for method in ("mf-bpr", "lightgcn", "symcere"):
            settings = {"train.epochs": 2, "text.encoders": "lsa", "train.lr": 0.01}
            tags = {"symcere.sweep": "tiny"}
            for tau in (0.2, 0.4) if method == "symcere" else (0.4,):
                steps.train(
                    dataset, method=method, settings=settings | {"objective.ranking.temperature": tau},
                    group="tiny", tags=tags | {"symcere.role": "trial"}, test=False,
                )  # fmt: skip
            for seed in (0, 1):
                steps.train(
                    dataset, method=method, settings=settings | {"train.seed": seed},
                    group="tiny", tags=tags | {"symcere.role": "final"},
                )  # fmt: skip
    told = steps.report("tiny", tmp_path / "report")
    assert {r["method"] for r in told["results"]} == {"mf-bpr", "lightgcn", "symcere"}
    assert all(0 < r["NDCG@10"] < 1 and r["seeds"] == 2 for r in told["results"])
    assert all(0 <= r["p"] <= 1 for r in told["results"] if r["method"] == "symcere")
    assert (tmp_path / "report/figures/objective_ranking_temperature_symcere.png").exists()
