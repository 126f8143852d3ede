"The package from outside: what importing it costs, what it offers and what its wheel carries."

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import cot_distill

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def said(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_is_light():
    heavy = "{'torch', 'transformers', 'pandas', 'datasets', 'numpy', 'openai', 'matplotlib'}"
    loaded = said(f"import sys, cot_distill; print(sorted({heavy} & set(sys.modules)))")
    assert loaded == "[]"


@pytest.mark.parametrize("name", [n for n in cot_distill.__all__ if not n.startswith("_")])
def test_a_name_is_the_one_of_its_module(name):
    module = import_module(f"cot_distill.{cot_distill._HOME[name]}")
    assert getattr(cot_distill, name) is getattr(module, name)
    assert name in dir(cot_distill)


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse((ROOT / "cot_distill" / "__init__.py").read_text(encoding="utf8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {a.asname: node.module for node in block.body for a in node.names}
    assert seen == cot_distill._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Wrld'"):
        cot_distill.Wrld


def imported(nodes):
    "Packages that statements import."
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


# packages whose import has another name than what is installed, or that come with another
INSTALLED_AS = {"IPython": "ipython", "quicktok": "quicktok-v1"}
INSTALLED_AS |= {"nbclient": "nbconvert", "nbformat": "nbconvert"}


def undeclared(names, extras):
    "Packages among `names` that neither the package nor the named extras ask for."
    asked = [r for extra in extras for r in PROJECT["optional-dependencies"][extra]]
    declared = {r.partition(">")[0].strip() for r in [*PROJECT["dependencies"], *asked]}
    third = set(names) - sys.stdlib_module_names - {"cot_distill"}
    return {INSTALLED_AS.get(name, name) for name in third} - declared


def test_every_import_is_declared():
    used = []
    for module in (ROOT / "cot_distill").glob("*.py"):  # at its top or in its functions
        used += imported(ast.walk(ast.parse(module.read_text(encoding="utf8"))))
    assert undeclared(used, PROJECT["optional-dependencies"]) == set()


PAGES = sorted((ROOT / "nbs").rglob("*.ipynb"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_imports_what_its_install_cell_installs(page):
    used = []
    for cell in json.loads(page.read_text(encoding="utf8"))["cells"]:
        if cell["cell_type"] == "code" and cell["id"] != "colab-install":
            used += imported(ast.parse("".join(cell["source"])).body)
    assert undeclared(used, ["notebooks"]) == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A wheel of what is checked out."
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("cot_distill", "nbs/experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_carries_the_project(wheel):
    names = set(wheel.namelist())
    experiments = {f"nbs/experiments/{p.name}" for p in (ROOT / "nbs/experiments").glob("*.ipynb")}
    carried = {n.removeprefix("cot_distill/project/") for n in names if "/project/" in n}
    assert carried == experiments | {"settings.ini"}
    assert {"cot_distill/py.typed", "cot_distill/prices.csv"} <= names


SMALL = dict(steps=2, train_limit=20, test_limit=10, layers=1, width=32, samples=2)


@pytest.mark.parametrize(
    "page, parameters",
    [("10_ledger", {}), pytest.param("experiments/run", SMALL, marks=pytest.mark.long)],
)
def test_a_page_runs_alone_with_the_wheel(wheel, tmp_path, page, parameters):
    site, alone = tmp_path / "site", tmp_path / "alone"
    wheel.extractall(site)
    (site / "nbdev.py").write_text("raise ImportError('a tool of those who write the pages')")
    alone.mkdir()
    shutil.copy(ROOT / "nbs" / f"{page}.ipynb", alone / "page.ipynb")
    settings = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "page.ipynb", "run.ipynb", *settings],
        cwd=alone,
        env=os.environ | dict(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_citation_is_of_this_version_and_address():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert cited["version"] == cot_distill.__version__
    assert cited["repository-code"] == PROJECT["urls"]["Repository"]
    assert [paper["url"].rpartition("-")[2] for paper in cited["references"]] == [
        "main.442",
        "main.333",
    ]
