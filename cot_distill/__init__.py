"""Distil the reasoning of a large language model into a small one."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .diversity import select as select
    from .endpoint import EndpointTeacher as EndpointTeacher
    from .evaluation import predict as predict
    from .lab import World as World
    from .methods import METHODS as METHODS, register as register
    from .questions import Question as Question, load_questions as load_questions
    from .runner import reproduce as reproduce
    from .students import load_student as load_student
    from .teacher import (
        LabTeacher as LabTeacher,
        RecordedTeacher as RecordedTeacher,
        Request as Request,
        read_rationales as read_rationales,
    )
    from .training import base_student as base_student, train as train

# What a user starts with, in the order of the flow, and the module that it lives in. A module is
# imported when its name is first asked for, so that `import cot_distill` costs nothing.
_HOME = {
    "Question": "questions",
    "load_questions": "questions",
    "World": "lab",
    "Request": "teacher",
    "LabTeacher": "teacher",
    "RecordedTeacher": "teacher",
    "EndpointTeacher": "endpoint",
    "read_rationales": "teacher",
    "select": "diversity",
    "METHODS": "methods",
    "register": "methods",
    "load_student": "students",
    "base_student": "training",
    "train": "training",
    "predict": "evaluation",
    "reproduce": "runner",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'cot_distill' has no attribute {name!r}", name=name)
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME})
