"Figures: what the notebook does not show. All records here are made up."

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from PIL import Image

from cot_distill.figures import (
    METHODS,
    STYLE,
    Plot,
    by_language,
    by_test,
    contrast,
    paired_differences,
    plot_matrix,
    plot_methods,
    plot_rationales,
    read_predictions,
    read_results,
    save_figure,
    summarise,
    write_rationales,
    write_table,
)


def record(method="cot", seed=0, scores=None, config=None, **metrics):
    scores = scores or dict(en=(6, 10))
    right, n = (sum(s) for s in zip(*scores.values()))
    return dict(
        key=f"{method}{seed}".ljust(64, "0"),
        config=dict(method=method, seed=seed, **(config or {})),
        environment=dict(torch="2"),
        metrics=dict(
            accuracy=right / n,
            n=n,
            by_language={
                l: dict(right=r, n=m, group="tail" if l in ("bg", "tr") else "head")
                for l, (r, m) in scores.items()
            },
            **metrics,
        ),
    )


@pytest.fixture
def results(tmp_path):
    "Writes records and reads them back."

    def write(*records, keys=None):
        for i, r in enumerate(records):
            (tmp_path / f"run{i}-{r['key'][:8]}.json").write_text(json.dumps(r))
        return read_results(tmp_path, keys)

    return write


def test_order_and_unknown_methods(results):
    read = results(record("a new one"), record("d-cot", 1), record("d-cot", 0), record("ft"))
    assert list(zip(read.method, read.seed)) == [
        ("ft", 0),
        ("d-cot", 0),
        ("d-cot", 1),
        ("a new one", 0),
    ]


def test_settings_of_later_records_stay_left_of_run(results):
    read = results(record("cot"), record("d-cot-nr/orpo", config=dict(alpha=0.1)))
    assert list(read.loc[:, :"run"]) == ["method", "seed", "alpha", "run"]
    assert "alpha" in by_language(read)
    cells = summarise(read, ["method", "alpha"])  # a cell without alpha is a cell
    assert len(cells) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"key": "a", "config": {}}', '{"key": "a", "config": 1, "metrics": {}}']
)
def test_broken_record_names_file_and_remedy(tmp_path, text):
    (tmp_path / "cot-00000000.json").write_text(text)
    with pytest.raises(ValueError, match=r"cot-00000000\.json and run `cot-distill reproduce"):
        read_results(tmp_path)


def test_a_broken_older_run_is_not_in_the_way(results, tmp_path):
    (tmp_path / "cot-00000000.json").write_text("{")
    wanted = record("cot", 0)
    assert len(results(wanted, keys=[wanted["key"]])) == 1
    with pytest.raises(FileNotFoundError, match="of those asked for"):
        read_results(tmp_path, ["f" * 64])


def test_collision_of_config_and_metrics(results):
    with pytest.raises(ValueError, match="^n differs between config and metrics"):
        results(record(config=dict(n=8)))


def test_predictions_missing(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="delete that record"):
        read_predictions(tmp_path, results(record()).run[0])


def test_one_seed_has_wilson_only_for_proportions(results):
    read = results(record(tokens_per_second=900.0, faithful=None))
    assert summarise(read, ["method"]).low[0] == pytest.approx(0.3127, abs=1e-3)
    assert math.isnan(summarise(read, ["method"], "tokens_per_second").low[0])
    assert summarise(read, ["method"], "faithful").empty
    with pytest.raises(ValueError, match="no column speed; there are method, seed"):
        summarise(read, ["method"], "speed")


def test_same_run_twice(results):
    with pytest.raises(ValueError, match="seed 0 has several runs in the cell cot; they repeat"):
        summarise(results(record(), record()), ["method"])


def test_languages_weigh_the_same(results):
    read = results(record(scores=dict(bg=(9, 10), en=(10, 100), tr=(5, 10))))
    at = by_language(read).set_index("language")
    assert list(at.index) == ["bg", "en", "tr", "head", "tail", "average"]
    assert at.accuracy["tail"] == pytest.approx(0.7) and at.n["tail"] == 20
    assert at.accuracy["average"] == pytest.approx(0.5) and at.n["average"] == 120
    assert list(by_language(results(record(scores=dict(en=(9, 10))))).language) == ["en"]
    assert "environment" not in at and "key" not in at


def test_luck_shared_by_a_seed_cancels(results, tmp_path):
    runs = results(
        *[
            record(m, s, dict(en=(50 + gain + wobble * s, 100)))
            for m, gain, wobble in (("cot", 0, 0), ("d-cot", 7, 1))
            for s in range(3)
        ]
    )
    lucky = runs.assign(accuracy=runs.accuracy + runs.seed * 0.1)
    cells = paired_differences(lucky, "cot", ["method"])
    pd.testing.assert_frame_equal(cells, paired_differences(runs, "cot", ["method"]))
    assert cells["mean"][0] == pytest.approx(0.08) and cells.seeds[0] == 3


def test_only_shared_seeds_are_compared(results):
    runs = results(record("cot", 0), record("d-cot", 0), record("d-cot", 1))
    cells = paired_differences(runs, "cot", ["method"])
    assert cells.seeds[0] == 1 and math.isnan(cells.low[0])  # no Wilson interval for a difference


def test_other_test_set(results):
    with pytest.raises(ValueError, match="answered 20 and 10 questions"):
        paired_differences(
            results(record("cot"), record("d-cot", scores=dict(en=(9, 20)))), "cot", ["method"]
        )


@pytest.fixture
def cells():
    row = lambda *values: dict(
        zip(["method", "student", "mean", "low", "high", "seeds", "n"], values)
    )
    return pd.DataFrame(
        [
            row("d-cot", "mt5_small", 0.7012345678, 0.66, 0.74, 3, 100),
            row("d-cot", "gpt2", 0.5, 0.4, 0.6, 3, 100),
            row("cot", "mt5_small", 0.6, 0.5, 0.7, 2, 100),
            row("ft", "gpt2", 0.45, math.nan, math.nan, 1, 90),
        ]
    )


def test_table_files(cells, tmp_path):
    shown = write_table(cells, "t", tmp_path / "new", "100% made up.", ["method"], "student").data
    assert shown == (tmp_path / "new/t.md").read_text()
    body = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in shown.splitlines()
        if line.startswith("|")
    ]
    assert body[0] == ["method", "mt5_small", "gpt2"]
    assert body[2:] == [
        ["d-CoT", "**70.1 [66.0, 74.0]**", "50.0 [40.0, 60.0]"],
        ["CoT", "60.0 [50.0, 70.0]", "–"],
        ["FT", "–", "45.0"],
    ]
    assert "Student t over 2 to 3 seeds" in shown and "90 to 100" in shown and "Wilson" not in shown
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new/t.csv"), cells)
    tex = (tmp_path / "new/t.tex").read_text()
    assert (
        r"100\% made up" in tex
        and r"mt5\_small" in tex
        and r"\textbf{70.1 [66.0, 74.0]}" in tex
        and r"\toprule" in tex
    )


def test_bold_can_be_left_out(cells, tmp_path):
    shown = write_table(
        cells, "t", tmp_path, "Seconds.", ["method"], "student", bold=None, scale=1, form=".3f"
    ).data
    assert "**" not in shown and "Bold" not in shown and "0.701 [0.660, 0.740]" in shown


def test_a_missing_row_factor_is_refused(cells, tmp_path):
    with pytest.raises(ValueError):
        write_table(pd.concat([cells, cells]), "t", tmp_path, "", ["method"], "student")


def test_figure_files(cells, tmp_path):
    fig = plot_methods(cells, x="student", size=(3.5, 2))
    save_figure(fig, "f", tmp_path, "Genauigkeit – точност.")
    assert Image.open(tmp_path / "f.png").size == (700, 400)
    assert Image.open(tmp_path / "f.png").text["Title"] == "Genauigkeit – точност."
    svg = (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert (
        "<title>Genauigkeit – точност.</title>" in svg
        and "dc:date" not in svg
        and "Matplotlib" not in svg
    )
    assert METHODS["d-cot"].color.lower() in svg


def test_colours_are_the_methods_own_whatever_else_is_drawn(cells):
    colours = lambda fig: {c.get_label(): c.lines[0].get_color() for c in fig.axes[0].containers}
    assert (
        colours(plot_methods(cells, "student"))["CoT"]
        == colours(plot_methods(cells[cells.method == "cot"], "student"))["CoT"]
        == METHODS["cot"].color
    )


def test_a_method_without_a_look(cells):
    with pytest.raises(ValueError, match="no look for mine; give it one in METHODS"):
        plot_methods(cells.replace("ft", "mine"), "student")


def test_arabic_letters_join():
    with rc_context(STYLE):
        width = lambda text: Plot().text(0, 0, text).get_window_extent().width
    assert width("ببب") < width("ب\u200cب\u200cب")  # zero-width non-joiners keep letters apart


# Machado et al. (2009), severity 1, on linear RGB.
SEEN = dict(
    normal=np.eye(3),
    deuteranopia=np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    protanopia=np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
)


def lab(color, seen):
    "CIELAB of a hex colour as seen."
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    rgb = np.clip(
        seen @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1
    )
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ rgb
        / [0.9505, 1, 1.089]
    )
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN)
def test_colours_stay_apart(seen):
    colours = {
        look.color for look in METHODS.values()
    }  # a control and an ablation have that of their method
    near = {
        (a, b): np.linalg.norm(lab(a, SEEN[seen]) - lab(b, SEEN[seen]))
        for a, b in itertools.combinations(colours, 2)
    }
    assert min(near.values()) > 15, min(near, key=near.get)
    assert len({look.marker for look in METHODS.values()}) == len(METHODS)


# test sets and modes


def test_by_test_unfolds_what_a_run_was_tested_on(results):
    scores = lambda a: dict(
        accuracy=a, n=50, chance=0.2, by_language={}, views=dict(pvc=0.1, nvc=0.9, mixed=0.0)
    )
    transfer = dict(
        own=dict(direct=scores(0.5), vote=scores(0.6)),
        other=dict(direct=scores(0.3), vote=scores(0.2)),
    )
    read = by_test(results(record("cot", transfer=transfer), record("cot", 1, transfer=transfer)))
    assert list(zip(read.test, read["mode"], read["first"]))[:4] == [
        ("own", "direct", True),
        ("own", "vote", False),
        ("other", "direct", True),
        ("other", "vote", False),
    ]
    assert "by_language" not in read and list(read.written_nvc) == [0.9] * 8
    cells = summarise(read, ["method", "test", "mode"])
    assert list(cells["mean"]) == [0.5, 0.6, 0.3, 0.2] and set(cells.seeds) == {2}


def told(**answers):
    return pd.DataFrame(
        [
            dict(
                question_id=q,
                question=f"{q}?",
                answer="A",
                predicted=p,
                right=p == "A",
                steps=[dict(sentence="So it is.", verdict="")],
            )
            for q, p in answers.items()
        ]
    )


def test_each_outcome_is_shown_by_a_question_that_chance_picks():
    pairs = contrast(
        told(a="A", b="A", c="B", d="B", e=None), told(a="A", b="B", c="A", d="B", e="B")
    )
    assert list(pairs.outcome) == [
        "both right",
        "both wrong",
        "only the first right",
        "only the second right",
    ] and list(pairs.share) == [0.2, 0.4, 0.2, 0.2]
    with pytest.raises(ValueError, match="share 1 questions"):
        contrast(told(a="A", b="A"), told(a="A"))


def test_rationales_side_by_side_are_written_step_by_step(tmp_path):
    pairs = contrast(told(a="A", b=None), told(a="A", b="B"))
    shown = write_rationales(pairs, ("one", "two"), "pair", tmp_path, "Two.").data
    assert (
        shown == (tmp_path / "pair.md").read_text()
        and "**→ unread**" in shown
        and "· So it is." in shown
    )
    steps = pd.read_csv(tmp_path / "pair.csv")
    assert len(steps) == 4 and set(steps.student) == {"one", "two"}
    save_figure(plot_rationales(pairs, ("one", "two")), "pair", tmp_path, "Two.")


def test_a_matrix_frames_what_was_trained_on(tmp_path):
    cells = pd.DataFrame(
        [
            dict(benchmark=b, method="ft", test=t, mean=0.3, low=0.2, high=0.4, seeds=3, n=9)
            for b in ("x", "y")
            for t in ("x", "y", "z")
        ]
    )
    figure = plot_matrix(cells, ["benchmark", "method"], chance=dict(x=0.2))
    assert (
        len(figure.axes[0].patches) == 2
        and len(figure.axes[0].texts) == 6
        and "30\n[20, 40]" in {t.get_text() for t in figure.axes[0].texts}
    )
    save_figure(figure, "matrix", tmp_path, "A matrix.")
