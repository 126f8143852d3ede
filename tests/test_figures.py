"Figures: what the notebook does not show. All records here are made up."

import csv
import io
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from cot_distill.claims import CLAIMS, MAPS
from cot_distill.figures import (
    METHODS,
    STYLE,
    Panel,
    Plot,
    beside_paper,
    by_language,
    by_test,
    clear_best,
    contrast,
    csv_text,
    described,
    detokenise,
    finding,
    heading,
    html_text,
    label,
    latex_text,
    legend_above,
    markdown_text,
    off_zero,
    paired_differences,
    plot_curves,
    plot_doses,
    plot_forest,
    plot_matrix,
    plot_methods,
    plot_pipeline,
    plot_rationales,
    plot_token_probabilities,
    said_steps,
    save_figure,
    summarise,
    visible,
    write_rationales,
    write_table,
)
from cot_distill.lab import CUES, FAMILIES
from cot_distill.lexicon import LEXICON
from cot_distill.questions import BENCHMARKS, Question
from cot_distill.records import Example, Target
from cot_distill.results import read_predictions, results_frame
from cot_distill.run import choices
from cot_distill.students import ARCHITECTURES


def record(method="cot", seed=0, scores=None, config=None, **metrics):
    scores = scores or dict(en=(6, 10))
    right, n = (sum(s) for s in zip(*scores.values()))
    pools = {
        code: dict(right=r, n=m, group="tail" if code in ("bg", "tr") else "head")
        for code, (r, m) in scores.items()
    }
    return dict(
        name=method,
        key=f"{method}{seed}".ljust(8, "0"),
        config=dict(student="lab:gpt2", method=method, seed=seed, **(config or {})),
        metrics=dict(accuracy=right / n, n=n, by_language=pools, **metrics),
    )


@pytest.fixture
def results():
    "Reads records."
    return lambda *records: results_frame(records)


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
    assert "alpha" in read.loc[:, :"run"] and "accuracy" not in read.loc[:, :"run"]
    assert "alpha" in by_language(read)
    cells = summarise(read, ["method", "alpha"])  # a cell without alpha is a cell
    assert len(cells) == 2


def test_collision_of_config_and_metrics(results):
    with pytest.raises(ValueError, match="n is a setting and a metric"):
        results(record(config=dict(n=8)))


def test_predictions_missing(results, tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions"):
        read_predictions(tmp_path, results(record()).run[0])


def test_one_seed_has_wilson_only_for_proportions(results):
    read = results(record(tokens_per_second=900.0, faithful=None))
    assert summarise(read, ["method"]).low[0] == pytest.approx(0.3127, abs=1e-3)
    assert math.isnan(summarise(read, ["method"], "tokens_per_second").low[0])
    assert summarise(read, ["method"], "faithful").empty
    with pytest.raises(ValueError, match="no column speed; there are student, method, seed"):
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
    with pytest.raises(ValueError, match="no look for mine; register the method"):
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


# words


def readers(column, values):
    return [pytest.param(column, value, id=f"{column}-{value}") for value in values]


EVERY = [
    *readers("benchmark", choices()["benchmark"]),
    *readers("test", [*CUES, *LEXICON, *BENCHMARKS]),
    *readers("language", [*LEXICON, "head", "tail", "average", "seen", "all"]),
    *readers("method", METHODS),
    *readers("student", [f"lab:{arch}" for arch in ARCHITECTURES]),
    *readers("focus", choices()["focus"]),
    *readers("claim", [claim.name for claim in CLAIMS]),
    *readers("measure", sorted({claim.measure for claim in CLAIMS})),
    *readers("source", sorted({claim.source for claim in CLAIMS})),
    *readers("map", [map_.name for map_ in MAPS if len(map_.knobs) == 1]),
    *readers("mode", ["plain", "vote", "swapped", "shuffled", "missing"]),
    *readers("condition", ["plain", "shared"]),
]


@pytest.mark.parametrize("column, value", EVERY)
def test_each_value_has_words(column, value):
    words = label(column, value)
    signs = "_" if column == "source" else "[:_]"  # of a program's name
    assert words != value and not re.search(signs, words)


@pytest.mark.parametrize("knob", sorted({knob for map_ in MAPS for knob in map_.knobs}))
def test_each_knob_of_a_map_has_words(knob):
    assert heading(knob) not in (knob, knob.partition(".")[2])


def test_families_and_students_of_ones_own_stay_as_they_are():
    assert label("benchmark", "my own") == "my own" and label("claim", "my own") == "my own"
    assert label("student", "people/model_x") == "model_x" and label("seed", 3) == "3"
    assert all(label("benchmark", f"lab:{family}") for family in FAMILIES)


# decoded text


@pytest.mark.parametrize(
    "decoded, written",
    [
        ("sofia ' s vehicle is the bicycle .", "sofia's vehicle is the bicycle."),
        ("when it snows , stay ( at home ) !", "when it snows, stay (at home)!"),
        ("l ' animale è il cavallo .", "l'animale è il cavallo."),
        ("sofia ' nın aracı bisiklet .", "sofia'nın aracı bisiklet."),
        ("превозното средство е влакът .", "превозното средство е влакът."),
        ("trời lạnh , ở nhà .", "trời lạnh, ở nhà."),
        ("في القطب ، الشمس قليلة ؟", "في القطب، الشمس قليلة؟"),
        ("it costs 3 . 5 or 1 , 000 .", "it costs 3.5 or 1,000."),
    ],
)
def test_decoded_text_is_shown_as_people_write_it(decoded, written):
    assert detokenise(decoded) == written
    assert detokenise(written) == written  # and is left alone from then on


@pytest.mark.parametrize(
    "text", ["Quoi ? Il dit « oui ».", "He said 'no' and left.", "a : b", "", "x=[1, 2]", "e.g. it"]
)
def test_written_text_is_left_alone(text):
    assert detokenise(text) == text


def test_a_sign_alone_is_no_step():
    steps = [dict(sentence=s, verdict="right") for s in ("It is cold", ".", " ", "? !", "So: B.")]
    assert [s["sentence"] for s in said_steps(steps)] == ["It is cold.? !", "So: B."]


# text from outside


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b || c",
    "`code` ``` fence",
    "[x](javascript:alert(1)) ![y](https://example.org/y.png)",
    "=cmd|' /C calc'!A0",
    "  +1+1",
    "@SUM(A1)",
    "\x1b[31mred\x1b[2J",
    "right \u202eesrever\u202c left",
    "\u2066hidden\u2069 \u200b \ufeff",
    "$x^2$ and $$y$$",
    "\\end{tabular} & % # _ ~ ^ {}",
    "line one\nline two\r\nthree",
    "&lt;b&gt; &amp;",
    "**bold** _under_ ~~gone~~ # head",
    "\\| \\\\| trailing \\",
    "أين الجو أبرد؟ (B)",
]
BAD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]")


def shown(markdown):
    "The cells of the table that a reader of Markdown sees, and its tags."
    from html.parser import HTMLParser

    import mistune

    cells, tags = [], set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            if tag in ("td", "th"):
                cells.append("")
            if tag == "br":
                cells[-1] += "\n"

        def handle_data(self, data):
            if cells:
                cells[-1] += data

    Reader().feed(mistune.create_markdown(escape=False, plugins=["table"])(markdown))
    return [cell.rstrip("\n") for cell in cells], tags


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_markdown(text):
    table = pd.DataFrame({"a": [markdown_text(text)], "b": ["next"]}).to_markdown(index=False)
    cells, tags = shown(table)
    assert tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
    squeezed = re.sub(" +", " ", visible(text).strip())
    assert [c.strip() for c in cells[:2]] == ["a", "b"] and cells[3].strip() == "next"
    assert re.sub(" +", " ", cells[2].strip()) == squeezed


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_html_csv_and_latex(text):
    html = html_text(text)
    assert not BAD.search(html) and "<" not in html.replace("<br>", "") and '"' not in html
    file = io.StringIO()
    csv.writer(file).writerow([csv_text(text), csv_text(1.5)])
    ((cell, number),) = csv.reader(io.StringIO(file.getvalue()))
    assert not re.match(r"\s*[=+\-@]", cell) and not BAD.search(cell) and number == "1.5"
    left = re.sub(r"\\text[a-z]+\{\}|\\newline |\\[&%$#_{}]|\$-\$", "", latex_text(text))
    assert not re.search(r"[&%$#_{}\\~^]", left) and not BAD.search(left)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_a_table_and_a_figure(text, tmp_path):
    row = dict(mean=0.5, low=0.4, high=0.6, seeds=3, n=9)
    cells = pd.DataFrame([dict(method=m, benchmark=text, student=text) | row for m in ("a", "b")])
    page = write_table(cells, "t", tmp_path, "Made up.", ["method"], "student", bold=None).data
    found, tags = shown(page)
    assert len(found) == 6 and "script" not in tags and "a" not in tags and "img" not in tags
    steps = [dict(sentence=text, verdict="right")]
    row = dict(question_id="q", question=text, answer="A", predicted="A", right=True, steps=steps)
    pairs = contrast(pd.DataFrame([row]), pd.DataFrame([row]))
    told = write_rationales(pairs, ("one", "two"), "pair", tmp_path, "Two.").data
    assert not BAD.search(told) and "<script" not in told
    save_figure(plot_rationales(pairs, ("one", "two")), "pair", tmp_path, text)
    example = Example(
        Question("q", "lab", "en", text, dict(A=text, B="b"), "A"), (Target(text, "A"),)
    )
    save_figure(plot_pipeline(example, text, "lab:gpt2"), "pipeline", tmp_path, text)
    assert not BAD.search((tmp_path / "pair.svg").read_text().replace("\n", ""))


# figures


def doses():
    return pd.DataFrame(
        dict(
            alpha=[0.1, 1.0] * 2,
            focus=["all"] * 2 + ["span"] * 2,
            mean=[0.1, -0.2, 0.0, 0.4],
            low=[0.0, -0.3, -0.1, 0.3],
            high=[0.2, -0.1, 0.1, 0.5],
        )
    )


def heat():
    words = ["في", "القطب", "الشمالي"]
    return pd.DataFrame(
        dict(rationale="right", stage="before", word=words, probability=0.5, wrong=False)
    )


def forest():
    return pd.DataFrame(
        dict(
            group=["M", "M", "C"],
            claim=["one", "two", "one"],
            beside=["", "tokens", "tokens"],
            row=["first", "beside tokens", "beside tokens"],
            student="lab:gpt2",
            mean=[0.1, -0.1, 0.0],
            low=[0.0, -0.2, -0.1],
            high=[0.2, 0.0, 0.1],
            less=[False, True, False],
            verdict=["supported", "open", "floor"],
        )
    )


FIGURES = dict(
    methods=lambda: plot_methods(
        pd.DataFrame(
            [
                dict(method=m, student=s, language=code, mean=x, low=x - 0.1, high=x + 0.1)
                for m in ("ft", "cot")
                for s, x in (("lab:gpt2", 0.2), ("lab:t5", 0.8))
                for code in ("bg", "average")
            ]
        )
    ),
    doses=lambda: plot_doses(
        [
            Panel("lab:gpt2", "first", doses(), "alpha", "focus"),
            Panel("lab:gpt2", "second", doses()[:2], "alpha"),
            Panel("lab:t5", "first", doses(), "alpha", "focus"),
        ]
    ),
    curves=lambda: plot_curves(doses().assign(mean=0.1, low=0, high=0.2), "alpha", "focus", "y"),
    forest=lambda: plot_forest(forest(), ["group", "claim", "beside"]),
    words=lambda: plot_token_probabilities(heat()),
)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_an_alternative_text(name, tmp_path):
    figure = FIGURES[name]()
    data, extra = figure._repr_mimebundle_()
    assert "image/png" in data and len(extra["image/png"]["alt"]) > 20
    assert "no words" not in described(figure)
    save_figure(figure, name, tmp_path, "In words | here.")
    assert figure._repr_mimebundle_()[1]["image/png"]["alt"] == "In words | here."
    assert (tmp_path / f"{name}.md").read_text() == f"![In words \\| here.]({name}.svg)\n"


def test_a_description_is_one_plain_sentence():
    figure = Figure()
    figure.subplots().set(title="Which is wet,\n   $L_{nR}$ or \\$3?")
    assert described(figure) == "Figure: Which is wet, LnR or $3?"


def test_a_legend_is_read_row_by_row():
    figure = Figure(layout="constrained")
    ax = figure.subplots()
    for name in "abcdefg":
        ax.plot([], label=name)
    legend_above(figure, ax, 3)
    figure.draw_without_rendering()
    boxes = {t.get_text(): t.get_window_extent() for t in figure.legends[0].get_texts()}
    middle = lambda name: -round((boxes[name].y0 + boxes[name].y1) / 2 / 8)
    assert sorted(boxes, key=lambda name: (middle(name), boxes[name].x0)) == [*"abcdefg"]


@pytest.mark.parametrize("name", ["methods", "doses", "curves"])
def test_legends_stay_clear_of_the_axes(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    assert legends
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes if ax.axison)


@pytest.mark.parametrize("name", ["methods", "doses"])
def test_compared_panels_share_an_axis(name):
    assert len({ax.get_ylim() for ax in FIGURES[name]().axes}) == 1


def test_rows_of_one_name_are_lines_of_their_own_and_less_is_turned():
    figure = FIGURES["forest"]()
    ax = figure.axes[0]
    ticks = [t.get_text() for t in ax.get_yticklabels()]
    assert ticks == ["M", "first", "beside tokens", "C", "beside tokens"]
    x, y = ax.lines[-1].get_data() if len(ax.lines[-1].get_xdata()) == 3 else ax.lines[1].get_data()
    assert [round(value) for value in x] == [10, 10, 0] and list(y) == [1, 2, 4]
    assert {"supported", "open", "floor"} <= {t.get_text() for t in ax.texts}
    assert "for the claim" in ax.get_xlabel() and "against the claim" in ax.get_xlabel()


def test_words_of_a_text_from_right_to_left_stand_so():
    boxes = [t for t in FIGURES["words"]().axes[0].texts if t.get_fontsize() > 6]
    assert [t.get_text() for t in boxes] == ["في", "القطب", "الشمالي"]
    places = [t.get_position()[0] for t in boxes]
    assert places == sorted(places, reverse=True)


# sentences and the papers


def test_a_finding_counts_and_quotes():
    cells = doses().iloc[[1, 0, 3]]
    told = finding(cells, "ours", "theirs", ["alpha"])
    assert told.startswith("of 3 intervals 1 favour “ours” and 1 “theirs”; the sign changes")
    assert "from −20.0 [−30.0, −10.0] (weight of the negative loss 1) to +40.0" in told
    single = doses().assign(low=math.nan, high=math.nan)
    assert "0 favour “ours” and 0 “theirs”; no change" in finding(single, "ours", "theirs")


@pytest.mark.parametrize(
    "artefact, on, key, points",
    [
        ("table_m1", ["method", "rationale_language"], ("cot", "en"), -3.9),
        ("table_m1", ["method", "rationale_language"], ("d-cot", "native"), 6.7),
        ("table_m2", ["method"], ("d-cot-nr/unlikelihood",), 5.6),
        ("table_c1", ["method"], ("counterfactual+multi-view",), 11.43),
    ],
)
def test_the_papers_stand_beside_ours(artefact, on, key, points, tmp_path):
    rows = [dict(zip(on, key)), dict.fromkeys(on, "another")]
    cells = pd.DataFrame(rows).assign(
        student="lab:gpt2", mean=0.0, low=-0.1, high=0.1, seeds=2, n=9
    )
    both = beside_paper(cells, artefact, on)
    assert both["mean"][0] * 100 == pytest.approx(points) and math.isnan(both["mean"][1])
    shape = dict(columns="student", bold=off_zero, form="+.1f")
    page = write_table(both, "t", tmp_path, "Made up.", on, **shape).data
    assert "the paper does not say" in page and "Test questions per run: 9." in page


def test_bold_sees_the_whole_table(cells, tmp_path):
    seen = []

    def all_of(table, columns):
        "everything."
        seen.append((len(table), columns))
        return table["mean"] > 0

    page = write_table(cells, "t", tmp_path, "", ["method"], "student", bold=all_of).data
    assert seen == [(4, "student")] and page.count("**") == 8
    best = clear_best(cells, "student")
    assert best.tolist() == [True, False, False, False]


def test_what_is_the_same_for_all_moves_into_the_caption(cells, tmp_path):
    same = cells.assign(match="steps")
    page = write_table(same, "t", tmp_path, "Made up.", ["match", "method"], "student").data
    assert "Equal in: steps." in page and "| equal in" not in page


# pages


def sources(kind):
    from pathlib import Path

    for file in sorted(Path("nbs/experiments").glob("*.ipynb")):
        if file.stem not in ("run", "bench_teacher", "learning_curves"):
            for cell in json.loads(file.read_text(encoding="utf8"))["cells"]:
                if cell["cell_type"] == kind:
                    yield file.stem, "".join(cell["source"])


def test_pages_hold_no_definitions():
    assert [
        n for n, code in sources("code") if re.search(r"^\s*def |^\w+ = lambda", code, re.M)
    ] == []


def test_no_page_quotes_an_interval_that_it_does_not_compute():
    quoted = [n for n, text in sources("markdown") if re.search(r"\[[−+-]?\d+\.\d+, ", text)]
    assert quoted == []


def test_a_page_made_of_a_notebook_has_the_alternative_text():
    import nbformat
    from nbconvert import HTMLExporter

    data, extra = FIGURES["words"]()._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data, metadata=extra)
    cell = nbformat.v4.new_code_cell("figure", outputs=[output])
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(
        nbformat.v4.new_notebook(cells=[cell])
    )
    assert re.search(r'<img[^>]*alt="Probability of each word', html)
