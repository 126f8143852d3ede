"""Check and run the notebooks: `python tests/notebooks.py`.

The package is what the notebooks export, the notebooks are clean, formatted and carry a Colab
badge, and README.md is the index. Every page of the documentation can be made, and every component
notebook and guide runs from top to bottom. A notebook that passed is not run again until it or the
package changes, so an interrupted check goes on where it was.

    --badges [NOTEBOOK …]  write badge and install cell into all notebooks, or into these
    --readme               write README.md from the index
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, redirect_stdout
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

from nbdev.serve import proc_nbs
from nbdev.test import test_nb
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PASSED = ROOT / "data" / "cache" / "passed"
# imported once for all the processes in which notebooks are checked
SHARED = ("transformers", "datasets", "pandas", "scipy.stats", "matplotlib.pyplot", "openai")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
REPOSITORY = SETTINGS["project"]["urls"]["Repository"]
DOCUMENTATION = SETTINGS["project"]["urls"]["Docs"]


def call(*command, cwd=ROOT):
    return subprocess.run(
        [str(BIN / command[0]), *map(str, command[1:])], cwd=cwd, capture_output=True, text=True
    )


def notebooks(root=ROOT):
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def source(cell):
    return "".join(cell["source"])


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf8"))


# Badges and the install cell


def badge(alt, image, target):
    return f"[![{alt}]({image})]({target})"


def badges(path):
    "Badges of the notebook at `path`, seen from the root: Colab for all, the rest for the index."
    slug = REPOSITORY.removeprefix("https://github.com/")
    colab = "https://colab.research.google.com"
    shields = "https://img.shields.io"
    runs = f"{REPOSITORY}/actions/workflows/test.yaml"
    first = badge(
        "Open in Colab",
        f"{colab}/assets/colab-badge.svg",
        f"{colab}/github/{slug}/blob/main/{path}",
    )
    if path != "nbs/index.ipynb":
        return first
    return "\n".join(
        [
            first,
            badge("tests", f"{runs}/badge.svg", runs),
            badge("docs", f"{shields}/badge/docs-site-0072B2", DOCUMENTATION),
            badge(
                "licence",
                f"{shields}/badge/licence-Apache_2.0-117733",
                f"{REPOSITORY}/blob/main/LICENSE",
            ),
        ]
    )


INSTALL = f"""#| hide
from importlib.util import find_spec

if not find_spec("cot_distill"):  # on Colab
    %pip install -q "cot_distill[notebooks] @ git+{REPOSITORY}"
"""


def with_badge(nb, path):
    "The notebook with badge, and install cell if it runs code, after its title."
    badge_cell = dict(cell_type="markdown", id="colab-badge", metadata={}, source=badges(path))
    install = dict(cell_type="code", id="colab-install", metadata={}, source=INSTALL.strip())
    install |= dict(execution_count=None, outputs=[])
    for cell in (badge_cell, install):
        cell["source"] = cell["source"].splitlines(keepends=True)
    own = [c for c in nb["cells"] if c["id"] not in (badge_cell["id"], install["id"])]
    added = [badge_cell, install] if any(c["cell_type"] == "code" for c in own) else [badge_cell]
    return nb | dict(cells=[own[0], *added, *own[1:]])


def write_badges(paths, root=ROOT):
    for path in paths:
        nb = with_badge(read(path), path.relative_to(root).as_posix())
        text = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf8")


# README.md


def shown(cell):
    "A cell as Markdown: its text, or its code and its result."
    if cell["cell_type"] == "markdown":
        return source(cell)
    code = source(cell)
    if code.startswith("#| hide"):
        return ""
    parts = [] if "#| echo: false" in code else [f"```python\n{code}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        for kind in ("text/markdown", "text/html", "text/plain"):
            if kind in data:
                text = "".join(data[kind]).strip()
                parts.append(f"```\n{text}\n```" if kind == "text/plain" else text)
                break
    return "\n\n".join(parts)


def readme():
    "The index notebook as Markdown, its links seen from the root."
    index = read(ROOT / "nbs" / "index.ipynb")
    text = "\n\n".join(filter(None, map(shown, index["cells"])))
    text = re.sub(r"\]\((?!http|#|\.\./)([^)]+)\)", r"](nbs/\1)", text)
    return text.replace("](../", "](").strip() + "\n"


# Checks


def copied(folder):
    "A copy of what notebooks and package are made from."
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("nbs", "cot_distill"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def out_of_step():
    "Files that would change if everything were exported, cleaned and badged again."
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        write_badges(notebooks(copy), copy)
        for command in ("nbdev-export", "nbdev-clean"):
            done = call(command, cwd=copy)
            if done.returncode:
                return [f"{command} failed: {done.stderr.strip()[-500:]}"]
        (copy / "README.md").write_text(readme(), encoding="utf8")
        files = sorted(
            f.relative_to(copy)
            for pattern in ("nbs/**/*.ipynb", "cot_distill/*.py", "README.md")
            for f in copy.glob(pattern)
        )
        return [
            str(f)
            for f in files
            if not (ROOT / f).exists() or (ROOT / f).read_bytes() != (copy / f).read_bytes()
        ]


def mark(check, notebook):
    "Where it is noted that this notebook passed this check with this package."
    sources = [notebook, *sorted((ROOT / "cot_distill").glob("*.py"))]
    digest = hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()[:12]
    return PASSED / f"{check}-{notebook.stem}-{digest}"


def page_fault(notebook, copy):
    "Why nbdev cannot make a page of this notebook in `copy`; empty when it can."
    main = sys.modules["__main__"]  # a page puts another in its place
    with warnings.catch_warnings(record=True) as heard, redirect_stdout(StringIO()), chdir(copy):
        warnings.simplefilter("always")
        try:
            proc_nbs(n_workers=0, file_glob=notebook.name)
        except Exception as e:  # whatever the notebook's own cells raise
            return str(e)[-1500:]
        finally:
            sys.modules["__main__"] = main
    said = [str(w.message) for w in heard]
    return "\n".join(s for s in said if "imports and other code" in s or "YAML" in s)[-1500:]


def run_fault(notebook, copy):
    "Why the notebook does not run; empty when it does."
    sys.__stderr__ = heard = StringIO()  # where nbdev says it
    passed, _ = test_nb(notebook, basepath=ROOT)
    return "" if passed else heard.getvalue()[-4000:]


def failures(check, named, fault, in_turn=None):
    "Notebooks that do not pass a check, with the reason; a process checks `in_turn` of them."
    PASSED.mkdir(parents=True, exist_ok=True)
    todo = [notebook for notebook in named if not mark(check, notebook).exists()]
    failed = []
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", *SHARED])
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(os.cpu_count(), context, max_tasks_per_child=in_turn) as pool,
    ):
        said = pool.map(partial(fault, copy=copied(Path(folder))), todo)
        for notebook, why in zip(todo, tqdm(said, check, len(todo), unit="notebook")):
            if why:
                failed.append(f"{notebook.name} ({check})\n{why}")
            else:
                mark(check, notebook).touch()
    return failed


def check():
    if (done := call("ruff", "check", "--no-cache", ".")).returncode:
        sys.exit(f"style (ruff check):\n{done.stdout}")
    if (done := call("ruff", "format", "--check", ".")).returncode:
        sys.exit(f"run `ruff format`:\n{done.stdout}")
    if stale := out_of_step():
        sys.exit(
            "not in step; run `make notebooks` (or nbdev-export and nbdev-clean) and commit:\n  "
            + "\n  ".join(stale)
        )
    run = [n for n in notebooks() if n.name[0].isdigit() or n.parent.name == "guides"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many run at once as there are cores
    failed = failures("page", notebooks(), page_fault) + failures("run", run, run_fault, 1)
    if failed:
        sys.exit("\n\n".join(failed))
    print("notebooks are clean, in step with the package, and run; every page can be made")


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    if "--badges" in sys.argv:
        named = [Path(a).resolve() for a in sys.argv[1:] if a.endswith(".ipynb")]
        write_badges(named or notebooks())
    elif "--readme" in sys.argv:
        (ROOT / "README.md").write_text(readme(), encoding="utf8")
    else:
        check()
