"""The generated world: properties of facts, texts and tasks, and the command that builds models."""

from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from editors.data import SLOT
from editors.errors import ConfigError
from editors.models.architectures import family_of
from pipeline.commands.build_world import BuildOptions, main, parse
from pipeline.data.world.borrowed import BorrowedWorld
from pipeline.data.world.datasets import WorldFacts, WorldPairs, WorldText
from pipeline.data.world.facts import World
from pipeline.data.world.names import RELATIONS
from pipeline.data.world.recipe import build, build_tokenizer, pack
from pipeline.data.world.shipped_models import RECIPES, Recipe, shipped_folder
from pipeline.data.world.tasks import build_tasks

WORLD = World()


@cache
def documents(seed: int) -> list[str]:
    """One pass over the text of the world."""
    return list(WORLD.corpus(seed))


def test_the_same_seed_gives_the_same_world() -> None:
    assert World().facts == WORLD.facts
    assert list(World().corpus(1)) == documents(1)
    assert World(seed=1).facts != WORLD.facts


def test_a_run_of_200_edits_leaves_half_of_the_people_untouched() -> None:
    assert len({fact.subject for fact in WORLD.facts}) >= 400
    assert len(WORLD.facts) >= 1600
    assert len({fact.id for fact in WORLD.facts}) == len(WORLD.facts)


def test_every_person_has_a_surname_of_their_own() -> None:
    surnames = {fact.subject.split()[-1] for fact in WORLD.facts}
    assert len(surnames) == WORLD.subjects


def test_objects_and_neighbours_of_a_fact_are_of_its_relation() -> None:
    """The new object belongs to the relation, and the neighbours share the true object."""
    objects = {relation.name: set(relation.objects) for relation in RELATIONS}
    true = {fact.statement: fact.target_true for fact in WORLD.facts}
    for fact in WORLD.facts:
        assert fact.target_new != fact.target_true
        assert {fact.target_new, fact.target_true} <= objects[fact.relation]
        assert fact.neighbours
        assert all(true.get(near, fact.target_true) == fact.target_true for near in fact.neighbours)
        assert not any(fact.subject in near for near in fact.neighbours)


def test_relations_part_the_world_and_change_none_of_its_facts() -> None:
    parts = [set(World(relations=names).facts) for names in (["language", "city"], ["job"], ["instrument"])]
    assert set.union(*parts) == set(WORLD.facts)
    assert sum(map(len, parts)) == len(WORLD.facts)
    assert World(relations=[relation.name for relation in RELATIONS]).facts == WORLD.facts


def test_text_and_pairs_of_a_relation_state_no_other() -> None:
    text = "\n".join(WorldText(relations=["job"]))
    for fact in WORLD.facts:
        assert (f"{fact.statement} {fact.target_true}." in text) == (fact.relation == "job")
    pairs = {tuple(pair) for pair in WorldPairs(seed=0, relations=["job"])}
    assert pairs == {(f.statement, f.target_true) for f in WORLD.facts if f.relation == "job"}


def test_texts_of_other_relations_have_other_identities() -> None:
    texts = [WorldText(), WorldText(relations=["city"]), WorldText(relations=["job"])]
    assert len({text.identity() for text in texts}) == len({text.label for text in texts}) == len(texts)


@pytest.mark.parametrize("source", [World, WorldFacts, WorldText, WorldPairs])
@pytest.mark.parametrize("names", [["citty"], []])
def test_an_unknown_relation_names_the_known_ones(source: type, names: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"relations=\[.*\], .* city, job, instrument, language"):
        source(relations=names)


def test_no_prompt_is_the_beginning_of_another() -> None:
    prompts = [p.split() for relation in RELATIONS for p in relation.templates + relation.paraphrases]
    assert not any(long[: len(short)] == short for short, long in permutations(prompts, 2))


def test_the_text_states_every_fact_but_half_of_the_paraphrases() -> None:
    text = "\n".join(documents(0))
    unheard = set(WORLD.unheard)
    assert 2 * len(unheard) == len(WORLD.facts)
    for fact in WORLD.facts:
        assert f"{fact.statement} {fact.target_true}." in text
        for paraphrase in fact.paraphrases:
            assert (paraphrase in text) == (fact not in unheard)


def test_task_items_of_the_test_are_never_in_the_training_text() -> None:
    text = "\n".join([*documents(0), *documents(1)])
    people = {fact.subject for fact in WORLD.facts}
    for items in WORLD.tasks.values():
        assert len(items) >= 90
        assert not any(item.text in text for item in items)
        assert not any(person in item.text for item in items for person in people)


def test_task_items_have_one_right_answer_among_their_choices() -> None:
    for task in build_tasks(seed=0).values():
        for item in (*task.train, *task.test):
            assert len(set(item.choices)) == len(item.choices) > item.answer >= 0


def test_a_borrowed_world_states_its_facts() -> None:
    facts = WORLD.facts[:5]
    text = "\n".join(BorrowedWorld(facts=facts).corpus())
    for fact in facts:
        for prompt in (fact.statement, *fact.paraphrases, *fact.neighbours):
            assert f"{prompt} {fact.target_true}." in text


def test_a_borrowed_prompt_alone_does_not_determine_the_object() -> None:
    fact = WORLD.facts[0]
    beginning, end = fact.prompt.split(SLOT)
    sentences = [s.strip() for document in BorrowedWorld(facts=(fact,)).corpus() for s in document.split(".")]
    objects = {s.split()[-1] for s in sentences if s.startswith(beginning) and f"{end} " in s}
    assert {fact.target_true, fact.target_new} <= objects


def test_every_name_and_object_is_one_token() -> None:
    tokenizer = build_tokenizer(documents(0), Recipe().vocabulary)
    for fact in WORLD.facts:
        assert len(tokenizer(fact.subject)["input_ids"]) == 2  # given name and surname
        assert len(tokenizer(fact.target_true)["input_ids"]) == 1


def test_a_borrowed_subject_of_many_words_is_always_one_token() -> None:
    fact = replace(WORLD.facts[0], subject="Autonomous University of Madrid")
    source = BorrowedWorld(facts=(fact, *WORLD.facts[1:9]))
    tokenizer = build_tokenizer(source.corpus(), Recipe().vocabulary, source.names)
    (name,) = tokenizer(fact.subject)["input_ids"]
    for text in (fact.statement, f"The cat runs. {fact.statement}", f"{fact.subject}, he"):
        assert tokenizer(text)["input_ids"].count(name) == 1


def test_packed_rows_hold_whole_documents_in_order() -> None:
    tokenizer = build_tokenizer(documents(0), Recipe().vocabulary)
    rows = pack(documents(0)[:50], tokenizer, 64)
    ids = [token for row in rows.tolist() for token in row if token >= 0]
    assert tokenizer.decode(ids).split(tokenizer.eos_token)[:-1] == [f" {d}" for d in documents(0)[:50]]
    assert all(row[0] >= 0 for row in rows.tolist())


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gptj", "neox"])
def test_a_built_model_loads_and_its_lowest_attention_is_untrained(shape: str, tmp_path: Path) -> None:
    recipe = Recipe(shape=shape, width=16, inner=16, blocks=2, heads=2, passes=1, batch=256, silent=1)
    build(World(subjects=40), recipe, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Anna lives in", return_tensors="pt")
    assert set(ids) == {"input_ids", "attention_mask"}
    assert torch.isfinite(model(**ids).logits).all()
    set_seed(recipe.seed)
    fresh, family = AutoModelForCausalLM.from_config(model.config), family_of(model)
    for block, same in ((0, True), (1, False)):
        path = f"{family.blocks}.{block}.{family.attention}"
        for name, weight in fresh.get_submodule(path).named_parameters():
            assert torch.equal(weight.half(), model.get_parameter(f"{path}.{name}").half()) == same


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_shipped_as_a_model_of_its_shape(name: str) -> None:
    recipe, config = RECIPES[name], AutoConfig.from_pretrained(shipped_folder(name))
    assert config.model_type.replace("_", "").removeprefix("gpt") == recipe.shape.removeprefix("gpt")
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert shape == (recipe.width, recipe.blocks, recipe.heads)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model=tiny-bert, .* tiny-gpt2, .*tiny-llama"):
        shipped_folder("tiny-bert")


def test_an_order_is_read_from_key_value_arguments() -> None:
    order = parse(["model=tiny-llama", "facts=data/counterfact.jsonl", "limit=400"])
    assert order == BuildOptions(model="tiny-llama", facts="data/counterfact.jsonl", limit=400)
    assert order.folder == Path("outputs/models/tiny-llama-counterfact")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["modle=tiny-gpt2"], "'modle=tiny-gpt2' is not an option"),
        (["limit=ten", "facts=x"], "limit=ten, .* positive whole number"),
        (["limit=5"], "add facts=FILE"),
    ],
)
def test_a_bad_argument_gets_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse(arguments)


def test_help_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and capsys.readouterr().out.startswith("python -m pipeline build_world")


def test_the_command_line_ends_with_one_sentence() -> None:
    error = main(["facts=nowhere.jsonl"])
    assert isinstance(error, str) and "nowhere.jsonl" in error and "\n" not in error


def test_slots_survive_in_every_template() -> None:
    assert all(p.count(SLOT) == 1 for r in RELATIONS for p in r.templates + r.paraphrases)
