"Fifty architectures, windows shorter than their prompts, and models that cannot be students."

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from cot_distill.decoding import write
from cot_distill.logprobs import exact_logps, plain_logps, shared_logps, verdict_of
from cot_distill.questions import Question
from cot_distill.records import Example, Target
from cot_distill.students import (
    load_student,
    prepare_student,
    small_student,
    tiny_model,
    train_tokenizer,
)

torch.set_num_threads(1)
TEXTS = ["the weasel kept getting into chicken eggs Answer: A B C D ( ) . ?"]

SHARED = """
llama mistral ministral qwen2 qwen3 phi phi3 gemma gemma2 gemma3_text vaultgemma olmo olmo2 olmo3
granite cohere cohere2 falcon bloom mpt gptj gpt2 gpt_neo gpt_neox opt xglm biogpt codegen stablelm
starcoder2 persimmon smollm3 helium glm glm4 nemotron exaone4 mixtral qwen2_moe olmoe ctrl t5 mt5
umt5 bart mbart pegasus marian blenderbot blenderbot-small plbart mvp m2m_100
""".split()
PLAIN = dict(mamba="running state", rwkv="running state", llama4_text="chunk")
PLAIN["openai-gpt"] = "cannot continue"
REFUSED = dict(bert="later", roberta="later", electra="later", xlnet="later")
REFUSED["bigbird_pegasus"] = "longest row"


@pytest.fixture(scope="module")
def of():
    kept = {}
    return lambda kind: kept.setdefault(kind, tiny_model(kind))


@pytest.mark.parametrize("kind", SHARED)
def test_prompts_are_shared(of, kind):
    verdict = verdict_of(of(kind))
    assert (verdict.path, verdict.reason) == ("shared", "") and verdict.off < 1e-4
    assert verdict.logps is shared_logps


@pytest.mark.parametrize("kind", PLAIN)
def test_prompts_are_repeated(of, kind):
    verdict = verdict_of(of(kind))
    assert verdict.path == "plain" and PLAIN[kind] in verdict.reason
    assert verdict.logps is plain_logps


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_cannot_be_students(of, kind):
    verdict = verdict_of(of(kind))
    assert verdict.path == "refused" and REFUSED[kind] in verdict.reason
    with pytest.raises(ValueError, match=f"cannot be a student: {kind}"):
        verdict.logps


def ragged(model, seed, longest):
    "Three prompts of very different length, two rationales each."
    rng, left = random.Random(seed), not model.config.is_encoder_decoder
    text = lambda n: [rng.randrange(3, 90) for _ in range(n)]
    prompts = [text(n) for n in (2, longest // 2, longest)]
    targets = [text(n) for n in (9, 1, longest, 4, 6, 12)]
    width, wide = longest, max(map(len, targets))
    pad = lambda row, n, value: (
        [value] * (n - len(row)) + row if left and value == 0 else row + [value] * (n - len(row))
    )
    return dict(
        input_ids=torch.tensor([pad(p, width, 0) for p in prompts]),
        attention_mask=torch.tensor([pad([1] * len(p), width, 0) for p in prompts]),
        labels=torch.tensor([t + [-100] * (wide - len(t)) for t in targets]),
        owner=torch.tensor([0, 0, 1, 1, 2, 2]),
    )


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("longest", [50])
def test_values_beyond_a_window_of_32(of, kind, longest):
    "Each row alone, through the model's own forward pass, is the twin."
    model = of(kind)
    batch = ragged(model, 1, longest)
    with torch.no_grad():
        exact, shared = exact_logps(model, batch), shared_logps(model, **batch)
        plain = plain_logps(model, **batch)
    assert (exact - shared).abs().max() < 1e-4 and (exact - plain).abs().max() < 1e-4


PROVEN = ["llama", "gemma2", "gemma3_text", "qwen2", "qwen3", "mistral", "phi3"]
WINDOWS = dict(qwen2=dict(use_sliding_window=True, max_window_layers=0))


@pytest.mark.parametrize("kind", PROVEN)
@pytest.mark.parametrize("window", [4, 32, 512])
def test_values_and_gradients_with_windows(kind, window):
    model = tiny_model(kind, sliding_window=window, **WINDOWS.get(kind, {}))
    batch, found = ragged(model, window, 40), []
    chance = torch.Generator().manual_seed(0)
    weights = torch.randn(batch["labels"].shape, generator=chance)
    for logps in (shared_logps, plain_logps, lambda m, **b: exact_logps(m, b)):
        model.zero_grad()
        values = logps(model, **batch)
        (values * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((values.detach(), gradient))
    (shared, d_shared), *others = found
    for values, gradient in others:
        assert (shared - values).abs().max() < 5e-5
        assert (d_shared - gradient).norm() <= 1e-4 * gradient.norm()


def test_windows_matter():
    "A test of windows that any window passes would show nothing."
    narrow, wide = (tiny_model("mistral", sliding_window=w) for w in (4, 512))
    batch = ragged(narrow, 0, 40)
    with torch.no_grad():
        off = (shared_logps(narrow, **batch) - shared_logps(wide, **batch)).abs().max()
    assert off > 0.1


def student_of(model):
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    student = small_student("gpt2", TEXTS, width=16, layers=1, heads=2)
    student.model, student.tokenizer = model, tokenizer
    student.verdict = verdict_of(model)
    model.generation_config.update(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    model.generation_config.update(decoder_start_token_id=1, forced_eos_token_id=None)
    student.__class__ = type("Bare", (type(student),), {})
    return student


DECODED = [*PROVEN, "gpt2", "bloom", "mpt", "cohere", "granite", "opt", "xglm", "gpt_neo", "olmoe"]
DECODED += ["bart", "t5", "marian", "m2m_100", "mamba", "openai-gpt", "llama4_text", "rwkv"]


@pytest.mark.parametrize(
    "kind, window",
    [(kind, window) for kind in DECODED for window in ((6, 200) if kind in PROVEN[1:] else (0,))],
)
def test_decoding_equals_generate(kind, window):
    "Token for token, in ragged batches, with windows shorter and longer than the text."
    windowed = dict(sliding_window=window) | WINDOWS.get(kind, {})
    model = tiny_model(kind, **(windowed if window else {}))
    student, rng = student_of(model), random.Random(2)
    prompts = [[rng.randrange(3, 90) for _ in range(n)] for n in (3, 41, 12, 12, 30, 5, 24)]
    greedy, expected = dict(max_new_tokens=12, do_sample=False, pad_token_id=0), []
    for p in prompts:
        out = model.generate(torch.tensor([p]), **greedy)[0].tolist()
        out = out[1 if model.config.is_encoder_decoder else len(p) :]
        expected.append(out[: out.index(2)] if 2 in out else out)
    assert len({tuple(out) for out in expected}) > 1
    for size in (1, 3, 7):
        assert write(student, [[p] for p in prompts], 12, batch_size=size) == expected
    three = [[p, p, [*p, 5, 6]] for p in prompts]
    several = write(student, three, 12, batch_size=4)
    assert several[::3] == several[1::3] == expected


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "t5", "mamba"])
def test_samples_depend_on_seed_and_question_alone(kind):
    student, rng = student_of(tiny_model(kind)), random.Random(3)
    asked = [[[rng.randrange(3, 90) for _ in range(n)]] * 2 for n in (4, 9, 9, 15)]
    ask = lambda some, size, seed: write(student, some, 8, size, temperature=1.0, seed=seed)
    whole = ask(asked, 8, 0)
    assert ask(asked, 1, 0) == ask(asked, 3, 0) == whole != ask(asked, 8, 1)
    assert ask(asked[2:3], 8, 0) == whole[4:6] and whole[4] != whole[5]


def saved(model, folder, **special):
    ends = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>") | special
    tokenizer = train_tokenizer(TEXTS)
    for name, token in ends.items():
        setattr(tokenizer, name, token)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def gpt2(positions=1024):
    shape = dict(n_embd=16, n_layer=1, n_head=2, vocab_size=200, n_positions=positions)
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=2))


@pytest.mark.parametrize(
    "make, special, limits, message",
    [
        (gpt2, dict(eos_token=None), {}, r"no end token; set tokenizer\.eos_token"),
        (lambda: gpt2(64), {}, {}, r"knows 64 positions.*need 1024; lower one of them"),
        (lambda: gpt2(64), {}, dict(max_prompt=40, max_target=25), "64 positions.*need 65"),
        (gpt2, {}, dict(answer_format="words"), "choose letter or text"),
        (gpt2, {}, dict(chat=True), "no chat template; leave chat=False"),
        (
            lambda: BertLMHeadModel(
                BertConfig(
                    vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
                )
            ),
            {},
            dict(max_prompt=200, max_target=200),
            "its tokens see later ones.*take a model that writes",
        ),
        (
            lambda: DistilBertModel(
                DistilBertConfig(vocab_size=200, dim=16, n_layers=1, n_heads=2)
            ),
            {},
            {},
            "distilbert does not write text; take a decoder-only",
        ),
    ],
    ids=["no end", "positions", "one too many", "format", "template", "bert", "distilbert"],
)
def test_refused_at_loading(tmp_path, make, special, limits, message):
    folder = saved(make(), tmp_path, **special)
    with pytest.raises(ValueError, match=f"(?s)cannot be loaded.*{message}"):
        load_student(folder, **limits)


def test_within_the_limit_it_is_loaded(tmp_path):
    folder = saved(gpt2(64), tmp_path)
    student = load_student(folder, max_prompt=40, max_target=24)
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        write(student, [[[5] * 40]], 25)
    assert len(write(student, [[[5] * 40]], 24)[0]) <= 24


def test_turning_positions_are_limited():
    student = small_student(
        "llama", TEXTS, width=16, layers=1, heads=2, max_prompt=40, max_target=9
    )
    rope = dict(rope_type="dynamic", factor=2.0, rope_theta=1e4)
    student.model.config.rope_parameters = rope | dict(original_max_position_embeddings=32)
    with pytest.raises(ValueError, match="alike up to 32 positions.*need 49"):
        prepare_student(student.model, student.tokenizer, "x", max_prompt=40, max_target=9)


def test_the_answer_is_never_cut(tmp_path):
    option = " ".join(["barn"] * 24)
    q = Question("long", "t", "en", "Where?", dict(A=option, B="hen"), "A")
    texts = [*TEXTS, option, "hen", "because of this and that " * 20]
    long = Example(q, (Target("because of this and that " * 20, "A"),))
    for arch in ("gpt2", "t5"):
        limits = dict(answer_format="text", max_target=40)
        student = small_student(arch, texts, width=16, layers=1, heads=2, words=True, **limits)
        ids = student.encode(long)["targets"][0]
        said = student.tokenizer.decode(ids, skip_special_tokens=True)
        assert len(ids) == 40 and said.endswith(option) and "answer" in said.lower()
        assert said.startswith("because") and student.cut == dict(target=1)
        student.max_target = 20
        with pytest.raises(ValueError, match="'long'.*the answer A alone takes.*raise max_target"):
            student.encode(long)


def test_settings_are_saved_and_overridden(tmp_path):
    limits = dict(answer_format="text", max_prompt=77, max_target=33)
    student = small_student("gpt2", TEXTS, width=16, layers=1, heads=2, **limits)
    student.name = "mine"
    student.save(tmp_path)
    kept = ("name", "answer_format", "max_prompt", "max_target", "control_tokens")
    again = load_student(str(tmp_path))
    assert all(getattr(again, name) == getattr(student, name) for name in kept)
    other = load_student(str(tmp_path), label="other", answer_format="letter", max_prompt=50)
    assert (other.name, other.answer_format, other.max_prompt) == ("other", "letter", 50)
    assert other.max_target == 33
    (tmp_path / "distill.json").write_text("{")
    with pytest.raises(ValueError, match="distill.json: not the settings of a student"):
        load_student(str(tmp_path))


@pytest.mark.parametrize("arch", ["gpt2", "gemma3_text", "mistral"])
def test_a_pipeline_asks_as_it_was_trained(tmp_path, arch):
    from transformers import pipeline

    from cot_distill.decoding import generate
    from cot_distill.students import prompt_text

    q = Question("q", "t", "en", "the weasel kept eggs ?", dict(A="chicken", B="weasel"), "A")
    texts = [*TEXTS, prompt_text(q)]
    limits = dict(max_target=7, max_prompt=64)
    student = small_student(arch, texts, width=16, layers=1, heads=2, words=True, **limits)
    student.save(tmp_path)
    said = generate(student, [q])[0]
    pipe = pipeline("text-generation", str(tmp_path), device="cpu")
    for prompt in (prompt_text(q), prompt_text(q).strip()):
        answer = pipe([dict(role="user", content=prompt)])[0]["generated_text"][-1]
        assert answer["content"].strip() == said


def test_a_student_is_found_in_a_mirror(tmp_path, monkeypatch):
    small_student("gpt2", TEXTS, width=16, layers=1, heads=2).save(tmp_path / "owner" / "tiny")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_student("owner/tiny")
    monkeypatch.setenv("COT_DISTILL_HUB", str(tmp_path))
    assert load_student("owner/tiny").seq2seq is False


def test_a_chat_model_is_asked_in_its_own_template(tmp_path):
    student = small_student("gpt2", TEXTS, width=16, layers=1, heads=2)
    student.tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>A:{% endif %}"
    )
    student.chat = True
    student.save(tmp_path)
    q = Question("q", "t", "en", "the weasel ?", dict(A="eggs", B="getting"), "A")
    chat, plain = load_student(str(tmp_path)), load_student(str(tmp_path), chat=False)
    assert chat.chat and not plain.chat
    asked = chat.encode_prompt(q)
    end = chat.tokenizer("<s>A:", add_special_tokens=False).input_ids
    assert asked[-len(end) :] == end and asked.count(2) == 1 and asked != plain.encode_prompt(q)
    assert plain.encode_prompt(q).count(2) == 0


@pytest.mark.parametrize("arch", ["gpt2", "t5", "mistral"])
def test_adapters_are_saved_and_loaded(tmp_path, arch):
    pytest.importorskip("peft")
    base = tmp_path / "base"
    small_student(arch, TEXTS, width=16, layers=1, heads=2, control_tokens=()).save(base)
    student = load_student(str(base), lora=2, control_tokens=("[one]",), max_target=40)
    trained = [(n, p) for n, p in student.model.named_parameters() if p.requires_grad]
    assert trained and all("lora" in name for name, _ in trained)
    for name, p in trained:
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    student.save(tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    again = load_student(str(tmp_path / "adapters"))
    assert (again.max_target, again.control_tokens) == (40, ("[one]",))
    batch = ragged(student.model, 0, 12)
    batch["input_ids"], batch["labels"] = (
        x.clamp(max=30) for x in (batch["input_ids"], batch["labels"])
    )
    with torch.no_grad():
        ours, theirs = (shared_logps(s.model.eval(), **batch) for s in (student, again))
        plain = plain_logps(again.model, **batch)
        bare = shared_logps(load_student(str(base)).model, **batch)
    assert (ours - theirs).abs().max() < 1e-5 and (ours - plain).abs().max() < 1e-4
    assert (ours - bare).abs().max() > 1e-2
    assert len(write(again, [[[5, 6, 7]], [[5] * 9]], 4, batch_size=2)) == 2
