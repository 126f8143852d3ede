"Several processes, and processes that are killed."

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_small.py")
ENVIRONMENT = os.environ | dict(
    OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", MASTER_ADDR="localhost"
)


def start(folder, processes=1, **arguments):
    launch = (
        [sys.executable]
        if processes == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
        ]
    )
    return subprocess.Popen(
        [
            *launch,
            str(SCRIPT),
            str(folder / "training"),
            str(folder / "result.json"),
            json.dumps(arguments),
        ],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return finish(folder, start(folder, batch_size=8))


SHARDED = dict(
    ddp_backend="gloo", fsdp=True, fsdp_config=dict(transformer_layer_cls_to_wrap=["GPT2Block"])
)


@pytest.mark.long
@pytest.mark.parametrize("arguments", [dict(ddp_backend="gloo"), SHARDED], ids=["ddp", "fsdp"])
def test_two_processes_give_the_loss_curve_of_one(alone, arguments, tmp_path):
    both = finish(tmp_path, start(tmp_path, processes=2, batch_size=4, **arguments))
    assert both["losses"] == pytest.approx(alone["losses"], abs=1e-5) and len(both["losses"]) == 12


@pytest.mark.long
def test_killed_and_resumed_ends_in_the_same_weights(tmp_path):
    "At whatever moment it is killed."
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    settings = dict(batch_size=8, steps=30, save_strategy="steps", save_steps=2, save_total_limit=2)
    whole, rng = finish(tmp_path / "whole", start(tmp_path / "whole", **settings)), random.Random(0)
    killed = tmp_path / "killed"
    for _ in range(2):
        process = start(killed, **settings)
        while not (killed / "result.started").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3 + rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        (killed / "result.started").unlink(missing_ok=True)
    assert finish(killed, start(killed, **settings))["weights"] == whole["weights"]
