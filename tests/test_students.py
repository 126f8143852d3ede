"Shared log-probabilities against the plain twin, saving and loading, and long text."

import random
from itertools import combinations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from cot_distill import logprobs
from cot_distill.decoding import generate
from cot_distill.logprobs import fast_matmul, length_groups, plain_logps, positions, shared_logps
from cot_distill.questions import Question
from cot_distill.records import Example, Target
from cot_distill.students import (
    ARCHITECTURES,
    CONTROL_TOKENS,
    load_student,
    prompt_text,
    small_student,
    target_text,
    train_tokenizer,
)

torch.set_num_threads(1)  # on tensors this small threads only wait for each other
WORDS = (
    "the weasel kept getting into chicken eggs so where were they put when it was cold "
    "barn freezer hen house market night"
).split()
TEXTS = [
    " ".join(WORDS),
    prompt_text(Question("t", "t", "en", "Where?", dict(A="barn", B="hen house"), "A")),
    "Answer: A B C D",
]


def text(rng, most):
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def example(rng, positives=1, negatives=0, stem=60, control=None):
    question = Question(
        str(rng.random()),
        "t",
        "en",
        text(rng, stem) + "?",
        dict(A="barn", B="hen house", C="market"),
        "B",
    )
    return Example(
        question,
        tuple(Target(text(rng, 30), "B") for _ in range(positives)),
        tuple(Target(text(rng, 30), rng.choice("AC")) for _ in range(negatives)),
        control,
    )


def batch(student, shape, seed=0):
    rng = random.Random(seed)
    return student.collate(
        [
            student.encode(example(rng, p, n, control=rng.choice([None, *CONTROL_TOKENS])))
            for p, n in shape
        ]
    )


def student_of(arch, seed=0, **kw):
    student = small_student(arch, TEXTS, width=32, layers=2, heads=2, seed=seed, **kw)
    torch.manual_seed(seed)
    for p in (
        student.model.parameters()
    ):  # far from the initial values, which hide a missing scale or bias
        with torch.no_grad():
            p.add_(0.05 * torch.randn_like(p))
    student.model.eval()
    return student


@pytest.fixture(scope="module")
def of():
    kept = {}
    return lambda arch: kept.setdefault(arch, student_of(arch))


def gradient(student, logps, weights):
    student.model.zero_grad()
    (logps * weights).sum().backward()
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in student.model.parameters()
        ]
    )


def assert_same(student, inputs):
    "Shared and plain log-probabilities, and the whole gradient of a random weighting of them."
    weights = torch.randn(inputs["labels"].shape, generator=torch.Generator().manual_seed(1))
    shared, plain = (logps(student.model, **inputs) for logps in (shared_logps, plain_logps))
    assert shared.shape == inputs["labels"].shape and (shared[inputs["labels"] < 0] == 0).all()
    assert (shared - plain).abs().max() <= 1e-5
    ours, theirs = gradient(student, shared, weights), gradient(student, plain, weights)
    assert theirs.norm() > 1 and (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "shape", [[(1, 0)], [(8, 8), (1, 0), (3, 1)], [(2, 5), (1, 8), (4, 0), (1, 1), (6, 2)]], ids=str
)
def test_shared_equals_plain(of, arch, shape):
    assert_same(of(arch), batch(of(arch), shape, len(shape)))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rows_in_any_order_and_targets_of_one_token(of, arch):
    student = of(arch)
    inputs = batch(student, [(2, 1), (3, 2)])
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert_same(
        student, inputs | dict(labels=inputs["labels"][order], owner=inputs["owner"][order])
    )
    assert_same(
        student, inputs | dict(labels=inputs["labels"][order, :1], owner=inputs["owner"][order])
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_company_and_padding_change_nothing(of, arch):
    student, shape, rng = of(arch), [(2, 1), (1, 0), (3, 3)], random.Random(5)
    rows = [student.encode(example(rng, *s)) for s in shape]
    assert len({len(r["prompt"]) for r in rows}) == 3
    with torch.no_grad():
        together = shared_logps(student.model, **student.collate(rows))
        alone = [shared_logps(student.model, **student.collate([r])) for r in rows]
    for mine, row in zip(together.split([sum(s) for s in shape]), alone):
        torch.testing.assert_close(mine[:, : row.shape[1]], row, rtol=1e-6, atol=1e-5)
        assert not mine[:, row.shape[1] :].any()


@pytest.mark.parametrize("arch", ["t5", "mt5", "bart", "gpt2", "gemma"])
def test_a_large_vocabulary_in_chunks(arch, monkeypatch):
    student, chunks = student_of(arch), []
    student.model.resize_token_embeddings(16_100, mean_resizing=False)
    inputs = batch(student, [(8, 8), (3, 2)])
    fused, ours = logprobs.F.linear_cross_entropy, logprobs._ChunkedLogps.apply
    monkeypatch.setattr(
        logprobs.F,
        "linear_cross_entropy",
        lambda h, *args, **kw: (chunks.append("fused"), fused(h, *args, **kw))[1],
    )
    monkeypatch.setattr(
        logprobs._ChunkedLogps, "apply", lambda *args: (chunks.append("ours"), ours(*args))[1]
    )
    monkeypatch.setattr(
        logprobs.state_logps, "__defaults__", (16_100 * 64,)
    )  # 64 positions at a time
    assert_same(student, inputs)
    monkeypatch.setattr(logprobs, "LinearCrossEntropyOptions", None)
    assert_same(student, inputs)
    assert set(chunks) == {"fused", "ours"}


def test_capped_logits_in_chunks(monkeypatch):
    student = student_of("gemma")
    student.model.config.final_logit_softcapping = 3.0
    inputs = batch(student, [(4, 4), (3, 2)])
    results = []
    for budget in (2**24, 64 * len(student.tokenizer)):
        monkeypatch.setattr(logprobs.state_logps, "__defaults__", (budget,))
        student.model.zero_grad()
        logps = shared_logps(student.model, **inputs)
        logps.sum().backward()
        results.append(
            (logps.detach(), torch.cat([p.grad.flatten() for p in student.model.parameters()]))
        )
    (a, da), (b, db) = results
    assert (a - b).abs().max() <= 1e-5 and (da - db).norm() <= 1e-4 * da.norm()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gradients_of_lookups_join_those_of_the_head(of, arch, monkeypatch):
    student, calls = of(arch), []
    inputs, table = batch(student, [(4, 4), (1, 0), (3, 2)]), student.model.get_input_embeddings()
    weight, apart = table.weight, logprobs._Apart.apply
    monkeypatch.setattr(
        logprobs.sparse_lookups.__wrapped__, "__defaults__", (0,)
    )  # however small the vocabulary
    monkeypatch.setattr(logprobs._Apart, "apply", lambda w: (calls.append(w), apart(w))[1])
    assert_same(student, inputs)
    assert bool(calls) == (student.model.get_output_embeddings().weight is weight)
    assert (
        student.model.get_input_embeddings().weight is weight
        and not table.sparse
        and not weight.grad.is_sparse
    )


def test_lookups_are_put_back_after_an_error(of):
    model = of("gpt2").model
    weight = model.lm_head.weight
    with pytest.raises(KeyboardInterrupt), logprobs.sparse_lookups(model, least=0):
        assert model.lm_head.weight is not weight
        raise KeyboardInterrupt
    assert (
        model.lm_head.weight is weight is model.transformer.wte.weight
        and not model.transformer.wte.sparse
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_saved_and_loaded(of, arch, tmp_path):
    student, rng = of(arch), random.Random(2)
    student.save(tmp_path)
    assert (tmp_path / "model.safetensors").exists() and not [*tmp_path.glob("*.bin")]
    loaded, examples = (
        load_student(str(tmp_path), max_prompt=512),
        [example(rng, 2, 1, control=CONTROL_TOKENS[1]), example(rng, 1)],
    )
    loaded.model.eval()
    rows = [loaded.encode(e) for e in examples]
    assert rows == [student.encode(e) for e in examples] and loaded.model.config.model_type == arch
    assert loaded.tokenizer.pad_token_id == loaded.model.config.pad_token_id == 0
    for control in CONTROL_TOKENS:
        ids = loaded.tokenizer(control, add_special_tokens=False).input_ids
        assert (
            len(ids) == 1 and loaded.encode_prompt(examples[0].question, control).count(ids[0]) == 1
        )
    with torch.no_grad():
        torch.testing.assert_close(
            shared_logps(loaded.model, **loaded.collate(rows)),
            shared_logps(student.model, **student.collate(rows)),
            rtol=0,
            atol=1e-6,
        )


def test_a_checkpoint_without_pad_token(tmp_path):
    "As GPT-2 comes from the hub: one special token for everything, none for padding."
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(TEXTS).backend_tokenizer,
        eos_token="</s>",
        bos_token="</s>",
        unk_token="</s>",
    )
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=2,
            eos_token_id=2,
        )
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.pad_token is None
    student = load_student(str(tmp_path), label="plain", max_target=40)
    student.model.eval()
    assert student.name == "plain" and student.tokenizer.pad_token_id not in (
        None,
        student.tokenizer.eos_token_id,
    )
    assert (
        student.model.config.pad_token_id
        == student.model.generation_config.pad_token_id
        == student.tokenizer.pad_token_id
    )
    assert student.model.get_input_embeddings().num_embeddings >= len(student.tokenizer)
    assert_same(student, batch(student, [(2, 1), (1, 0)]))
    assert (
        len(
            generate(
                student,
                [example(random.Random(i)).question for i in range(3)],
                CONTROL_TOKENS[0],
                max_new_tokens=4,
            )
        )
        == 3
    )


@pytest.mark.parametrize("fault", ["absent", "empty", "no config", "no weights", "no tokenizer"])
def test_what_cannot_be_loaded_says_so(of, tmp_path, fault):
    folder = tmp_path / "student"
    if fault == "empty":
        folder.mkdir()
    elif fault != "absent":
        of("gpt2").save(folder)
        for file in folder.glob(
            {"no config": "config.json", "no weights": "*.safetensors", "no tokenizer": "tok*"}[
                fault
            ]
        ):
            file.unlink()
    with pytest.raises(
        ValueError, match=r"(?s)cannot be loaded.*Give a hub name such as .* or a folder"
    ):
        load_student(str(folder))


def test_unknown_architecture_and_format():
    with pytest.raises(ValueError, match="no small student 'bert'; choose one of t5, mt5"):
        small_student("bert", TEXTS)
    with pytest.raises(ValueError, match="choose letter or text"):
        target_text(example(random.Random(0)).question, "A", answer_format="words")


@pytest.mark.parametrize("arch", ["t5", "gpt2"])
@pytest.mark.parametrize("control", [None, CONTROL_TOKENS[0]])
def test_a_long_question_keeps_its_end_and_its_options(arch, control):
    student, rng = (
        small_student(arch, TEXTS, width=32, layers=1, heads=2, max_prompt=45),
        random.Random(0),
    )
    long = [
        Question(
            str(i),
            "t",
            "en",
            text(rng, 30) + " " + " ".join(WORDS) + " at night where?",
            dict(A="barn", B="hen house", C="market", D="freezer"),
            "B",
        )
        for i in range(5)
    ]
    decode = lambda ids: student.tokenizer.decode(ids, skip_special_tokens=False)
    for i, q in enumerate(long):
        assert student.cut["prompt"] == i
        ids = student.encode_prompt(q, control)
        end = student.tokenizer(
            prompt_text(q, control, "at night where?"), add_special_tokens=False
        ).input_ids
        ids_end = ids[:-1] if student.seq2seq else ids
        assert len(ids) <= 45 and ids_end[-len(end) :] == end
        assert (
            " ".join(WORDS[-3:]) in decode(ids)
            and (ids[-1] == student.tokenizer.eos_token_id) == student.seq2seq
        )
    short = Question("s", "t", "en", "where?", dict(A="barn", B="market"), "A")
    student.encode_prompt(short, control)
    assert student.cut == dict(prompt=5)


@pytest.mark.parametrize("arch", ["t5", "gpt2"])
@pytest.mark.parametrize("answer_format, answer", [("letter", "B"), ("text", "hen house")])
def test_a_long_rationale_loses_its_middle_never_its_answer(arch, answer_format, answer):
    student = small_student(
        arch, TEXTS, width=32, layers=1, heads=2, max_target=31, answer_format=answer_format
    )
    rationale = "cold barn " + " ".join(WORDS * 4)
    question = example(random.Random(0)).question
    ids = student.encode(Example(question, (Target(rationale, "B"), Target("barn", "B"))))[
        "targets"
    ]
    assert (
        len(ids[0]) == 31
        and student.cut == dict(target=1)
        and all(i[-1] == student.tokenizer.eos_token_id for i in ids)
    )
    said = student.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert said.startswith("cold barn") and said.endswith(f"Answer: {answer}")


def test_a_long_question_without_spaces_is_cut_too():
    stem = "".join(random.Random(0).choices("鼬鼠总是钻进鸡蛋里它们放在哪", k=80)) + "？"
    student = small_student("gpt2", TEXTS + [stem], width=32, layers=1, heads=2, vocab=70)
    question = Question("zh", "t", "zh", stem, dict(A="barn", B="market"), "A")
    whole = student.encode_prompt(question)
    student.max_prompt = len(whole) - 10
    ids = student.encode_prompt(question)
    assert (
        len(ids) <= len(whole) - 10 and student.cut == dict(prompt=1) and ids[-12:] == whole[-12:]
    )


@pytest.mark.parametrize("arch", ["t5", "gpt2"])
@pytest.mark.parametrize(
    "limit, marked", [(512, "barn freezer market night"), (6, "barn"), (4, "")]
)
def test_focus_is_on_the_tokens_of_a_wrong_span(arch, limit, marked):
    "Also behind leading spaces; a target that is cut keeps what is left of its marks."
    student = small_student(arch, TEXTS, width=32, layers=1, heads=2, max_target=limit)
    text, question = (
        "  the cold barn freezer " + " ".join(WORDS * 2),
        example(random.Random(0)).question,
    )
    at = (
        (text.index("barn"), text.index("barn") + len("barn freezer")),
        (text.rindex("market"), len(text)),
    )
    row = student.encode(
        Example(
            question,
            (Target(text, "B"),),
            (Target(text, "A", at), Target(text, "A"), Target("where", "A")),
        )
    )
    for ids, focus in zip(row["targets"], row["focus"], strict=True):
        assert len(ids) == len(focus) <= limit
    assert all(row["focus"][0]) and not any(map(any, row["focus"][2:]))
    assert (
        student.tokenizer.decode(
            [i for i, f in zip(row["targets"][1], row["focus"][1]) if f], skip_special_tokens=True
        ).split()
        == marked.split()
    )
    batch = student.collate([row, {k: v for k, v in row.items() if k != "focus"}])
    assert (
        batch["focus"].shape == batch["labels"].shape
        and not batch["focus"][batch["labels"] < 0].any()
    )
    assert batch["focus"][1].sum() == sum(row["focus"][1]) and batch["focus"][4:].equal(
        batch["labels"][4:] >= 0
    )


@pytest.fixture
def wide(monkeypatch):
    "oneDNN multiplies, whatever processor this is, and however small the matrices."
    monkeypatch.setattr(logprobs, "_mkl_is_narrow", lambda: True)
    monkeypatch.setattr(logprobs, "_small", lambda a, b: a.dtype is not torch.float32)
    with fast_matmul():
        yield


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (3, 5, 7), (64, 130, 33), (200, 1, 9), (0, 4, 3)])
def test_products_are_products(wide, m, k, n):
    a, b, c = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    for x, y in (
        (a, b),
        (a.T.contiguous().T, b),
        (a, b.T.contiguous().T),
        (torch.randn(m, 2 * k)[:, ::2], b),
    ):
        exact = x.double() @ y.double()
        for found, expected in (
            (x @ y, exact),
            (torch.addmm(c, x, y), exact + c),
            (torch.addmm(c, x, y, beta=0.5, alpha=2), 2 * exact + 0.5 * c),
            (torch.nn.functional.linear(x, y.T, c), exact + c),
            (x.bfloat16() @ y.bfloat16(), x.bfloat16().double() @ y.bfloat16().double()),
        ):
            torch.testing.assert_close(
                found.double(),
                expected,
                rtol=1e-2 if found.dtype == torch.bfloat16 else 1e-5,
                atol=0.1 if found.dtype == torch.bfloat16 else 1e-5,
            )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shared_equals_plain_in_wide_products(of, arch, wide):
    assert_same(of(arch), batch(of(arch), [(8, 8), (1, 0), (3, 1)]))


def test_a_large_vocabulary_in_wide_products(wide, monkeypatch):
    student = student_of("gpt2")
    student.model.resize_token_embeddings(16_100, mean_resizing=False)
    monkeypatch.setattr(logprobs.state_logps, "__defaults__", (16_100 * 64,))
    assert_same(student, batch(student, [(8, 8), (3, 2)]))


def test_products_end_with_their_context(monkeypatch):
    monkeypatch.setattr(logprobs, "_mkl_is_narrow", lambda: True)
    kernels, a = [], torch.randn(100, 100)
    monkeypatch.setattr(logprobs, "_small", lambda a, b: kernels.append(1) or False)
    with fast_matmul():
        with fast_matmul():
            a @ a
        a @ a
        assert fast_matmul.wide
    a @ a
    assert len(kernels) == 2 and not fast_matmul.wide


@pytest.mark.parametrize("seed", range(3))
def test_padding_is_under_a_tenth(seed):
    "Sixteen questions with lengths as ragged as those of real questions and rationales."
    rng = random.Random(seed)
    prompts = torch.tensor([int(rng.lognormvariate(4.5, 0.7)) + 5 for _ in range(16)])
    rationales = torch.tensor(
        [int(rng.lognormvariate(4, 0.6)) + 3 for _ in range(16) for _ in range(rng.randint(1, 8))]
    )
    for lengths in (prompts, rationales):
        assert torch.cat(length_groups(lengths)).sort().values.tolist() == list(range(len(lengths)))
    real = int(prompts.sum() + rationales.sum())
    assert real <= positions(prompts, rationales) <= real / 0.9


def test_groups_are_the_cheapest():
    "Against every way to cut the sorted lengths."
    for seed in range(30):
        rng = random.Random(seed)
        lengths, cost = (
            torch.tensor([rng.randint(1, 30) for _ in range(rng.randint(1, 8))]),
            rng.randint(0, 20),
        )
        size, n = lengths.sort(descending=True).values.tolist(), len(lengths)
        price = lambda cuts: sum(size[a] * (b - a) + cost for a, b in zip((0, *cuts), (*cuts, n)))
        best = min(price(cuts) for k in range(n) for cuts in combinations(range(1, n), k))
        assert (
            sum(len(g) * int(lengths[g].max()) + cost for g in length_groups(lengths, cost)) == best
        )
    assert length_groups(torch.tensor([], dtype=torch.long)) == []


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_many_groups_equal_the_plain_twin(of, arch, monkeypatch):
    monkeypatch.setattr(logprobs.length_groups, "__defaults__", (4,))
    inputs = batch(of(arch), [(8, 8), (1, 0), (3, 1), (2, 2), (4, 0)], 7)
    assert all(
        len(length_groups(lengths)) > 2
        for lengths in (inputs["attention_mask"].sum(-1), (inputs["labels"] >= 0).sum(-1))
    )
    assert_same(of(arch), inputs)
