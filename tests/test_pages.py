"The pages that lead to others: their links lead somewhere, and the names that they give exist."

import json
import re
import tomllib
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
PAGES = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
# a link to a component notebook, and the names after it
NAMED = re.compile(r"\]\((\d\d_\w+)\.ipynb\)((?:,? `[A-Za-z_][\w.]*`)+)")


def prose(page):
    cells = json.loads(page.read_text(encoding="utf8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_to_files(page):
    broken = [t for t in LINK.findall(prose(page)) if not (page.parent / t).exists()]
    assert broken == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_text_lead_to_files(page):
    links = LINK.findall((ROOT / page).read_text(encoding="utf8"))
    assert [t for t in links if not (ROOT / t).exists()] == []


def exported_to(notebook):
    text = (NBS / f"{notebook}.ipynb").read_text(encoding="utf8")
    return re.search(r"#\| default_exp (\w+)", text)[1]


NAMES = sorted(
    {
        (notebook, name)
        for notebook, names in NAMED.findall(prose(NBS / "paper_index.ipynb"))
        for name in re.findall("`([^`]+)`", names)
    }
)


@pytest.mark.parametrize("notebook, name", NAMES, ids=str)
def test_the_paper_index_names_what_there_is(notebook, name):
    found = import_module(f"cot_distill.{exported_to(notebook)}")
    for part in name.split("."):
        found = getattr(found, part)


def test_the_paper_index_names_profiles_that_there_are():
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf8")
    named = set(re.findall(r"profile `([^`]+)`", prose(NBS / "paper_index.ipynb")))
    assert len(NAMES) > 25 and named <= set(settings.sections())


def test_the_index_lists_every_notebook():
    listed = set(LINK.findall(prose(NBS / "index.ipynb")))
    pages = {p.relative_to(NBS).as_posix() for p in PAGES} - {"index.ipynb"}
    assert pages - listed == set()


def test_the_repository_has_one_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    texts = [p.read_text(encoding="utf8") for p in (*PAGES, *ROOT.glob("*.md"))]
    found = {u for t in texts for u in re.findall(r"https://github\.com/[\w-]+/cot_distill\b", t)}
    assert found <= {project["urls"]["Repository"]}
