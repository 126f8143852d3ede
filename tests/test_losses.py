"Every loss against plain loops over ragged batches, and gradients at the ends of the range."

import math
import random

import pytest
import torch

from cot_distill.losses import FOCI, click, d_cot_nr, log1mexp, orpo, unlikelihood

NEGATIVE_LOSSES = (unlikelihood, click, orpo)
torch.set_num_threads(1)  # on tensors this small threads only wait for each other


def ragged(seed):
    "Rows of several questions in random order; question 0 has no wrong, 1 no right rationale, 2 neither."
    rng = random.Random(seed)
    rows = [
        (q, side)
        for q in range(6)
        for side, most in ((True, 8), (False, 8))
        for _ in range(rng.randint(1, most))
        if q != 2 and (q, side) not in ((0, False), (1, True))
    ]
    rng.shuffle(rows)
    lengths = [rng.randint(1, 12) for _ in rows]
    generator = torch.Generator().manual_seed(seed)
    logps = (
        -torch.rand(len(rows), 12, generator=generator).mul(10).pow(2) / 20
    )  # from likely to very unlikely
    mask = torch.arange(12)[None] < torch.tensor(lengths)[:, None]
    if seed % 2:
        logps = logps.masked_fill(~mask, 0.0)  # what students put there
    return logps, mask, torch.tensor([q for q, _ in rows]), torch.tensor([p for _, p in rows]), 6


def plain(
    logps, mask, owner, positive, questions, negative=None, alpha=0.1, gamma=1.0, normalize=True
):
    "The same, one number at a time, in double precision."
    tokens = [[l for l, m in zip(*row) if m] for row in zip(logps.double().tolist(), mask.tolist())]
    mean = lambda values: sum(values) / len(values) if values else 0.0
    not_p = lambda l: math.log(-math.expm1(l))
    score = [sum(t) / (len(t) if normalize else 1) for t in tokens]
    losses = []
    for q in range(questions):
        right, wrong = (
            [i for i, o in enumerate(owner.tolist()) if o == q and positive[i].item() is side]
            for side in (True, False)
        )
        both = [(r, w) for r in right for w in wrong]
        odds = lambda i: mean(tokens[i]) - not_p(mean(tokens[i]))
        extra = dict(
            unlikelihood=lambda: mean([-mean(list(map(not_p, tokens[w]))) for w in wrong]),
            click=lambda: mean([max(0.0, gamma + score[w] - score[r]) for r, w in both]),
            orpo=lambda: mean([math.log1p(math.exp(odds(w) - odds(r))) for r, w in both]),
        )
        losses.append(
            mean([-mean(tokens[r]) for r in right])
            + (alpha * extra[negative.__name__]() if negative else 0.0)
        )
    return torch.tensor(losses)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "negative, settings",
    [
        (None, {}),
        (unlikelihood, {}),
        (unlikelihood, dict(alpha=3.0)),
        (orpo, {}),
        (click, {}),
        (click, dict(gamma=0.2)),
        (click, dict(gamma=15.0, normalize=False, alpha=1.0)),
    ],
)
def test_losses_against_loops(seed, negative, settings):
    batch = ragged(seed)
    torch.testing.assert_close(
        d_cot_nr(*batch, negative, **settings),
        plain(*batch, negative, **settings),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("negative", [None, *NEGATIVE_LOSSES])
@pytest.mark.parametrize("low, high", [(-1e4, -50.0), (-1e-6, 0.0), (0.0, 0.0), (-1e4, 0.0)])
def test_gradients_are_finite_at_the_ends(negative, low, high):
    logps, mask, owner, positive, questions = ragged(1)
    x = (
        torch.linspace(low, high, logps.numel())
        .view_as(logps)[:, torch.randperm(12)]
        .clone()
        .requires_grad_()
    )
    loss = d_cot_nr(x, mask, owner, positive, questions, negative)
    loss.sum().backward()
    assert loss.isfinite().all() and x.grad.isfinite().all()
    assert not x.grad[~mask].any()


@pytest.mark.parametrize("negative", NEGATIVE_LOSSES)
def test_wrong_is_pushed_down_and_right_up(negative):
    logps, mask, owner, positive, questions = ragged(2)
    logps = logps.requires_grad_()
    d_cot_nr(
        logps,
        mask,
        owner,
        positive,
        questions,
        negative,
        alpha=1.0,
        **dict(gamma=100.0) if negative is click else {},
    ).sum().backward()
    alone = torch.isin(owner, torch.tensor([1])) & ~positive  # nothing right to compare with
    wrong = ~positive & (~alone if negative is not unlikelihood else True)
    assert (logps.grad[wrong][mask[wrong]] > 0).all()  # descent makes them less likely
    assert (logps.grad[positive][mask[positive]] < 0).all()
    if negative is not unlikelihood:
        assert not logps.grad[alone].any()


@pytest.mark.parametrize(
    "x",
    [
        -1.1e-7,
        -3e-7,
        -1e-5,
        -1e-3,
        -0.1,
        -0.5,
        -0.6931,
        -0.6932,
        -1.0,
        -5.0,
        -16.0,
        -30.0,
        -87.0,
        -1e3,
    ],
)
def test_log1mexp_and_its_gradient(x):
    "Against double precision: log(-expm1(x)) near 0 and log1p(-e^x) far below, with the derivative 1/(1 - e^-x)."
    at = torch.tensor([x], requires_grad=True)
    value = log1mexp(at)
    value.sum().backward()
    x = at.item()  # as float32 holds it
    assert value.item() == pytest.approx(
        math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x)), rel=2e-6, abs=1e-37
    )
    assert at.grad.item() == pytest.approx(
        -1 / math.expm1(-x) if x > -700 else 0.0, rel=2e-6, abs=1e-37
    )


def test_log1mexp_is_monotone_and_finite_up_to_zero():
    values = log1mexp(torch.cat([-torch.logspace(2, -12, 4000), torch.zeros(1)]))
    assert (
        values.isfinite().all()
        and (values.diff() <= 1e-6).all()
        and values[-1].item() == pytest.approx(-16.118, abs=0.01)
    )


def test_bfloat16_is_computed_in_float32():
    assert log1mexp(torch.tensor([-1e-3], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("negative", NEGATIVE_LOSSES)
def test_focus_is_a_mask_on_wrong_rationales_alone(negative):
    "As if the tokens outside it were padding; the right rationales keep all of theirs."
    logps, mask, owner, positive, questions = ragged(3)
    wrong = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = {"all": mask, "span": mask & wrong, "first": torch.zeros_like(mask)}
    for row, (m, w) in enumerate(zip(mask, wrong)):
        inside = [i for i in range(len(m)) if m[i] and w[i]]
        expected["first"][row, inside if len(inside) == m.sum() else inside[:1]] = True
    for name, see in FOCI.items():
        seen = torch.where(positive[:, None], mask, expected[name])
        alone = d_cot_nr(logps, seen, owner, positive, questions, negative) - d_cot_nr(
            logps, seen, owner, positive, questions
        )
        together = d_cot_nr(
            logps, mask, owner, positive, questions, negative, wrong_mask=see(mask, wrong)
        ) - d_cot_nr(logps, mask, owner, positive, questions)
        torch.testing.assert_close(together, alone)
    assert torch.equal(
        d_cot_nr(logps, mask, owner, positive, questions, negative, wrong_mask=mask),
        d_cot_nr(logps, mask, owner, positive, questions, negative),
    )
    assert torch.equal(
        FOCI["first"](mask, torch.ones_like(mask)), mask
    )  # nothing known: the whole rationale
