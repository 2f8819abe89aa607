"""The property that defines each regularizer, on an update or on an edit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from editors.base import Targets
from editors.data import Fact
from editors.errors import ConfigError
from editors.models.hooks import capture
from editors.models.model import Model
from editors.models.tokenization import tokenize_prompt
from editors.regularizers.base import Progress, Regularizer
from editors.regularizers.hypersphere import Hypersphere
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_anchor import NormAnchor
from editors.regularizers.norm_constraint import NormConstraint
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.prune import Prune
from editors.regularizers.rect import Rect
from editors.regularizers.simie import SimIE
from editors.regularizers.subspace_guard import SubspaceGuard
from editors.updates import Delta, Site
from tests.editors.cases import make_memit, perform
from tests.tiny import FACTS, optimizer, tiny_model

SITE = Site("mlp_down", 1)
DUE, NOT_DUE = Progress(9, 10), Progress(3, 4)


@pytest.fixture
def model() -> Model:
    return tiny_model()


def delta_of(model: Model, rank: int = 3, size: float = 0.1) -> Delta:
    """A random update of SITE."""
    out, wide = model.weight(*SITE).shape
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (out, wide))
    return Delta(left=size * left, right=right)


def prepared(model: Model, rule: Regularizer) -> Regularizer:
    rule.prepare(model, [SITE])
    return rule


def dominant(matrix: torch.Tensor, energy: float, power: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """U_k and V_k of the fewest directions that hold `energy` of Σσ^power."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    shares = (values**power).cumsum(0) / (values**power).sum()
    count = next(i for i, share in enumerate(shares.tolist()) if share >= energy) + 1
    return left[:, :count], right[:count].T


# --- update: subspaces ------------------------------------------------------------------------------


def test_the_guard_removes_exactly_the_dominant_directions(model):
    outputs, inputs = dominant(model.weight(*SITE), 0.4, power=1)
    delta = delta_of(model)
    guarded = prepared(model, SubspaceGuard(energy=0.4)).project(SITE, delta)
    assert guarded.right is not None and guarded.right.shape == delta.right.shape, "still factored"
    assert (outputs.T @ guarded.dense()).abs().max() < 1e-12
    assert (guarded.dense() @ inputs).abs().max() < 1e-12
    kept = (torch.eye(len(outputs)) - outputs @ outputs.T) @ delta.dense()
    torch.testing.assert_close(guarded.dense(), kept - kept @ inputs @ inputs.T)


def test_the_energy_of_the_guard_is_the_sum_of_the_singular_values(model):
    """Of 4, 3, 2, 1 the first three hold 0.8 of Σσ, the first two 0.8 of Σσ²; the rest is c_ij u_i v_jᵀ."""
    outputs, _, inputs = torch.linalg.svd(model.weight(*SITE))
    values = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    model.write(SITE, (outputs[:, :4] * values) @ inputs[:4])
    delta = delta_of(model)
    guarded = prepared(model, SubspaceGuard(energy=0.8)).project(SITE, delta).dense()
    coefficients = outputs.T @ delta.dense() @ inputs.T
    assert coefficients[2, 3:].norm() > 0.1, "Σσ² would leave the third direction"
    coefficients[:3], coefficients[:, :3] = 0, 0
    torch.testing.assert_close(guarded, outputs @ coefficients @ inputs)


def test_the_guard_and_the_sphere_see_the_unedited_matrix_only(model):
    rules = [prepared(model, SubspaceGuard(energy=0.4)), prepared(model, Hypersphere())]
    before = [rule.project(SITE, delta_of(model)).dense() for rule in rules]
    model.apply({SITE: delta_of(model, size=5.0)})
    after = [rule.project(SITE, delta_of(model)).dense() for rule in rules]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_sphere_weakens_the_principal_directions(model, factored, strength):
    """The rows' principal directions lose the share `strength`."""
    rows = torch.nn.functional.normalize(model.weight(*SITE), dim=1)
    _, principal = dominant(rows, 0.5)
    delta = delta_of(model) if factored else Delta(left=delta_of(model).dense())
    weakened = prepared(model, Hypersphere(energy=0.5, strength=strength)).project(SITE, delta)
    assert (weakened.right is not None) == factored
    torch.testing.assert_close(weakened.dense() @ principal, (1 - strength) * delta.dense() @ principal)
    rest = torch.eye(len(principal)) - principal @ principal.T
    torch.testing.assert_close(weakened.dense() @ rest, delta.dense() @ rest)


class Dropping(Regularizer):
    """Writes nothing into block 0."""

    def project(self, site: Site, delta: Delta) -> Delta:
        return replace(delta, left=0 * delta.left) if site.layer == 0 else delta


def test_later_layers_take_up_what_a_projection_dropped(model):
    """Without block 0 the last layer meets the whole residual, as if it were edited alone."""
    dropped, alone = make_memit(model, regularizers={"drop": Dropping()}), make_memit(model, layers=[1])
    updates = []
    for made in (dropped, alone):
        made.prepare(model)
        updates.append(made.edit(model, FACTS).update[SITE].dense())
    torch.testing.assert_close(*updates)


# --- update: entries and drift ----------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.01, 0.4, 1.0])
@pytest.mark.parametrize("absolute", [True, False])
def test_rect_writes_exactly_its_share_and_those_that_change_most(model, keep, absolute):
    weight, delta = model.weight(*SITE), delta_of(model)
    kept = Rect(keep=keep, absolute=absolute).finish(SITE, delta, weight, NOT_DUE).dense()
    written = kept != 0
    assert int(written.sum()) == round(keep * written.numel())
    assert torch.equal(kept[written], delta.dense()[written])
    base = weight.abs() + 1e-8 if absolute else weight + 1e-8
    relative = (delta.dense() / base).abs()
    assert keep == 1 or relative[written].min() >= relative[~written].max()


def test_the_two_formulas_of_rect_differ_near_minus_epsilon(model):
    """The published formula divides by almost zero there."""
    weight = model.weight(*SITE).clone()
    weight[0, 0] = -1e-8
    delta = Delta(left=torch.where(weight == -1e-8, 1e-9, 0.1 * weight))
    published, corrected = (
        Rect(keep=0.1, absolute=absolute).finish(SITE, delta, weight, NOT_DUE).dense()[0, 0] != 0
        for absolute in (False, True)
    )
    assert published and not corrected


def test_pruning_replaces_the_drift_by_its_compression(model):
    """The drift is measured from the unedited matrix."""
    unedited = model.weight(*SITE).clone()
    rule = prepared(model, Prune(every=10))
    model.apply({SITE: delta_of(model)})
    weight, delta = model.weight(*SITE), delta_of(model, rank=2, size=0.7)
    drift = weight + delta.dense() - unedited
    largest = torch.linalg.svdvals(unedited)[0]
    values = torch.linalg.svdvals(drift)
    assert values[0] > 2 * largest > 2 * values[-1], "some are compressed, others not"
    pruned = weight + rule.finish(SITE, delta, weight, DUE).dense() - unedited
    expected = torch.where(values > largest, values.log() - largest.log() + largest, values)
    torch.testing.assert_close(torch.linalg.svdvals(pruned), expected.sort(descending=True).values)
    left, _, right = torch.linalg.svd(drift)
    core = left.T @ pruned @ right.T[:, : len(left)]
    torch.testing.assert_close(core, core.diagonal().diag(), rtol=0, atol=1e-10)
    assert pruned.norm() < drift.norm()


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_pruning_never_enlarges_a_drift_even_where_the_matrix_is_small(model, scale):
    """For σ₀ < 1 the published log σ − log σ₀ + σ₀ would lie above σ."""
    model.write(SITE, scale * model.weight(*SITE))
    weight, rule = model.weight(*SITE), prepared(model, Prune(every=1))
    delta = delta_of(model, size=0.02 * scale)
    pruned = rule.finish(SITE, delta, weight, DUE).dense()
    assert (torch.linalg.svdvals(pruned) <= torch.linalg.svdvals(delta.dense()) + 1e-12).all()


def test_a_drift_below_the_largest_singular_value_is_not_pruned(model):
    rule, delta = prepared(model, Prune(every=1)), delta_of(model, size=1e-3)
    pruned = rule.finish(SITE, delta, model.weight(*SITE), DUE).dense()
    torch.testing.assert_close(pruned, delta.dense(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [Prune(every=10), NormReset(every=10)])
def test_a_batch_that_jumps_over_an_interval_triggers_it_once(model, rule):
    prepared(model, rule)
    delta, weight = delta_of(model, size=2.0), model.weight(*SITE)
    acted = [
        rule.finish(SITE, delta, weight, Progress(done, done + 4)) is not delta for done in range(0, 24, 4)
    ]
    assert acted == [False, False, True, False, True, False], "after 12 and after 20 edits"


@pytest.mark.parametrize("double", [True, False])
def test_a_reset_gives_the_matrix_its_unedited_norm(double):
    model = tiny_model(double=double)
    if not double:
        model.hf.to(torch.bfloat16)
    made = make_memit(model, regularizers={"norm_reset": NormReset(every=2)})
    made.prepare(model)
    unedited = float(model.current(SITE).double().norm())
    sizes = []
    for fact in FACTS[:2]:
        perform(model, made, [fact])
        sizes.append(float(model.current(SITE).double().norm()))
    assert abs(sizes[0] / unedited - 1) > 1e-4
    assert sizes[1] == pytest.approx(unedited, rel=1e-12 if double else 1e-6)


# --- target -----------------------------------------------------------------------------------------


def test_the_anchor_gives_every_target_the_reference_norm(model):
    """The norm is measured once, on the unedited model."""
    rule = NormAnchor(samples=2, dropped=0.0)
    made = make_memit(model, regularizers={"norm_anchor": rule})
    made.prepare(model, FACTS)
    groups = made.contexts.groups(model)
    sample = optimizer().find(model, FACTS[:2], (("{}",),), [1], Regularizer())
    norms = (sample.vectors - sample.initial + sample.written).norm(dim=2)
    assert rule.reference.tolist() == pytest.approx([float(norms.mean())])
    before = rule.reference
    perform(model, made, FACTS[:1])
    made.prepare(model, FACTS[1:])
    assert rule.reference == before
    found = optimizer().find(model, FACTS, groups, [1], Regularizer())
    aimed = rule.aim(found)
    values = aimed.vectors - aimed.initial + aimed.written
    torch.testing.assert_close(values.norm(dim=2), before.expand(len(FACTS), 1))
    original = found.vectors - found.initial + found.written
    cosine = torch.nn.functional.cosine_similarity(values, original, dim=2)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_the_anchor_excludes_the_longest_and_drops_outliers():
    """Targets beyond the limit are dropped."""
    vectors = torch.diag(torch.tensor([1.0, 2.0, 3.0, 50.0]))[:, None]
    steps, correct = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    found = Targets(vectors, 0 * vectors, 0 * vectors, vectors[0, 0], steps, correct)
    rule = NormAnchor(samples=4, dropped=0.25, limit=2.0)
    rule.calibrate(lambda facts: found, FACTS)
    assert rule.reference.tolist() == pytest.approx([2.0])
    initial = torch.full_like(vectors, 9.0)
    aimed = rule.aim(replace(found, vectors=vectors + initial, initial=initial))
    shifts = (aimed.vectors - initial).norm(dim=2)[:, 0]
    torch.testing.assert_close(shifts, torch.tensor([2.0, 2.0, 2.0, 0.0]))


# --- values -------------------------------------------------------------------------------------

WRONG = [
    (MPES, {"hits": 0}),
    (NormAnchor, {"samples": 0}),
    (NormAnchor, {"dropped": 1.0}),
    (NormAnchor, {"limit": 0.0}),
    (NormConstraint, {"weight": 0.0}),
    (NormConstraint, {"weight": -1.0}),
    (Rect, {"keep": 0.0}),
    (Rect, {"keep": 1.5}),
    (Prune, {"every": 0}),
    (NormReset, {"every": -1}),
    (SubspaceGuard, {"energy": 0.0}),
    (SubspaceGuard, {"energy": 1.0}),
    (Hypersphere, {"energy": -0.5}),
    (Hypersphere, {"strength": 0.0}),
    (Hypersphere, {"strength": 1.5}),
]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_values_that_cannot_be_are_refused_with_their_name(kind, value):
    ((name, wrong),) = value.items()
    with pytest.raises(ConfigError, match=rf"regularizer\..*{name}={wrong}"):
        kind(**value)


def tokens_of(model: Model, facts: Sequence[Fact]) -> torch.Tensor:
    """Inputs of the matrix at every token of prompt and target, one fact at a time."""
    keys = []
    for fact in facts:
        ids = tokenize_prompt(model.tokenizer, fact, target=fact.target_new).ids
        with capture(inputs={"h": model.module(*SITE)}) as read:
            model.hf(torch.tensor([ids]))
        keys.append(read["h"][0].detach())
    return torch.cat(keys).T.double()


def test_simie_fits_the_update_to_its_effect_on_all_tokens_so_far():
    """As published: P ← P + K Kᵀ, Δ′ = Δ K Kᵀ P⁻¹; an edit that is not applied leaves no trace."""
    model, rule = tiny_model(), SimIE(weight=2.0)
    weight = model.weight(*SITE)
    rule.prepare(model, [SITE])
    system = 2.0 * torch.eye(model.weight(*SITE).shape[1]).double()
    for facts, applied in ((FACTS[:1], True), (FACTS[1:], False), (FACTS[1:2], True), (FACTS, True)):
        delta = delta_of(model)
        rule.read(model, [SITE], facts)
        keys = tokens_of(model, facts)
        with_these = system + keys @ keys.T
        expected = delta.dense().double() @ keys @ keys.T @ torch.linalg.inv(with_these)
        torch.testing.assert_close(rule.finish(SITE, delta, weight, DUE).dense(), expected)
        if applied:
            rule.commit()
            system = with_these


def test_simie_keeps_an_update_on_its_own_tokens_as_less_is_asked_of_others():
    model, delta, gaps = tiny_model(), delta_of(tiny_model()), []
    keys = tokens_of(model, FACTS)
    for strength in (10.0, 1e-2, 1e-6):
        rule = SimIE(weight=strength)
        rule.prepare(model, [SITE])
        rule.read(model, [SITE], FACTS)
        change = (rule.finish(SITE, delta, model.weight(*SITE), DUE).dense() - delta.dense().double()) @ keys
        gaps.append(float(change.norm()))
    assert gaps == sorted(gaps, reverse=True) and gaps[2] < 1e-4 * gaps[0]
    with pytest.raises(ConfigError, match=r"regularizer\.simie\.weight=0\.0, but it has to be positive"):
        SimIE(weight=0.0)
