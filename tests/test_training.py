"Interruption, accumulation, and what each method hands to its loss."

import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from cot_distill import training
from cot_distill.lab import World
from cot_distill.logprobs import plain_logps, shared_logps
from cot_distill.losses import click, dpo, orpo, simpo, unlikelihood
from cot_distill.methods import LOSSES, METHODS, examples_of
from cot_distill.questions import Question
from cot_distill.records import Rationale, Target
from cot_distill.students import small_student
from cot_distill.teacher import LabTeacher, Request, read_rationales
from cot_distill.training import (
    DistillTrainer,
    SaveInTime,
    corpus_rows,
    last_checkpoint,
    scoring,
    train,
)

torch.set_num_threads(1)  # on tensors this small threads only wait for each other
WORLD = World(seed=1, languages=("en",))
NEGATIVE = unlikelihood


def student_of(arch, seed=0):
    return small_student(
        arch,
        WORLD.words(),
        width=16,
        layers=1,
        heads=2,
        words=True,
        seed=seed,
        answer_format="text",
        max_prompt=64,
        max_target=64,
    )


@pytest.fixture(scope="module")
def examples():
    questions = WORLD.questions("train")[:60]
    rationales = read_rationales(
        LabTeacher(WORLD).complete([Request(q, "en", n=6, temperature=0.7) for q in questions]),
        questions,
    )
    chosen = examples_of(METHODS["d-cot-nr/unlikelihood"], questions, rationales)[:11]
    assert any(e.negatives for e in chosen) and any(not e.negatives for e in chosen)
    return chosen


def weights(student):
    return torch.cat([p.detach().flatten() for p in student.model.parameters()])


@pytest.mark.parametrize("arch", ["gpt2", "t5"])
@pytest.mark.parametrize(
    "at, saved",  # within the first epoch, and after its end
    [
        (4, dict(save_steps=3)),
        (7, dict(save_steps=3)),
        (7, dict(save_steps=9, callbacks=[SaveInTime(0)])),
    ],
    ids=["4", "7", "7, saved in time"],
)
def test_an_interrupted_training_ends_in_the_same_weights(
    arch, at, saved, examples, tmp_path, monkeypatch
):
    def run(folder, student):
        return train(
            student,
            [student.encode(e) for e in examples],
            tmp_path / folder,
            NEGATIVE,
            steps=9,
            batch_size=2,
            warmup=4,
            seed=3,
            save_strategy="steps",
            **saved,
        )

    whole = student_of(arch)
    done = run("whole", whole)
    first, second = (
        student_of(arch),
        student_of(arch, seed=8),
    )  # the second's own weights must not matter
    with monkeypatch.context() as m:
        compute = DistillTrainer.compute_loss

        def stop(self, *args, **kw):
            if self.state.global_step == at:
                raise KeyboardInterrupt
            return compute(self, *args, **kw)

        m.setattr(DistillTrainer, "compute_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            run("cut", first)
    assert not torch.equal(weights(first), weights(whole))
    assert last_checkpoint(tmp_path / "cut")
    again = run("cut", second)
    assert torch.equal(weights(second), weights(whole)) and not torch.equal(
        weights(student_of(arch)), weights(whole)
    )
    assert again.steps == done.steps == 9 and again.losses == done.losses


@pytest.mark.parametrize("arch", ["gpt2", "t5", "bart"])
@pytest.mark.parametrize("size, parts", [(2, 4), (1, 8), (3, 3)])
def test_accumulation_gives_the_same_weights(arch, size, parts, examples, tmp_path):
    "Without clipping, which would hide a wrong scale; an epoch ends in a smaller step."
    ends = []
    for folder, batch_size, accumulate in (("whole", size * parts, 1), ("parts", size, parts)):
        student = student_of(arch)
        start = weights(student)
        trained = train(
            student,
            [student.encode(e) for e in examples],
            tmp_path / folder,
            NEGATIVE,
            steps=5,
            batch_size=batch_size,
            lr=0.3,
            warmup=1,
            gradient_accumulation_steps=accumulate,
            optim="sgd",
            max_grad_norm=0.0,
            weight_decay=0.0,
        )
        ends.append((weights(student), trained))
    (a, whole), (b, cut) = ends
    assert (a - b).abs().max() <= 1e-5 and (a - start).abs().max() > 1e-2
    assert whole.steps == cut.steps == 5 and whole.tokens == cut.tokens
    assert [loss for _, loss in whole.losses] == pytest.approx(
        [loss for _, loss in cut.losses], abs=2e-4
    )  # as rounded by the log


@pytest.mark.parametrize("arch", ["gpt2", "t5"])
@pytest.mark.parametrize("size, parts", [(8, 1), (4, 2)])
def test_out_of_memory_costs_time_and_nothing_else(
    arch, size, parts, examples, tmp_path, monkeypatch
):
    "At the end of the third step, when a part of the gradient is there already."
    settings = dict(steps=4, batch_size=size, gradient_accumulation_steps=parts, logging_steps=1)
    plain = dict(optim="sgd", lr=0.3, warmup=1, max_grad_norm=0.0, weight_decay=0.0)
    roomy = DistillTrainer.compute_loss

    def tight(self, model, inputs, *args, **kwargs):
        loss = roomy(self, model, inputs, *args, **kwargs)
        last = len(self.batches) == parts and self.state.global_step == 2
        if last and len(inputs["input_ids"]) > 1:
            loss.backward()
            raise torch.OutOfMemoryError("no room")
        return loss

    ends = []
    for name, compute_loss in (("roomy", roomy), ("tight", tight)):
        monkeypatch.setattr(DistillTrainer, "compute_loss", compute_loss)
        student = student_of(arch)
        rows = [student.encode(e) for e in examples]
        trained = train(student, rows, tmp_path / name, NEGATIVE, **settings, **plain)
        ends.append((weights(student), trained))
    (a, whole), (b, cut) = ends
    assert (a - b).abs().max() <= 1e-5
    assert whole.tokens == cut.tokens and (whole.micro_batch, cut.micro_batch) == (size, 1)
    curves = [[loss for _, loss in t.losses] for t in (whole, cut)]
    assert curves[0] == pytest.approx(curves[1], abs=2e-4)


def test_a_question_that_does_not_fit_says_how_to_shrink_it(examples, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(DistillTrainer, "compute_loss", full)
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(student, rows, tmp_path, NEGATIVE, steps=2, batch_size=4)
    assert "micro-batches of 1 questions do not fit; try" in caught.value.__notes__[0]


def test_the_step_is_told_while_a_training_lasts(examples, tmp_path, monkeypatch):
    file, seen = tmp_path / "step", []
    monkeypatch.setenv("COT_DISTILL_STEPS", str(file))
    student = student_of("gpt2")

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            seen.append(file.read_text() if file.exists() else "")

    rows = [student.encode(e) for e in examples]
    train(student, rows, tmp_path / "it", NEGATIVE, steps=3, batch_size=4, callbacks=[Look()])
    assert seen[0] == "" and seen[1] == "training step 1 of 3" and not file.exists()


def test_tokens_are_those_trained_on(examples, tmp_path):
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples]
    trained = train(
        student, rows, tmp_path, steps=1, batch_size=len(rows), dataloader_drop_last=True
    )
    assert trained.tokens == sum(len(r["prompt"]) + sum(map(len, r["targets"])) for r in rows)
    assert (
        trained.tokens_per_second == pytest.approx(trained.tokens / trained.seconds)
        and trained.peak_mb > 1
    )


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(ValueError, match="nothing to train on.*left_out"):
        train(student_of("gpt2"), [], tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("ft", 1, 0),
        ("cot", 1, 0),
        ("d-cot", 2, 0),
        ("d-cot-nr/unlikelihood", 2, 3),
        ("d-cot-nr/click", 2, 3),
        ("d-cot-nr/orpo", 2, 3),
    ],
)
def test_what_each_method_trains_on(name, right, wrong):
    questions = [
        Question(f"q{i}", "t", "en", "Which?", dict(A="one", B="two"), a)
        for i, a in enumerate("AB")
    ]
    rationale = lambda i, letter, n: Rationale(
        f"q{i}", "en", "cot", "t", n, f"Reason {n}.", letter, None, False
    )
    rationales = [rationale(0, "BA"[n % 2], n) for n in range(8)] + [
        rationale(1, "A", n) for n in range(8)
    ]  # the second is never right
    method = METHODS[name]
    examples = examples_of(method, questions, rationales, k=2, m=3)
    assert [(len(e.positives), len(e.negatives)) for e in examples] == [(right, wrong)] * (
        2 if name == "ft" else 1
    )
    assert examples[0].positives == (
        (Target("", "A"),)
        if name == "ft"
        else tuple(Target(f"Reason {n}.", "A") for n in (1, 3, 5, 7)[:right])
    )
    assert all(t.answer == "B" for t in examples[0].negatives) and (method.loss is None) == (
        wrong == 0
    )


def test_methods_are_complete():
    assert set(METHODS) >= {
        "ft",
        "cot",
        "d-cot",
        "counterfactual",
        "multi-view",
        "counterfactual+multi-view",
    } | {f"d-cot-nr/{loss}" for loss in LOSSES}


@pytest.mark.parametrize("fails", [False, True])
def test_forward_is_the_class_own_again(fails, examples, tmp_path, monkeypatch):
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples]
    if fails:
        monkeypatch.setattr(DistillTrainer, "training_step", lambda *a, **kw: 1 / 0)
    try:
        train(student, rows, tmp_path, steps=1, batch_size=2)
    except ZeroDivisionError:
        assert fails
    model = student.model
    assert "forward" not in vars(model) and model.forward.__func__ is type(model).forward
    assert not [name for name, value in vars(model).items() if "scoring" in repr(value)]
    assert hasattr(
        model(
            **{
                k: v
                for k, v in student.collate(rows[:1]).items()
                if k in ("input_ids", "attention_mask")
            }
        ),
        "logits",
    )


@pytest.mark.parametrize("arch", ["gpt2", "bart"])
def test_scoring_is_shared_logps(arch, examples):
    student = student_of(arch)
    inputs = student.collate([student.encode(e) for e in examples])
    with scoring(student.model) as model:
        scored = model(**inputs)
    assert torch.equal(scored, shared_logps(student.model, **inputs))


@pytest.mark.parametrize("arch, longest", [("gpt2", None), ("t5", None), ("t5", 1)])
def test_corpus_rows_lose_no_word(arch, longest):
    student, texts = student_of(arch), WORLD.corpus()[:200] + ["One"]
    rows = corpus_rows(student, texts, 0, longest)
    decode = lambda ids: student.tokenizer.decode(ids, skip_special_tokens=True)
    for text, row in zip(texts, rows, strict=True):
        assert (
            f"{decode(row['prompt'])} {decode(row['targets'][0])}".split()
            == decode(student._ids(text)).split()
        )
        assert row["targets"][0][-1] == student.tokenizer.eos_token_id and len(row["prompt"]) >= 1
        assert (
            longest is None
            or text == "One"
            or decode(row["prompt"]).split() == decode(student._ids(text.split()[0])).split()
        )
    assert rows == corpus_rows(student, texts, 0, longest) and (arch == "gpt2") == all(
        r["prompt"] == [1] for r in rows
    )


def test_a_base_is_made_once_and_is_another_for_another_recipe(tmp_path):
    make = lambda **kw: training.base_student(
        WORLD, **dict(width=16, layers=1, steps=2, batch_size=4, cache=tmp_path) | kw
    )
    first, times = (
        make(),
        lambda: {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()},
    )
    made = times()
    assert torch.equal(weights(make()), weights(first)) and times() == made
    assert first.answer_format == "text" and len([*tmp_path.glob("bases/*")]) == 1
    assert (
        not torch.equal(weights(make(steps=3)), weights(first))
        and len([*tmp_path.glob("bases/*")]) == 2
    )


def test_bf16_trains_where_there_is_no_accelerator(examples, tmp_path):
    student = student_of("gpt2")
    start = weights(student)
    trained = train(
        student,
        [student.encode(e) for e in examples],
        tmp_path,
        NEGATIVE,
        steps=1,
        batch_size=4,
        warmup=0,
        bf16=True,
    )
    assert (
        trained.steps == 1
        and weights(student).isfinite().all()
        and weights(student).dtype is torch.float32
        and not torch.equal(weights(student), start)
    )


@pytest.mark.parametrize("arch", ["gpt2", "llama", "gemma3_text", "t5", "bart", "opt"])
def test_bf16_gradients_are_those_of_float32_with_three_digits(arch, examples):
    "However a step is cut, they add up in float32; and nothing is left of the copies."
    student = student_of(arch)
    model, rows = student.model, [student.encode(e) for e in examples[:4]]
    whole, halves = [rows], [rows[:2], rows[2:]]

    def gradient(precision, parts):
        for part in parts:
            with precision(model):
                student.verdict.logps(model, **student.collate(part)).sum().backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return found

    start, exact = weights(student), gradient(nullcontext, whole)
    for parts in (whole, halves):
        short = gradient(training.in_bf16, parts)
        assert short.dtype is torch.float32 and not short.equal(exact)
        assert torch.cosine_similarity(short, exact, dim=0) > 0.99
    assert weights(student).equal(start)


def test_bf16_copies_are_gone_after_an_error():
    model = student_of("gpt2").model
    one = next(model.parameters())
    one.grad = torch.ones_like(one)
    with pytest.raises(KeyError), training.in_bf16(model):
        assert one.dtype is torch.bfloat16 and one.grad is None
        raise KeyError
    assert one.dtype is torch.float32 and one.grad.eq(1).all()


def test_focus_reaches_the_loss(examples, tmp_path):
    "Only marked tokens are pushed, and nothing where none is marked."
    marked = [
        replace(e, negatives=tuple(replace(t, wrong=((0, 3), (5, 6))) for t in e.negatives))
        for e in examples
    ]
    ends = {}
    for name, chosen, focus in [
        ("today", examples, {}),
        *(
            (f"{kind} {focus}", chosen, dict(focus=focus))
            for kind, chosen in (("plain", examples), ("marked", marked))
            for focus in training.FOCUS_MASKS
        ),
    ]:
        student = student_of("gpt2")
        train(
            student,
            [student.encode(e) for e in chosen],
            tmp_path / name,
            NEGATIVE,
            steps=3,
            batch_size=4,
            alpha=1.0,
            warmup=0,
            **focus,
        )
        ends[name] = weights(student)
    assert all(
        ends["today"].equal(ends[name]) == same
        for name, same in {
            "plain all": True,
            "plain span": False,  # a negative without any mark is not pushed there
            "plain first": False,
            "marked all": True,
            "marked span": False,
            "marked first": False,
        }.items()
    )
    assert not ends["marked span"].equal(ends["marked first"])
    assert ends["plain span"].equal(ends["plain first"])
    with pytest.raises(ValueError, match="focus='last': choose one of all, span, first"):
        train(student_of("gpt2"), [{}], tmp_path / "unknown", NEGATIVE, focus="last")


@pytest.mark.parametrize("arch", ["gpt2", "t5"])
def test_gradient_checkpointing(arch, examples, tmp_path):
    "Without the cache that shares prompts, the weights are those of an ordinary training."
    ends = []
    for name, extra in (("ordinary", {}), ("checkpointing", dict(gradient_checkpointing=True))):
        student = student_of(arch)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(
                student,
                [student.encode(e) for e in examples],
                tmp_path / name,
                NEGATIVE,
                steps=3,
                batch_size=4,
                lr=0.3,
                warmup=1,
                optim="sgd",
                max_grad_norm=0.0,
                weight_decay=0.0,
                **extra,
            )
        repeats = any(
            "every rationale repeats its prompt: gradient checkpointing" in str(w.message)
            for w in said
        )
        assert repeats == (arch == "gpt2" and bool(extra))
        ends.append(weights(student))
    assert (ends[0] - ends[1]).abs().max() <= 1e-5 and (
        ends[0] - weights(student_of(arch))
    ).abs().max() > 1e-3


@pytest.mark.parametrize("arch", ["gpt2", "t5"])
def test_lora_shares_prompts(arch, examples, tmp_path):
    "The adapters' gradient is the plain twin's, and nothing else is trained."
    peft = pytest.importorskip("peft")
    student = student_of(arch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student.model = peft.get_peft_model(
            student.model,
            peft.LoraConfig(r=4, target_modules=["c_attn"] if arch == "gpt2" else ["q", "v"]),
        )
    for name, p in student.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    rows = [student.encode(e) for e in examples]
    batch, before = (
        student.collate(rows),
        {n: p.detach().clone() for n, p in student.model.named_parameters()},
    )
    assert training.path_of(student, rows).logps is shared_logps
    gradients = []
    for logps in (shared_logps, plain_logps):
        student.model.zero_grad()
        logps(student.model, **batch).sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in student.model.parameters() if p.requires_grad])
        )
    assert (
        gradients[1].norm() > 1
        and (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[1].norm()
    )
    student.model.zero_grad()
    train(student, rows, tmp_path, NEGATIVE, steps=2, batch_size=4, warmup=0)
    assert all(p.equal(before[n]) != p.requires_grad for n, p in student.model.named_parameters())


def test_the_faster_precision_is_said_aloud(examples, capsys, monkeypatch):
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples[:3]]
    spent, precisions = [0.0], dict(nullcontext=nullcontext, in_bf16=training.in_bf16)
    monkeypatch.setattr(training.time, "perf_counter", lambda: spent[0])

    def timed(name, seconds):
        def context(model):
            spent[0] += seconds
            return precisions[name](model)

        return context

    for slow, fast in (("in_bf16", "float32"), ("nullcontext", "bf16")):
        for name in precisions:
            monkeypatch.setattr(training, name, timed(name, 1 + (name == slow)))
        assert training.fastest_precision(student, rows) == fast
        took = (
            "float32 1000 ms, bf16 2000 ms"
            if fast == "float32"
            else "float32 2000 ms, bf16 1000 ms"
        )
        assert f"precision: {fast} ({took} a step)" in capsys.readouterr().out
    assert all(p.grad is None for p in student.model.parameters())


KEPT = dict(steps=4, batch_size=2, warmup=0, save_strategy="steps", save_steps=2)


@pytest.fixture
def trained_folder(examples, tmp_path):
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples]
    done = train(student, rows, tmp_path, NEGATIVE, **KEPT)
    return tmp_path, rows, student, done


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(seed=1), "seed"),
        (dict(alpha=0.5), "alpha"),
        (dict(lr=1e-4), "learning_rate"),
        (dict(steps=8), "max_steps"),
        (dict(focus="span"), "focus"),
        (dict(batch_size=4), "step"),
        (dict(negative=None), "loss"),
        (dict(rows=slice(0, 9)), "rows"),
        (dict(settings=dict(gamma=2.0), negative=click), "settings"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_another_training_is_refused_in_the_same_folder(trained_folder, change, named):
    folder, rows, _, _ = trained_folder
    arguments = dict(rows=rows, negative=NEGATIVE, **KEPT) | change
    if isinstance(arguments["rows"], slice):
        arguments["rows"] = rows[arguments["rows"]]
    with pytest.raises(ValueError, match=rf"(?s)another training, which differs in.*{named}"):
        train(student_of("gpt2"), folder=folder, **arguments)
    fresh, again = student_of("gpt2"), student_of("gpt2")
    expected = train(fresh, folder=folder / "elsewhere", **arguments)
    found = train(again, folder=folder, anew=True, **arguments)
    assert found.losses == expected.losses and weights(again).equal(weights(fresh))


def test_a_finished_training_says_what_it_took(trained_folder):
    folder, rows, student, done = trained_folder
    again = student_of("gpt2", seed=8)
    same = train(again, rows, folder, NEGATIVE, **KEPT)
    assert same == done and done.tokens > 0 and weights(again).equal(weights(student))
    (folder / "trained.json").unlink()
    assert train(again, rows, folder, NEGATIVE, **KEPT).losses == done.losses


def test_what_runs_differently_may_resume(trained_folder):
    folder, rows, student, done = trained_folder
    again = student_of("gpt2")
    other = dict(KEPT, batch_size=1, gradient_accumulation_steps=2, logging_steps=3, bf16=True)
    assert train(again, rows, folder, NEGATIVE, **other) == done


@pytest.mark.parametrize("negative", [unlikelihood, click, orpo, simpo, dpo])
def test_an_unmarked_negative_is_not_pushed_by_a_span_loss(negative, examples, tmp_path):
    "It trains as if it were not there."
    marks = ((0, 3),)
    some = [
        replace(
            e,
            negatives=tuple(
                replace(t, wrong=marks) if n % 2 else t for n, t in enumerate(e.negatives)
            ),
        )
        for e in examples
    ]
    only = [replace(e, negatives=tuple(t for t in e.negatives if t.wrong)) for e in some]
    assert some != only
    ends = []
    for name, chosen in (("some", some), ("only", only)):
        student = student_of("gpt2")
        rows = [student.encode(e) for e in chosen]
        train(student, rows, tmp_path / name, negative, focus="span", steps=3, batch_size=4)
        ends.append(weights(student))
    assert (ends[0] - ends[1]).abs().max() <= 1e-5


def test_the_reference_of_dpo(examples, tmp_path, monkeypatch):
    "Equal to the plain twin, the student before training, and the same after an interruption."
    student = student_of("gpt2")
    rows = [student.encode(e) for e in examples]
    shared = training.reference_logps(student, rows)
    plain = training.reference_logps(student, rows, plain_logps)
    for ours, theirs, row in zip(shared, plain, rows, strict=True):
        assert list(map(len, ours)) == list(map(len, theirs)) == list(map(len, row["targets"]))
        for a, b in zip(ours, theirs):
            assert a == pytest.approx(b, abs=1e-5)
    run = lambda folder, student: train(student, rows, tmp_path / folder, dpo, alpha=1.0, **KEPT)
    whole = student_of("gpt2")
    done = run("whole", whole)
    cut, compute = student_of("gpt2"), DistillTrainer.compute_loss

    def stop(self, *args, **kw):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **kw)

    with monkeypatch.context() as m:
        m.setattr(DistillTrainer, "compute_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            run("cut", cut)
    other = student_of("gpt2", seed=8)  # neither its weights nor its log-probabilities matter
    assert run("cut", other).losses == done.losses and weights(other).equal(weights(whole))


def test_no_windows_module_is_needed(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "resource", None)
    assert training.peak_mb() != training.peak_mb()  # not a number


def test_the_base_honours_its_limits(tmp_path):
    make = lambda **kw: training.base_student(
        WORLD, width=16, layers=1, steps=2, batch_size=4, cache=tmp_path, **kw
    )
    usual, short, long = make(), make(max_target=20, answer_format="letter"), make(max_prompt=200)
    assert (usual.max_prompt, usual.max_target, usual.answer_format) == (96, 96, "text")
    assert (short.max_target, short.answer_format) == (20, "letter")
    assert weights(short).equal(weights(usual)) and len([*tmp_path.glob("bases/*")]) == 2
    assert long.max_prompt == 200 and long.model.config.n_positions >= 296
