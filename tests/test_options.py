"""Lists of options: names, types, bounds and texts, refused or shown wherever they are given."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_type_hints

import pytest
import yaml

from ppvae.errors import PpvaeError
from ppvae.options import Options, given, option, with_options

LATE: list[str] = []


class Tea(Options):
    """A cup of tea."""

    leaves: str = option("green", "of the plant", one_of=lambda: ["green", "black", *LATE])
    minutes: float = option(3.0, "in the water", above=0, at_most=60)


class Sugar(Options):
    """What is added."""

    spoons: int | None = option(None, "of sugar; where None, a look into the bowl decides", at_least=0)
    kind: Literal["white", "brown"] = option("white", "of sugar")
    stirred: bool = option(True, "whether it is stirred")


class Cup(Tea, Sugar):
    """A cup, with all that goes into it."""

    guests: tuple[int, ...] | int = option((1, 2), "numbers of those who drink", at_least=0, called="guest")
    notes: dict[str, Any] = option({}, "of any kind")
    tastes: dict[str, dict[str, Any]] = option({}, "notes of each kind of leaves", one_of=("green", "black"))
    size: tuple[float, float] = option((8.0, 6.0), "height and width in cm", above=0)
    label: int | str | None = option(None, "by name or number")
    anything: Any = option(None, "whatever it is")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spoons and self.leaves == "green":
            raise PpvaeError("green tea takes no sugar: remove spoons")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a word for a number": ({"minutes": "long"}, "minutes must be a finite number > 0 and ≤ 60, got 'long'"),
    "NaN": ({"minutes": float("nan")}, "minutes must be a finite number > 0 and ≤ 60, got nan"),
    "infinity": ({"minutes": float("inf")}, "minutes must be a finite number > 0 and ≤ 60, got inf"),
    "a number beyond floats": ({"minutes": 10**400}, "minutes must be a finite number > 0 and ≤ 60, got 1000"),
    "the open bound": ({"minutes": 0}, "minutes must be a finite number > 0 and ≤ 60, got 0"),
    "above the bound": ({"minutes": 61}, "minutes must be a finite number > 0 and ≤ 60, got 61"),
    "True for a number": ({"minutes": True}, "minutes must be a finite number > 0 and ≤ 60, got True"),
    "None where it has no meaning": ({"minutes": None}, "minutes must be a finite number > 0 and ≤ 60, got None"),
    "a float for a whole number": ({"spoons": 1.0}, "spoons must be a whole number ≥ 0, got 1.0"),
    "False for a whole number": ({"spoons": False}, "spoons must be a whole number ≥ 0, got False"),
    "below the bound": ({"spoons": -1}, "spoons must be a whole number ≥ 0, got -1"),
    "an unknown word": ({"leaves": "gren"}, "unknown leaves 'gren': did you mean 'green'? known: green, black"),
    "a number for a word": ({"leaves": 3}, "unknown leaves 3: known: green, black"),
    "an unknown literal": ({"kind": "browne"}, "unknown kind 'browne': did you mean 'brown'? known: white, brown"),
    "a number for a flag": ({"stirred": 1}, "stirred must be True or False, got 1"),
    "an element of a list": ({"guests": [1, -1]}, "guest must be a whole number ≥ 0, got -1"),
    "one below the bound": ({"guests": -1}, "guests must be a whole number ≥ 0, got -1"),
    "a word for a list": (
        {"guests": "12"}, "guests must be a list, each a whole number or a whole number, got '12'",
    ),
    "a list for a mapping": ({"notes": [1]}, "notes must be a mapping of options to values, got [1]"),
    "a name that is a number": ({"notes": {1: 2}}, "the names in notes must be words, got 1"),
    "a word inside a mapping": ({"tastes": {"green": "mild"}}, "tastes of green must be a mapping of options"),
    "an unknown name in a mapping": ({"tastes": {"geen": {}}}, "unknown tastes 'geen': did you mean 'green'?"),
    "a list of another length": ({"size": [1.0]}, "size must be a list of a number and a number, got [1.0]"),
    "an element of fixed length": ({"size": [1.0, 0]}, "size must be a finite number > 0, got 0"),
    "a list for a word or a number": ({"label": [1]}, "label must be a whole number or a word, got [1]"),
    "options that do not go together": ({"spoons": 1}, "green tea takes no sugar: remove spoons"),
    "an unknown option": ({"minute": 1}, "unknown option 'minute': did you mean 'minutes'? known: leaves, minutes, "),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_in_one_line(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(PpvaeError) as caught:
        Cup.of(changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_option_but_that_of_any_kind_refuses_something() -> None:
    tried = {name for changes, _ in REFUSED.values() for name in changes}
    assert tried >= Cup.options().keys() - {"anything"}


def test_values_take_the_type_of_their_option() -> None:
    cup = Cup(minutes=2, guests=range(3), size=[1, 2], spoons=None, label="mine")  # pyright: ignore[reportArgumentType]
    assert (cup.minutes, type(cup.minutes)) == (2.0, float)
    assert cup.guests == (0, 1, 2)
    assert cup.size == (1.0, 2.0)
    assert Cup(guests=5).guests == 5
    assert Cup(label=3).label == 3


def test_options_are_frozen_and_own_their_mappings() -> None:
    notes = {"a": 1}
    cup = Cup(notes=notes)
    notes["a"] = 2
    assert cup.notes == {"a": 1}
    assert Cup().notes is not Cup().notes
    with pytest.raises(AttributeError):
        cup.minutes = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_of_takes_none_a_mapping_and_the_options_themselves() -> None:
    cup = Cup.of({"minutes": 5, "leaves": "black"}, spoons=2)
    assert (cup.minutes, cup.leaves, cup.spoons) == (5.0, "black", 2)
    assert Cup.of(None) == Cup()
    assert Cup.of(cup) is cup
    assert Cup.of(cup, spoons=None).changed() == {"minutes": 5.0, "leaves": "black"}
    assert cup.replace(minutes=3).changed() == {"leaves": "black", "spoons": 2}
    for wrong in (5, "green", Tea()):
        with pytest.raises(PpvaeError, match="Cup takes a Cup or a mapping, got"):
            Cup.of(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PpvaeError, match="did you mean 'spoons'"):
        cup.replace(spoon=1)


def test_names_that_become_known_later_are_taken() -> None:
    LATE.append("oolong")
    try:
        assert Tea(leaves="oolong").leaves == "oolong"
        assert Tea.options()["leaves"].known() == ["green", "black", "oolong"]
    finally:
        LATE.remove("oolong")
    with pytest.raises(PpvaeError, match="unknown leaves 'oolong'"):
        Tea(leaves="oolong")


def test_the_options_of_several_lists_come_in_the_order_of_reading() -> None:
    names = ["leaves", "minutes", "spoons", "kind", "stirred", "guests", "notes", "tastes", "size", "label", "anything"]
    assert list(Cup.options()) == names
    assert list(Cup().plain()) == names
    assert list(inspect.signature(Cup).parameters) == names
    assert repr(Cup(label=3, minutes=1)) == "Cup(minutes=1.0, label=3)"


def test_plain_values_survive_yaml() -> None:
    cup = Cup(leaves="black", notes={"deep": {"a": (1, 2)}}, anything=Path("a/b"), guests=(3,))
    again = Cup.of(yaml.safe_load(yaml.safe_dump(cup.plain())))
    assert again == cup.replace(notes={"deep": {"a": [1, 2]}}, anything="a/b")
    with pytest.raises(PpvaeError, match="notes 'f' is a function, which cannot be saved as plain YAML"):
        Cup(notes={"f": test_plain_values_survive_yaml}).replace(notes={"f": _function}).plain()


def _function() -> None: ...


def test_the_text_of_an_option_is_shown_once_wherever_it_is_read() -> None:
    doc = inspect.getdoc(Cup) or ""
    assert doc.startswith("A cup, with all that goes into it.\n\nArgs:\n    leaves: of the plant.\n    minutes: in ")
    for name, each in Cup.options().items():
        assert doc.count(f"    {name}: ") == 1
        assert each.text.split()[-1] in doc


@with_options(Cup)
def serve(room: str, leaves: str | None = None, *, loud: bool = False, **changes: Any) -> Cup:
    """Serve a cup.

    Args:
        room: where it is served,
            with the floor.
        loud: whether it is announced.
        changes: see `Cup`.

    Raises:
        PpvaeError: there is none.
    """
    return Cup.of(given(leaves=leaves), **changes)


def test_a_function_shows_the_options_that_it_takes() -> None:
    parameters = inspect.signature(serve).parameters
    assert list(parameters) == ["room", "leaves", "loud", *(name for name in Cup.options() if name != "leaves")]
    assert "changes" not in parameters
    assert parameters["leaves"].default == "green"
    assert parameters["leaves"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert parameters["spoons"].annotation == (int | None)
    assert get_type_hints(serve)["minutes"] is float
    doc = inspect.getdoc(serve) or ""
    assert (
        "    room: where it is served,\n        with the floor.\n    loud: whether it is announced.\n    leaves:" in doc
    )
    assert "changes" not in doc
    assert doc.endswith("Raises:\n    PpvaeError: there is none.")
    for name in Cup.options():
        assert doc.count(f"\n    {name}: ") == 1
    assert serve("kitchen", "black", spoons=1).spoons == 1
    assert serve("kitchen") == Cup()
    with pytest.raises(PpvaeError, match="did you mean 'minutes'"):
        serve("kitchen", minuets=3)


def test_given_drops_what_is_none() -> None:
    assert given(a=None, b=0, c=False, d="") == {"b": 0, "c": False, "d": ""}


HEAVY = ("torch", "numpy", "pyro", "scipy", "matplotlib", "xarray")


@pytest.mark.parametrize(
    "module", ["options", "training.settings", "training.optimisers", "data.options", "comparison.options"]
)
def test_lists_of_options_load_nothing_heavy(module: str) -> None:
    code = f"""
import importlib, sys
module = importlib.import_module("ppvae.{module}")
for each in list(vars(module).values()):
    if isinstance(each, type) and hasattr(each, "plain"):
        each.of().plain()
print(",".join(name for name in {HEAVY} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == ""
