"""ScheduleFreeAdamW against its authors' code: 30 steps in float64, to 1e-12."""

import numpy as np
import pytest

import instep

torch = pytest.importorskip("torch")
schedulefree = pytest.importorskip("schedulefree")

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"lr": 0.1, "weight_decay": 0.25, "r": 1.5}, {"lr": 0.1, "weight_decay": 0.25, "r": 1.5}),
        ({"lr": 0.1, "beta1": 0.5, "beta2": 0.9}, {"lr": 0.1, "betas": (0.5, 0.9)}),
        ({"lr": lambda t: 0.1 * min(t / 5, 1)}, {"lr": 0.1, "warmup_steps": 5}),
    ],
)
def test_schedule_free_agrees_with_its_authors(ours, theirs):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(9)
    tensor = torch.nn.Parameter(torch.asarray(w.copy()))
    optimizer = instep.ScheduleFreeAdamW(**ours)
    other = schedulefree.AdamWScheduleFree([tensor], **theirs)
    other.train()
    for _ in range(30):
        g = rng.standard_normal(9)
        tensor.grad = torch.asarray(g.copy())
        other.step()
        optimizer.update(w, g)
        np.testing.assert_allclose(w, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    other.eval()
    expected = tensor.detach().numpy()
    np.testing.assert_allclose(optimizer.eval_params(w), expected, rtol=1e-12, atol=1e-12)
