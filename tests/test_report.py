"The report of a profile: everything inside, nothing followed. All pages here are made up."

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cot_distill.experiments import read_profile
from cot_distill.report import (
    inlined,
    pages_of,
    report_html,
    report_markdown,
    sections_of,
    settings_table,
    write_report,
)
from cot_distill.runner import Display, Outcome, failure_lines, last_lines


@pytest.fixture
def project(tmp_path):
    "A project with three pages of two artefacts."
    (tmp_path / "settings.ini").write_text(
        "[lab]\nsteps = 300\nartefacts = table_m1 claims table_c1\n[lab table_c1]\nlanguages = en\n"
    )
    folder = tmp_path / "figures" / "lab"
    notebooks = tmp_path / "nbs" / "experiments"
    for place in (folder, notebooks):
        place.mkdir(parents=True)
    for name in ("table_m1", "claims"):
        (notebooks / f"{name}.ipynb").touch()
    (folder / "table_m1.md").write_text("Accuracy.\n\n| method |\n|:--|\n| CoT |\n")
    (folder / "table_m1_steps.md").write_text("Steps.\n")
    (folder / "claims.md").write_text("Claims.\n\n![Each claim](claims.svg)\n")
    (folder / "claims.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return tmp_path


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def test_one_file_holds_everything_and_loads_nothing(project):
    file = write_report("lab", project)
    page = Page(file.read_text(encoding="utf8"))
    pictures = page.of("img")
    assert [p["alt"] for p in pictures] == ["Each claim"]
    kind, data = pictures[0]["src"].split(",")
    assert kind == "data:image/svg+xml;base64" and base64.b64decode(data).startswith(b"<svg")
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    policy = page.of("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'")
    links = [a["href"] for a in page.of("a")]
    assert "../../nbs/experiments/claims.ipynb" in links and not any("://" in a for a in links)


def test_claims_come_first_and_missing_artefacts_are_named(project):
    profile = read_profile("lab", project)
    assert [s.name for s in sections_of(profile, project)] == ["claims", "table_m1"]
    text = report_markdown(profile, project)
    assert "Not made yet: table_c1." in text and text.index("Claims.") < text.index("Accuracy.")
    assert text.index("Accuracy.") < text.index("Steps.")
    assert (project / "figures/lab/report.md").exists() is False


def test_an_executed_notebook_is_linked_in_place_of_the_projects_own(project):
    done = project / "data/cache/notebooks/lab/claims.ipynb"
    done.parent.mkdir(parents=True)
    done.touch()
    text = report_markdown(read_profile("lab", project), project)
    assert "(../../data/cache/notebooks/lab/claims.ipynb)" in text


def test_a_longer_name_has_its_own_pages(tmp_path):
    for name in ("dose", "dose_cue", "dose_cue_follows", "dose_more"):
        (tmp_path / f"{name}.md").touch()
    names = ["dose", "dose_cue"]
    assert [p.stem for p in pages_of("dose", names, tmp_path)] == ["dose", "dose_more"]
    assert [p.stem for p in pages_of("dose_cue", names, tmp_path)] == [
        "dose_cue",
        "dose_cue_follows",
    ]


def test_settings_of_one_artefact_are_told_apart(project):
    table = settings_table(read_profile("lab", project)).set_index("setting")
    assert table.artefacts["steps"] == "all" and table.artefacts["languages"] == "table_c1"


HOSTILE = [
    "<script>alert(1)</script>",
    "a | b\n| c | d |",
    "`x` $y$ **z** _w_",
    "=1+1",
    "![x](https://example.org/x.png)[y](javascript:alert(1))",
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "\u202egnp.exe",
]
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_fill_one_cell_of_a_report(text, project):
    "A setting, a missing artefact's neighbour, the name of a run."
    profile = replace(read_profile("lab", project), parameters=dict(teacher=f"recording:{text}"))
    page = Page(report_html(report_markdown(profile, project), project / "figures" / "lab"))
    rows = "".join(tag for tag, _ in page.tags if tag in ("tr", "td")).split("tr")
    assert not page.of("script") and len(page.of("img")) == 1  # the picture of the claims
    assert all(row.count("td") in (0, 1, 3, 4) for row in rows)
    assert not any("example.org" in str(attrs) for _, attrs in page.tags)
    assert not any("javascript" in a["href"] for a in page.of("a"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_is_told_and_not_steered(text, tmp_path):
    failed = Outcome(text, "failed", 1.0, text, last_lines(text), tmp_path / "run.ipynb")
    log = io.StringIO()
    with Display("runs", [], file=log) as display:
        display.end(0, failed)
    said = [*failure_lines(failed, tmp_path), log.getvalue()]
    assert said[-2].strip() == "run.ipynb" and not HIDDEN.search("".join(said).replace("\n", ""))


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](https://example.org/x.png)",
        "![x](../../../etc/passwd)",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,AAAA)",
        '<a href="https://example.org" onclick="alert(1)">x</a>',
        "<style>body{display:none}</style>",
        "\x1b[2J \u202e reversed",
    ],
)
def test_hostile_pages_are_shown_and_not_followed(text, tmp_path):
    page = Page(report_html(f"# {text}\n\n{text}\n\n| a |\n|:--|\n| {text} |\n", tmp_path))
    assert len(page.of("style")) == 1 and not page.of("script")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert all(p["src"].startswith("data:") or not p["src"] for p in page.of("img"))
    assert not any(re.match("(javascript|data):", a.get("href", "")) for a in page.of("a"))


def test_a_picture_that_is_gone_is_named(tmp_path):
    with pytest.raises(ValueError, match="no picture gone.svg .* make its artefact again"):
        inlined('<img src="gone.svg" alt="">', tmp_path)
