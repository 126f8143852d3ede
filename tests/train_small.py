"""One small training, for tests that start it several times.

    train_small.py FOLDER RESULT [training arguments as JSON]

Launched by torchrun it is one of several processes. RESULT receives the losses and a digest of
the weights.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from cot_distill.lab import World
from cot_distill.losses import unlikelihood
from cot_distill.methods import METHODS, examples_of
from cot_distill.students import small_student
from cot_distill.teacher import LabTeacher, Request, read_rationales
from cot_distill.training import train


def shard_on_cpu():
    "accelerate gives FSDP to accelerators alone; here gloo between processes stands in."
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    init = AcceleratorState.__init__

    def sharded(self, *args, fsdp_plugin=None, **kwargs):
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = sharded


torch.set_num_threads(1)
folder, result, arguments = (
    sys.argv[1],
    Path(sys.argv[2]),
    json.loads(sys.argv[3] if len(sys.argv) > 3 else "{}"),
)
world = World(seed=0, languages=("en",))
questions = world.questions("train")[:40]
rationales = read_rationales(
    LabTeacher(world).complete([Request(q, "en", n=6, temperature=0.7) for q in questions]),
    questions,
)
student = small_student(
    arguments.pop("arch", "gpt2"),
    world.words(),
    width=32,
    layers=2,
    heads=2,
    words=True,
    answer_format="text",
    max_prompt=96,
    max_target=96,
)
rows = [
    student.encode(e) for e in examples_of(METHODS["d-cot-nr/unlikelihood"], questions, rationales)
]
if "fsdp" in arguments:
    shard_on_cpu()
result.with_suffix(".started").touch()
trained = train(
    student,
    rows,
    folder,
    unlikelihood,
    **dict(steps=12, lr=1e-3, warmup=2, logging_steps=1, use_cpu=True) | arguments,
)
if int(os.environ.get("RANK", 0)) == 0:
    if "fsdp" in arguments:
        assert type(student.model).__name__.startswith("FSDP")
    weights = hashlib.sha256(
        b"".join(
            p.detach().numpy().tobytes() for _, p in sorted(student.model.state_dict().items())
        )
        if "fsdp" not in arguments
        else b""
    )
    result.write_text(
        json.dumps(dict(losses=[loss for _, loss in trained.losses], weights=weights.hexdigest()))
    )
