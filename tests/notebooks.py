"""Check and run the notebooks: `python tests/notebooks.py`.

The package is what the notebooks export, the notebooks are clean, and README.md is the index.
Then every component notebook runs from top to bottom; one that passed is not run again until it
or the package changes, so an interrupted check goes on where it was.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PASSED = ROOT / "data" / "cache" / "passed"


def call(*command, cwd=ROOT):
    return subprocess.run(
        [str(BIN / command[0]), *map(str, command[1:])], cwd=cwd, capture_output=True, text=True
    )


def out_of_step():
    "Files that would change if everything were exported and cleaned again."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("nbs", "cot_distill"):
            shutil.copytree(
                ROOT / name,
                copy / name,
                ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"),
            )
        for name in ("pyproject.toml", "settings.ini"):
            shutil.copy(ROOT / name, copy / name)
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


def readme():
    "The index notebook as Markdown, its links to notebooks seen from the root."
    done = call(
        "jupyter",
        "nbconvert",
        "--log-level",
        "ERROR",
        "--to",
        "markdown",
        "--stdout",
        ROOT / "nbs" / "index.ipynb",
    )
    shown = lambda block: (
        block[0]
        if block[1]
        else ""
        if block[2].startswith("#| echo: false")
        else f"```python\n{block[2]}```\n"
    )
    text = re.sub(r"^```(\w*)\n(.*?)^```\n", shown, done.stdout, flags=re.S | re.M)
    return (
        re.sub(
            r"\n{3,}", "\n\n", re.sub(r"\]\((?!http)([\w/]+\.ipynb)\)", r"](nbs/\1)", text)
        ).strip()
        + "\n"
    )


def passing(notebook):
    "Where it is noted that this notebook passed with this package."
    sources = [notebook, *sorted((ROOT / "cot_distill").glob("*.py"))]
    return (
        PASSED
        / f"{notebook.stem}-{hashlib.sha256(b''.join(s.read_bytes() for s in sources)).hexdigest()[:12]}"
    )


def failures():
    "Component notebooks that do not run, with what they said."
    PASSED.mkdir(parents=True, exist_ok=True)
    notebooks, failed = sorted((ROOT / "nbs").glob("[0-9]*.ipynb")), []
    with tqdm(notebooks, "notebooks", unit="notebook") as bar:
        for notebook in bar:
            bar.set_postfix_str(notebook.stem)
            if passing(notebook).exists():
                continue
            done = call("nbdev-test", "--n-workers", 0, notebook)
            if done.returncode:
                failed.append(f"{notebook.name}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            else:
                passing(notebook).touch()
    return failed


if __name__ == "__main__":
    if "--readme" in sys.argv:
        sys.exit((ROOT / "README.md").write_text(readme(), encoding="utf8") == 0)
    if stale := out_of_step():
        sys.exit(
            "not in step; run `make notebooks` (or nbdev-export and nbdev-clean) and commit:\n  "
            + "\n  ".join(stale)
        )
    if failed := failures():
        sys.exit("\n\n".join(failed))
    print("notebooks are clean, in step with the package, and run")
