"""MEND's update is what its equation says, and only a hypernetwork that fits the model is used."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from editors.base import Editor
from editors.errors import ConfigError, DataError, NumericsError
from editors.methods.mend.editor import MEND
from editors.methods.mend.files import Origin, from_published, load, save, shapes_of
from editors.methods.mend.network import Design, Hypernetwork, nonzero_tokens
from editors.models.gradients import TokenGradients, read_targets
from editors.models.model import Model
from editors.regularizers.mpes import MPES
from editors.regularizers.norm_reset import NormReset
from editors.regularizers.rect import Rect
from editors.updates import Site
from tests.editors.cases import EDITORS, make_hypernetwork, make_mend
from tests.tiny import FACTS, tiny_model

SITES = [Site("mlp_up", 2), Site("mlp_down", 2), Site("mlp_up", 3), Site("mlp_down", 3)]
DESIGNS = pytest.mark.parametrize("shared", [True, False])
COMBINED = pytest.mark.parametrize("combine", [True, False])


def gradients_of(model: Model, *numbers: int) -> dict[Site, TokenGradients]:
    facts = [FACTS[number] for number in numbers]
    reading = read_targets(model, facts, "teacher_forced", 2)
    evaluation = reading.evaluate(SITES)
    return evaluation.gradients((evaluation.losses / reading.lengths).sum())


def plain_update(network: Hypernetwork, site: Site, matrix: TokenGradients, seen: Tensor) -> Tensor:
    """Token after token, as the published loop reads; `seen` are the rows that the statistics are of."""
    design = network.design
    member = [s for s in network.shapes if network.shapes[s] == network.shapes[site]].index(site)
    state = {key: value.double() for key, value in network.state_dict().items()}
    wide, out = network.shapes[site]
    group = f"{wide}x{out}" if design.shared else str(site).replace(".", "_")
    total = torch.zeros(out, wide, dtype=torch.float64)
    for x, delta in zip(matrix.keys.double(), matrix.outputs.double(), strict=True):
        if not x.any() or not delta.any():
            continue
        whole = (torch.cat([x, delta]) - seen.mean(dim=0)) / (seen.std(dim=0) + 1e-7)
        parts = [whole] if design.combine else [whole[:wide], whole[wide:]]
        for i, y in enumerate(parts):
            for layer in range(2):
                name = f"groups.{group}.parts.{i}.{layer}"
                change = state[f"{name}.u"] @ (state[f"{name}.v"] @ y) + state[f"{name}.bias"]
                if design.shared:
                    change = state[f"{name}.scale"][member] * change + state[f"{name}.shift"][member]
                y = y + change.clamp(min=0)
            parts[i] = y
        made = torch.cat(parts)
        total += torch.outer(made[wide:], made[:wide])
    return state["step_sizes"][list(network.shapes).index(site)] * total


@DESIGNS
@COMBINED
def test_an_update_is_the_plain_loop_over_tokens(shared: bool, combine: bool):
    model = tiny_model()
    network = make_hypernetwork(model, SITES, shared=shared, combine=combine)
    gradients = gradients_of(model, 0)
    update = network.update(gradients)
    reading = read_targets(model, FACTS, "teacher_forced", 2).evaluate(SITES)
    seen = {site: nonzero_tokens(matrix) for site, matrix in reading.gradients(reading.losses.sum()).items()}
    for site, delta in update.items():
        alike = [s for s in SITES if shared and network.shapes[s] == network.shapes[site]] or [site]
        rows = torch.cat([torch.cat([seen[s].keys, seen[s].outputs], dim=1) for s in alike])
        expected = plain_update(network, site, gradients[site], rows)
        torch.testing.assert_close(delta.dense().double(), expected, rtol=1e-4, atol=1e-8)


def test_an_untrained_update_is_the_standardised_gradient():
    """It is scaled by the step size."""
    model = tiny_model()
    network = Hypernetwork(shapes_of(model, SITES), Design(rank=4, step_size=0.01))
    gradients = gradients_of(model, 0)
    for group in network.groups.values():
        group.count.fill_(2)  # a deviation of 1 and a mean of 0: what is standardised stays as it is
        group.square.fill_(1)
    network.eval()
    for site, delta in network.update(gradients).items():
        expected = 0.01 * gradients[site].weight_gradient()
        torch.testing.assert_close(delta.dense().double(), expected, rtol=1e-5, atol=1e-8)


def test_few_tokens_stay_factors_and_many_become_a_matrix():
    """Both have the same values."""
    model = tiny_model()
    network = make_hypernetwork(model, SITES)
    gradients = gradients_of(model, 0)
    few = network.update(gradients)
    many = network.update(
        {s: TokenGradients(p.keys.repeat(4, 1), p.outputs.repeat(4, 1)) for s, p in gradients.items()}
    )
    for site in SITES:
        assert few[site].right is not None and few[site].right.shape[1] <= len(gradients[site].keys)
        torch.testing.assert_close(many[site].dense(), 4 * few[site].dense(), rtol=1e-4, atol=1e-8)
    assert many[SITES[0]].right is None


def test_the_update_of_a_batch_is_the_sum_of_those_of_its_facts():
    model = tiny_model()
    made = make_mend(model)
    made.prepare(model)
    together = made.edit(model, FACTS).update
    alone = [made.edit(model, [fact]).update for fact in FACTS]
    for site, delta in together.items():
        expected = sum(each[site].dense() for each in alone)
        torch.testing.assert_close(delta.dense(), expected, rtol=1e-4, atol=1e-7)


def test_tokens_that_nothing_is_learnt_from_are_left_out():
    keys, gradients = torch.ones(3, 2), torch.ones(3, 4)
    keys[0], gradients[1] = 0, 0
    assert nonzero_tokens(TokenGradients(keys, gradients)).keys.shape == (1, 2)


@pytest.mark.parametrize("family", ["llama", "neox"])
def test_every_matrix_of_a_gated_or_parallel_block_can_be_edited(family: str):
    model = tiny_model(family)
    matrices = [name for name in model.sites if name.startswith("mlp") or name == "attn_v"]
    made = make_mend(model, matrices=matrices)
    made.prepare(model)
    assert {site.name for site in made.edit(model, FACTS).update} == set(matrices)


def test_a_matrix_that_the_model_does_not_have_is_named():
    model = tiny_model()
    with pytest.raises(ConfigError, match="mlp_gate"):
        MEND(name="mend", layers=[1], matrices=["mlp_gate"]).prepare(model)


def test_only_an_editor_that_was_trained_says_so():
    model = tiny_model()
    trained = {name: make(model).trained for name, make in EDITORS.items()}
    assert [name for name, said in trained.items() if said] == ["mend"]


def test_regularizers_act_on_the_update_and_those_of_targets_are_refused():
    model = tiny_model()
    plain, shaped = make_mend(model), make_mend(model, regularizers={"rect": Rect(keep=0.1)})
    for made in (plain, shaped):
        made.prepare(model)
    before, after = (made.edit(model, FACTS[:1]).update[SITES[0]].dense() for made in (plain, shaped))
    assert 0 < int((after != 0).sum()) < int((before != 0).sum())
    make_mend(model, regularizers={"norm_reset": NormReset()}).prepare(model)
    with pytest.raises(ConfigError, match="mpes"):
        make_mend(model, regularizers={"mpes": MPES(hits=2)})


def test_an_update_that_is_no_number_is_refused():
    model = tiny_model()
    made = make_mend(model)
    made.prepare(model)
    made.hypernetwork.step_sizes.data[1] = float("nan")
    with pytest.raises(NumericsError, match=r"mlp_down\.02 .* nothing was changed"):
        made.edit(model, FACTS[:1])


# --- files -------------------------------------------------------------------------------------------


def filed(model: Model, folder: Path, **changes: object) -> tuple[MEND, Path]:
    """An editor whose hypernetwork is where it looks."""
    made = MEND(name="mend", layers=[2, 3], rank=4, step_size=-1e-4, folder=str(folder), **changes)
    path = made.file(model)
    network = make_hypernetwork(model, made.sites)
    trained_on, validation = {"training": asdict(made.training)}, {"success": 0.9}
    origin = Origin(model=model.name, digest=model.digest, trained_on=trained_on, validation=validation)
    save(network, path, origin)
    return made, path


def test_a_saved_hypernetwork_is_found_and_gives_the_same_bits(tmp_path: Path):
    model = tiny_model()
    made, path = filed(model, tmp_path)
    direct = make_mend(model)
    for editor in (made, direct):
        editor.prepare(model)
    one, other = (editor.edit(model, FACTS[:1]).update for editor in (made, direct))
    assert all(torch.equal(one[site].dense(), other[site].dense()) for site in one)
    assert load(path)[1].validation == {"success": 0.9}


def test_a_missing_hypernetwork_is_named_with_the_command_that_trains_it(tmp_path: Path):
    model = tiny_model()
    made = MEND(name="mend", layers=[2], folder=str(tmp_path))
    command = "python -m pipeline intervention=hypernetwork editor=mend model=tiny-gpt2"
    with pytest.raises(ConfigError, match=re.escape(command)):
        made.prepare(model)
    with pytest.raises(ConfigError, match=r"no such file"):
        MEND(name="mend", layers=[2], path=str(tmp_path / "none.safetensors")).prepare(model)


def test_the_file_of_other_settings_or_another_model_is_another_one(tmp_path: Path):
    model = tiny_model()
    made, path = filed(model, tmp_path)
    others = [
        MEND(name="mend", layers=[2, 3], rank=5, folder=str(tmp_path)).file(model),
        MEND(name="mend", layers=[3], rank=4, folder=str(tmp_path)).file(model),
        replace(made, training=replace(made.training, seed=1)).file(model),
        made.file(tiny_model("llama")),
    ]
    assert len({path, *others}) == 5
    assert replace(made, regularizers={"rect": Rect()}).file(model) == path


def test_a_hypernetwork_of_another_model_or_other_matrices_is_refused(tmp_path: Path):
    model = tiny_model()
    _, path = filed(model, tmp_path)
    changed = tiny_model()
    changed.write(Site("mlp_down", 0), changed.weight("mlp_down", 0) * 2)
    with pytest.raises(ConfigError, match=r"trained on tiny-gpt2 \(digest"):
        MEND(name="mend", layers=[2, 3], path=str(path)).prepare(changed)
    with pytest.raises(ConfigError, match=r"edits mlp_up\.02"):
        MEND(name="mend", layers=[1, 2], path=str(path)).prepare(model)
    with pytest.raises(ConfigError, match="other matrices"):
        MEND(name="mend", layers=[3], hypernetwork=make_hypernetwork(model, SITES)).prepare(model)


def test_a_broken_file_is_told_in_a_sentence(tmp_path: Path):
    model, path = tiny_model(), tmp_path / "broken.safetensors"
    for content in (b"", b"nonsense" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no hypernetwork"):
            MEND(name="mend", layers=[2], path=str(path)).prepare(model)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(DataError, match="is no hypernetwork"):
        MEND(name="mend", layers=[2], path=str(path)).prepare(model)


def test_a_file_with_one_flipped_bit_is_refused(tmp_path: Path):
    model = tiny_model()
    made, path = filed(model, tmp_path)
    content = bytearray(path.read_bytes())
    content[-9] ^= 16
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged.* train it again"):
        made.prepare(model)


def test_a_file_under_the_name_of_other_settings_is_refused(tmp_path: Path):
    model = tiny_model()
    made, path = filed(model, tmp_path)
    other = replace(made, rank=5, folder=str(tmp_path))
    path.rename(other.file(model))
    with pytest.raises(DataError, match=r"other settings than its name says"):
        other.prepare(model)
    MEND(name="mend", layers=[2, 3], path=str(other.file(model))).prepare(model)


# --- files of the published code ---------------------------------------------------------------------


def published(network: Hypernetwork) -> dict[str, Tensor]:
    """The same tensors under the published names, for a shared network of the matrices in `SITES`."""
    found = {"edit_lrs": network.step_sizes.detach()}
    for group, members in network.members().items():
        prefix, (wide, _) = f"mend.{network.shapes[members[0]]}", network.shapes[members[0]]
        state = {key.removeprefix(f"groups.{group}."): v for key, v in network.state_dict().items()}
        found[f"{prefix}.k"] = state["count"].reshape(1).float()
        for ours, theirs in (("mean", "mean"), ("square", "s")):
            found[f"{prefix}.u_{theirs}"], found[f"{prefix}.v_{theirs}"] = (
                state[ours].float().tensor_split([wide])
            )
        for layer in range(2):
            for ours, theirs in (("u", "u"), ("v", "v"), ("bias", "bias")):
                found[f"{prefix}.mlp.layers.{layer}.{theirs}"] = state[f"parts.0.{layer}.{ours}"]
            for name in ("scale", "shift"):
                found[f"{prefix}.mlp.layers.{layer}.mode_{name}.weight"] = state[f"parts.0.{layer}.{name}"]
    return found


@pytest.mark.parametrize("nested", [True, False])
def test_a_published_checkpoint_gives_the_updates_it_was_trained_for(tmp_path: Path, nested: bool):
    model, path = tiny_model(), tmp_path / "mend-1tok-gpt2.pt"
    network = make_hypernetwork(model, SITES)
    state = published(network)
    torch.save({"model": state} if nested else state, path)
    made = MEND(name="mend", layers=[2, 3], rank=4, path=str(path))
    made.prepare(model)
    update, expected = made.edit(model, FACTS[:1]).update, network.update(gradients_of(model, 0))
    for site, delta in update.items():
        torch.testing.assert_close(delta.dense(), expected[site].dense(), rtol=1e-4, atol=1e-8)


def test_a_published_checkpoint_of_another_design_is_refused(tmp_path: Path):
    """The message names the difference."""
    model, path = tiny_model(), tmp_path / "mend.pt"
    torch.save({"model": published(make_hypernetwork(model, SITES))}, path)
    with pytest.raises(ConfigError, match=r"editor\.rank=8"):
        MEND(name="mend", layers=[2, 3], rank=8, path=str(path)).prepare(model)
    with pytest.raises(ConfigError, match=r"has no mend\.\(32, 128\)\.mlp1"):
        MEND(name="mend", layers=[2, 3], rank=4, combine=False, path=str(path)).prepare(model)
    with pytest.raises(ConfigError, match=r"has no edit_lrs|has no mend\.transformer#h#2#mlp#c_fc#weight"):
        from_published({"edit_lrs": torch.ones(1)}, model, shapes_of(model, SITES), Design(shared=False))


class Surprise:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("surprise"),))


def test_a_checkpoint_that_holds_more_than_tensors_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    model, path = tiny_model(), tmp_path / "mend.pt"
    torch.save({"model": {"config": Surprise()}}, path)
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        MEND(name="mend", layers=[2, 3], path=str(path)).prepare(model)
    assert not Path("surprise").exists()
    for content in ({"model": {"a": torch.ones(1)}}, [torch.ones(1)]):
        torch.save(content, path)
        with pytest.raises(DataError, match="edit_lrs"):
            MEND(name="mend", layers=[2, 3], path=str(path)).prepare(model)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        MEND(name="mend", layers=[2, 3], path=str(path)).prepare(model)


def test_it_is_an_editor():
    assert isinstance(make_mend(tiny_model()), Editor)
