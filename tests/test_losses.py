"Every loss against plain loops over ragged batches, and gradients at the ends of the range."

import math
import random
from functools import partial

import pytest
import torch

from cot_distill.losses import (
    FOCUS_MASKS,
    click,
    d_cot_nr,
    dpo,
    log1mexp,
    orpo,
    simpo,
    unlikelihood,
)

NEGATIVE_LOSSES = (unlikelihood, click, orpo, simpo, dpo)
torch.set_num_threads(1)  # on tensors this small threads only wait for each other


def ragged(seed):
    "Rows in random order; question 0 has no wrong, 1 no right rationale, 2 neither."
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


def needed(negative, logps):
    "Settings without a default: a student before its training, for a loss that compares with it."
    if negative is not dpo:
        return {}
    generator = torch.Generator().manual_seed(5)
    return dict(reference=-torch.rand(logps.shape, generator=generator).mul(3).to(logps))


def kept(values, mask):  # per row, the numbers that the mask keeps
    rows = zip(values.double().tolist(), mask.tolist())
    return [[value for value, m in zip(*row) if m] for row in rows]


def plain(
    logps,
    mask,
    owner,
    positive,
    questions,
    negative=None,
    alpha=0.1,
    gamma=1.0,
    beta=None,
    normalize=True,
    reference=None,
):
    "The same, one number at a time, in double precision."
    tokens = kept(logps, mask)
    mean = lambda values: sum(values) / len(values) if values else 0.0
    not_p = lambda logp: math.log(-math.expm1(logp))
    score = [sum(t) / (len(t) if normalize else 1) for t in tokens]
    prefer = lambda by: math.log1p(math.exp(-by))  # -log sigmoid
    if negative is dpo:
        moved = [sum(t) - sum(r) for t, r in zip(tokens, kept(reference, mask))]
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
            orpo=lambda: mean([prefer(odds(r) - odds(w)) for r, w in both]),
            simpo=lambda: mean(
                [prefer((beta or 2.0) * (score[r] - score[w]) - gamma) for r, w in both]
            ),
            dpo=lambda: mean([prefer((beta or 0.1) * (moved[r] - moved[w])) for r, w in both]),
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
        (simpo, {}),
        (simpo, dict(beta=0.7, gamma=0.3, alpha=2.0)),
        (dpo, {}),
        (dpo, dict(beta=1.5, alpha=1.0)),
    ],
)
def test_losses_against_loops(seed, negative, settings):
    batch = ragged(seed)
    settings = settings | needed(negative, batch[0])
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
    settings = needed(negative, logps)
    loss = d_cot_nr(x, mask, owner, positive, questions, negative, **settings)
    loss.sum().backward()
    assert loss.isfinite().all() and x.grad.isfinite().all()
    assert not x.grad[~mask].any()


@pytest.mark.parametrize("negative", NEGATIVE_LOSSES)
def test_wrong_is_pushed_down_and_right_up(negative):
    logps, mask, owner, positive, questions = ragged(2)
    settings = needed(negative, logps) | (dict(gamma=100.0) if negative is click else {})
    logps = logps.requires_grad_()
    loss = d_cot_nr(logps, mask, owner, positive, questions, negative, alpha=1.0, **settings)
    loss.sum().backward()
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
    "Against double precision: log(-expm1(x)) or log1p(-e^x), and the derivative 1/(1 - e^-x)."
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
    loss = partial(d_cot_nr, logps, owner=owner, positive=positive, questions=questions)
    negative = dict(negative=negative, **needed(negative, logps))
    for name, focus in FOCUS_MASKS.items():
        seen = torch.where(positive[:, None], mask, expected[name])
        alone = loss(mask=seen, **negative) - loss(mask=seen)
        together = loss(mask=mask, wrong_mask=focus(mask, wrong), **negative) - loss(mask=mask)
        torch.testing.assert_close(together, alone)
    assert torch.equal(loss(mask=mask, wrong_mask=mask, **negative), loss(mask=mask, **negative))
    nothing_known = torch.ones_like(mask)
    assert torch.equal(FOCUS_MASKS["first"](mask, nothing_known), mask)  # the whole rationale


def test_orpo_is_unlikelihood_divided_by_an_average_of_one_and_the_odds_of_the_right():
    "For one token each, d orpo / d logp = odds / (p + odds of the right (1 - p)), in doubles."
    for right in (0.1, 0.5, 0.9):
        for wrong in (0.02, 0.3, 0.5, 0.8, 0.97):
            logps = torch.tensor([[right], [wrong]]).log().requires_grad_()
            one = torch.ones(2, 1).bool(), torch.zeros(2).long(), torch.tensor([True, False]), 1
            orpo(logps, *one).sum().backward()
            odds = right / (1 - right)
            push = wrong / (1 - wrong) / (wrong + odds * (1 - wrong))
            assert logps.grad[1].item() == pytest.approx(push, rel=1e-4)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_starts_at_log_two_and_pulls_both_ways_alike(beta):
    logps, mask, owner, positive, questions = ragged(4)
    x = logps.clone().requires_grad_()
    loss = dpo(x, mask, owner, positive, questions, reference=logps, beta=beta)
    paired = [q for q in range(questions) if q not in (0, 1, 2)]
    torch.testing.assert_close(loss[paired], torch.full((len(paired),), math.log(2)))
    loss.sum().backward()
    row = x.grad.sum(-1) / mask.sum(-1)  # every token of a rationale alike
    torch.testing.assert_close(x.grad, row[:, None] * mask)
    for q in paired:
        assert row[(owner == q) & positive].sum().item() == pytest.approx(-beta / 2, rel=1e-5)
        assert row[(owner == q) & ~positive].sum().item() == pytest.approx(beta / 2, rel=1e-5)
