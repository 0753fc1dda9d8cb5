"""The options of a comparison: what is refused where they are made, and where a setting of a fit goes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ppvae.comparison.options import CompareOptions, JudgeOptions, from_earlier_comparison, of_fit
from ppvae.errors import PpvaeError
from ppvae.training.settings import Settings

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no models": ({"models": []}, "models is empty: name at least one"),
    "numbers for models": ({"models": 5}, "models must be names, got 5"),
    "a model twice": ({"models": ["ppca", "ppca"]}, "models names 'ppca' twice: name each once"),
    "a word for options": ({"models": {"ppca": 3}}, "options of ppca must be a mapping of options to values, got 3"),
    "no inference": ({"inference": []}, "inference is empty: name at least one"),
    "unknown inference": ({"inference": "amortised"}, "unknown inference 'amortised': did you mean 'amortized'"),
    "one of two": ({"inference": ["exact", "amortised"]}, "unknown inference 'amortised': did you mean 'amortized'"),
    "inference twice": ({"inference": ["exact", "exact"]}, "inference names 'exact' twice"),
    "a number for inference": ({"inference": 5}, "inference must be a word or a list, each a word, got 5"),
    "unknown family": ({"families": ["own", "low-rang"]}, "unknown family 'low-rang': did you mean 'low-rank'"),
    "two ways to name families": (
        {"families": ["own"], "fit": {"family": "iaf"}}, "family and families were both given: name every family in",
    ),
    "no seeds": ({"seeds": []}, "seeds is empty: name at least one"),
    "a seed twice": ({"seeds": [3, 3]}, "seeds names 3 twice: name each once"),
    "a negative seed": ({"seeds": [0, -1]}, "seed must be a whole number ≥ 0, got -1"),
    "seeds in words": ({"seeds": "01"}, "seeds must be a whole number or a list, each a whole number, got '01'"),
    "None for seeds": ({"seeds": None}, "seeds must be a whole number or a list, each a whole number, got None"),
    "options of an unknown strategy": ({"inference_options": {"amortised": {}}}, "did you mean 'amortized'"),
    "a number for options": ({"inference_options": {"exact": 5}}, "inference_options of exact must be a mapping"),
    "a list for model_options": ({"model_options": [5]}, "model_options must be a mapping of options to values"),
    "an unknown option of a fit": ({"fit": {"max_epoch": 3}}, "option of fit 'max_epoch': did you mean 'epochs'"),
    "an option of a model": ({"latent_dim": 3}, "Options of a model go into model_options"),
    "an option of a model in fit": ({"fit": {"latent_dim": 3}}, "Options of a model go into model_options"),
    "a misspelt setting": ({"epoch": 3}, "unknown option 'epoch': did you mean 'epochs'"),
    "a wrong setting": ({"fit": {"lr": -1}}, "lr must be a finite number > 0, got -1"),
    "a wrong setting beside": ({"epochs": 0}, "epochs must be a whole number ≥ 1, got 0"),
    "a wrong rate of rows": ({"lr_phi": "fast"}, "lr_phi must be a finite number > 0, got 'fast'"),
    "settings that do not go together": ({"objective": "iwae", "gradient": "loo"}, "'loo' does not go with objective"),
    "one seed": ({"seed": 1}, "fit has seed, and a comparison takes seeds: give seeds instead"),
    "a seed in fit": ({"fit": {"seed": 1}}, "fit has seed, and a comparison takes seeds: give seeds instead"),
    "inference in fit": ({"fit": {"inference": "exact"}}, "option of the comparison itself: give inference beside"),
    "a word for fit": ({"fit": "fast"}, "fit must be a mapping of options to values, got 'fast'"),
    "a word for fit, and a setting": ({"fit": "fast", "epochs": 3}, "fit must be a mapping of options to values"),
    "tune as a number": ({"tune": 1}, "tune must be True or False, got 1"),
    "no seconds": ({"tune_seconds": 0}, "tune_seconds must be a finite number > 0, got 0"),
    "no workers": ({"workers": 0}, "workers must be a whole number ≥ 1, got 0"),
    "num_samples as float": ({"num_samples": 0.5}, "num_samples must be a whole number ≥ 1, got 0.5"),
    "unknown method": ({"method": "aiss"}, "unknown method 'aiss': did you mean 'ais'"),
    "a list for method_options": ({"method_options": [1]}, "method_options must be a mapping"),
    "num_test as bool": ({"num_test": True}, "num_test must be a whole number ≥ 1, got True"),
    "negative num_gaps": ({"num_gaps": -1}, "num_gaps must be a whole number ≥ 0, got -1"),
    "unknown treatment": ({"treatment": "Static"}, "unknown treatment 'Static': did you mean 'static'"),
    "a number for root": ({"root": 5}, "root must be a word or a PathLike, got 5"),
    "num_train zero": ({"num_train": 0}, "num_train must be a whole number ≥ 1, got 0"),
    "a list for labels": ({"labels": [1]}, "labels must be a whole number or a word, got [1]"),
    "a negative data_seed": ({"data_seed": -1}, "data_seed must be a whole number ≥ 0, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_option_is_refused_where_it_is_made(case: str) -> None:
    changes, message = REFUSED[case]
    for make in (lambda: CompareOptions.of(changes), lambda: CompareOptions.of(**changes)):
        with pytest.raises(PpvaeError) as caught:
            make()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_option_but_data_refuses_something() -> None:
    tried = {name for changes, _ in REFUSED.values() for name in changes}
    assert CompareOptions.options().keys() - tried == {"data"}


def test_one_name_is_as_good_as_a_list() -> None:
    one = CompareOptions(models="vae", inference="exact", families="own", seeds=4)
    assert one == CompareOptions(models=["vae"], inference=("exact",), families=("own",), seeds=(4,))
    assert CompareOptions().changed() == {}
    assert CompareOptions().seeds == (0, 1, 2)


def test_a_setting_of_a_fit_goes_into_fit() -> None:
    options = CompareOptions.of({"fit": {"lr": 0.1, "epochs": 2}}, epochs=5, num_samples=10)
    assert options.fit == {"lr": 0.1, "epochs": 5}
    assert CompareOptions.of(options, steps=3).fit == {"lr": 0.1, "epochs": 5, "steps": 3}
    assert CompareOptions.of(options, fit={}).fit == {}
    assert {"seed", "inference", "inference_options"} == Settings.options().keys() - set(of_fit())


def test_fit_holds_what_was_given_and_no_default() -> None:
    assert CompareOptions(fit={"lr": 1, "patience": None}).fit == {"lr": 1.0, "patience": None}
    assert CompareOptions.of(lr_phi=0.1).fit == {"lr_phi": 0.1}  # for the strategies that take it


class Mine:
    """Stands for a class of a model."""


class Named:
    """Stands for data made in Python."""

    name = "mine"


def test_the_configuration_holds_every_option_in_words() -> None:
    options = CompareOptions(models=[Mine, "vae"], data=Named(), seeds=(0,), root=Path("a/b"), fit={"epochs": 5})
    found = yaml.safe_load(yaml.safe_dump(options.plain()))
    given = {"models": ["Mine", "vae"], "data": "mine", "seeds": [0], "root": "a/b", "fit": {"epochs": 5}}
    assert {name: found[name] for name in given} == given
    assert found.keys() == CompareOptions.options().keys()
    again = CompareOptions.of(options.plain() | {"data": Named()})
    assert again.plain() == options.plain()


def test_the_configuration_of_an_earlier_comparison_is_translated() -> None:
    earlier = {"models": "vae", "seeds": [0], "model": {"latent_dim": 3}, "fit": {"max_seconds": 5.0}}
    options = CompareOptions.of(from_earlier_comparison(earlier))
    assert options == CompareOptions(models="vae", seeds=0, model_options={"latent_dim": 3}, fit={"seconds": 5.0})


def test_judging_needs_no_comparison() -> None:
    assert list(JudgeOptions.options()) == ["num_samples", "method", "method_options", "num_test", "num_gaps"]
    assert JudgeOptions(method="ais").changed() == {"method": "ais"}
