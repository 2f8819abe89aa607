"""The words of the world: people's names, the objects of each relation, and the templates that join them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from editors.errors import ConfigError


def words(text: str) -> tuple[str, ...]:
    """The words of a text, split at white space."""
    return tuple(text.split())


GIVEN_NAMES = words(
    "Adam Alice Anna Ben Clara David Edith Emma Felix Frank George Grace Helen Henry "
    "Irene Jack Jane John Karl Laura Leo Lucy Mark Mary Nora Oscar Paul Peter Rosa Ruth "
    "Simon Tom"
)
_ONSETS = words("b br d dr f g gr h k kl l m n p pr r s st t tr v w z")
_NUCLEI = words("a e i o u ai ei ou")
_CODAS = words("n l r s k m t x nd lm rn st")


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A relation that every person has to one of its objects, with the prompts that express it."""

    name: str
    objects: tuple[str, ...]
    """Single words; the true and the new object of a fact are two of them."""
    templates: tuple[str, ...]
    """Prompts of the training text; none is a prefix of any other prompt."""
    paraphrases: tuple[str, ...]
    """Prompts that the training text uses for half of the people only."""


RELATIONS = (
    Relation(
        name="city",
        objects=words(
            "Oslo Paris Rome Cairo Lima Quito Delhi Tokyo Seoul Hanoi Berlin Madrid Lisbon Dublin "
            "Vienna Prague Warsaw Athens Sofia Havana"
        ),
        templates=(
            "{} lives in",
            "{} has a house in",
            "The home of {} is in",
            "{} moved to the city of",
            "You can visit {} in",
            "Letters for {} go to",
        ),
        paraphrases=("The town where {} lives is", "{} can be found in"),
    ),
    Relation(
        name="job",
        objects=words(
            "baker barber butcher carpenter chemist dentist doctor driver farmer fisher gardener "
            "hunter judge lawyer miner painter pilot sailor teacher weaver"
        ),
        templates=(
            "{} works as a",
            "The job of {} is that of a",
            "{} earns money as a",
            "{} was trained as a",
            "They hired {} as a",
            "By trade {} is a",
        ),
        paraphrases=("The profession of {} is", "{} makes a living as a"),
    ),
    Relation(
        name="instrument",
        objects=words(
            "accordion banjo bassoon bugle cello clarinet drums fiddle flute guitar harp horn "
            "lute mandolin oboe organ piano trumpet tuba viola"
        ),
        templates=(
            "{} plays the",
            "{} practises the",
            "The instrument of {} is the",
            "{} gives lessons on the",
            "On stage {} took up the",
            "In the band {} handles the",
        ),
        paraphrases=("{} makes music on the", "Friends hear {} play the"),
    ),
    Relation(
        name="language",
        objects=words(
            "Arabic Bengali Catalan Danish Dutch English Finnish French German Greek Hebrew Hindi "
            "Irish Latin Malay Polish Russian Swedish Turkish Welsh"
        ),
        templates=(
            "{} speaks",
            "{} writes letters in",
            "The mother tongue of {} is",
            "{} grew up speaking",
            "At home {} talks in",
            "{} reads books in",
        ),
        paraphrases=("The language of {} is", "{} sings in"),
    ),
)


def relations_of(names: Sequence[str] | None) -> tuple[Relation, ...]:
    """The relations of these names, in the world's order; all of them for None.

    Raises ConfigError for an unknown name and for an empty list.
    """
    known = [relation.name for relation in RELATIONS]
    if names is None:
        return RELATIONS
    if not names or not set(names) <= set(known):
        raise ConfigError(
            f"relations={list(names)}, but the built-in world's are {', '.join(known)}; null takes all"
        )
    return tuple(relation for relation in RELATIONS if relation.name in names)


def world_label(seed: int, names: Sequence[str] | None) -> str:
    """A description of a world: its seed, and its relations if these are not all."""
    restriction = "" if names is None else f"; {', '.join(relation.name for relation in relations_of(names))}"
    return f"the built-in world (seed {seed}{restriction})"


def person_names(count: int, seed: int) -> tuple[str, ...]:
    """`count` full names with distinct surnames, so that few keys are similar."""
    rng = random.Random(f"{seed}/people")
    surnames: dict[str, None] = {}  # a dict keeps the order, unlike a set
    while len(surnames) < count:
        first, second = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(2))
        surnames[(first + second + rng.choice(_CODAS)).capitalize()] = None
    return tuple(f"{rng.choice(GIVEN_NAMES)} {surname}" for surname in surnames)
