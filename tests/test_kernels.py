"Kernels that are forks: what they share, how they end, and when there are none."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from cot_distill.kernels import forked_kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")


def value_of(code, kernels):
    notebook = new_notebook(cells=[new_code_cell(code)])
    NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=kernels,
        extra_arguments=["--IPKernelApp.log_level=40"],
    ).execute()
    return eval(notebook.cells[0].outputs[-1].data["text/plain"])


def module(folder, name, code):
    (folder / f"{name}.py").write_text(code)
    return dict(PYTHONPATH=os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def gone(pid, seconds=20):
    "Whether the process ends in time."
    for _ in range(seconds * 10):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


PARENT = "import os; os.getppid()"


def test_what_a_kernel_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATER", "no")
    with forked_kernels(
        "slow", **module(tmp_path, "slow", "import os; made_by = os.getpid()")
    ) as kernels:
        monkeypatch.setenv("LATER", "yes")  # as a ceiling that is set between two kernels
        made_by, me, parent = value_of(
            "import os, slow; slow.made_by, os.getpid(), os.getppid()", kernels
        )
        around = value_of(
            "import os, sys; os.environ['LATER'], os.getcwd(), sys.stdin.read()", kernels
        )
    assert made_by == parent != me and parent != os.getpid()
    assert around == ("yes", str(tmp_path), "")


def test_what_an_import_prints_is_no_answer(tmp_path):
    with forked_kernels(
        "chatty", **module(tmp_path, "chatty", "print('welcome'); import os; os.system('echo 7')")
    ) as kernels:
        assert value_of("'chatty' in __import__('sys').modules", kernels)


SLEEPER = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


@pytest.mark.parametrize(
    "name, code",
    [
        ("threaded", f"import threading, time; {SLEEPER}"),
        ("torch", "class cuda: is_available = staticmethod(lambda: True)"),
        ("broken", "import no_such_module"),
    ],
)
def test_where_forking_is_not_safe_kernels_are_ordinary(name, code, tmp_path):
    with forked_kernels(name, **module(tmp_path, name, code)) as kernels:
        assert [value_of(PARENT, kernels) for _ in range(2)] == [os.getpid()] * 2


def test_a_killed_kernel_and_a_killed_parent():
    with forked_kernels() as kernels:
        server = value_of(PARENT, kernels)
        with pytest.raises(DeadKernelError):
            value_of("import os; os.kill(os.getpid(), 9)", kernels)
        assert value_of(PARENT, kernels) == server == kernels.server.pid
        with pytest.raises(DeadKernelError):
            value_of(f"import os, time; os.kill({server}, 9); time.sleep(60)", kernels)
        assert value_of(PARENT, kernels) == os.getpid()
        assert gone(kernels.started[-2].pid)


CALLER = """import os, sys
from cot_distill.kernels import forked_kernels
sys.path.insert(0, os.environ["TESTS"])
from test_kernels import value_of
with forked_kernels() as kernels:
    value_of("1", kernels)
    print(kernels.server.pid, flush=True)
    tell = "import os, time; open(os.environ['TOLD'], 'w').write(str(os.getpid()))"
    value_of(f"{tell}; time.sleep(600)", kernels)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_behind(signum, tmp_path):
    told = tmp_path / "told"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | dict(TESTS=str(Path(__file__).parent), TOLD=str(told)),
    )
    server = int(caller.stdout.readline())
    while not (told.exists() and told.read_text()):
        time.sleep(0.1)
    caller.send_signal(signum)
    assert caller.wait(20) != 0 and gone(server) and gone(int(told.read_text()))
