"The package from outside: what importing it costs, what it offers and what its wheel carries."

import ast
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


def imported(path):
    "Packages that a module imports, at its top or in its functions."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


# packages whose import has another name than what is installed
INSTALLED_AS = {"IPython": "ipython", "quicktok": "quicktok-v1"}


def test_every_import_is_declared():
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    declared = {r.partition(">")[0].strip() for r in [*PROJECT["dependencies"], *extras]}
    modules = sorted((ROOT / "cot_distill").glob("*.py"))
    used = {name for module in modules for name in imported(module)}
    third = used - sys.stdlib_module_names - {"cot_distill"}
    assert {INSTALLED_AS.get(name, name) for name in third} - declared == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The names in a wheel of what is checked out."
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("cot_distill", "nbs/experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_the_project(wheel):
    experiments = {f"nbs/experiments/{p.name}" for p in (ROOT / "nbs/experiments").glob("*.ipynb")}
    carried = {n.removeprefix("cot_distill/project/") for n in wheel if "/project/" in n}
    assert carried == experiments | {"settings.ini"}
    assert {"cot_distill/py.typed", "cot_distill/prices.csv"} <= wheel


def test_the_citation_is_of_this_version_and_address():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert cited["version"] == cot_distill.__version__
    assert cited["repository-code"] == PROJECT["urls"]["Repository"]
    assert [paper["url"].rpartition("-")[2] for paper in cited["references"]] == [
        "main.442",
        "main.333",
    ]
