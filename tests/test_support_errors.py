import pickle
from pathlib import Path

import pytest

from lossscale.support.errors import (
    InputError,
    check_choice,
    check_count,
    check_ending,
    check_scale,
    choose,
    input_errors,
)


def test_the_message_is_one_line_with_argument_value_and_remedy() -> None:
    assert str(InputError("--scale", -1, "must be\nabove 0")) == "--scale -1: must be above 0"


def test_an_empty_value_is_visible_and_a_long_one_is_cut() -> None:
    assert str(InputError("STUDY", "", "name one")) == "STUDY '': name one"
    assert len(str(InputError("STUDY", "x" * 5000, "name one"))) < 300


def test_it_crosses_process_borders() -> None:
    copy = pickle.loads(pickle.dumps(InputError("--inits", 0, "must be at least 1")))
    assert (copy.argument, copy.value, copy.remedy) == ("--inits", 0, "must be at least 1")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("-inf"), float("nan")])
def test_a_scale_that_cannot_multiply_a_loss(scale: float) -> None:
    with pytest.raises(InputError, match=r"^--scale .*: a scale must be finite and above 0"):
        check_scale("--scale", scale)


def test_good_values_come_back() -> None:
    assert check_scale("--scale", 2.0**-12) == 2.0**-12
    assert check_count("--inits", 1) == 1
    assert check_choice("--optimizer", "adam", ["sgd", "adam"]) == "adam"


def test_a_count_below_its_minimum() -> None:
    with pytest.raises(InputError, match=r"^--inits 0: must be at least 1$"):
        check_count("--inits", 0)


def test_an_ending_that_promises_another_format() -> None:
    for path in (None, Path("a.json"), Path("a.JSON"), Path("a.html")):
        check_ending("--out", path, ".json", ".html")
    with pytest.raises(InputError, match=r"^--out a\.csv: the file's name must end in \.json or \.html$"):
        check_ending("--out", Path("a.csv"), ".json", ".html")


@pytest.mark.parametrize(("value", "meant"), [("SDG", "SGD"), ("sdg", "SGD"), ("adamm", "Adam"), ("ADAMM", "Adam")])
def test_the_nearest_choice_is_found_whatever_the_case(value: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean {meant}\?"):
        choose("--optimizer", value, ["SGD", "Adam"])


def test_an_unknown_choice_lists_what_is_known_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^--optimizer adan: unknown; did you mean adam\? choose from sgd, adam$"):
        check_choice("--optimizer", "adan", ["sgd", "adam"])
    with pytest.raises(InputError, match=r"^STUDY x: unknown; choose from loss-vs-lr$"):
        check_choice("STUDY", "x", ["loss-vs-lr"])


def test_validation_errors_become_input_errors_and_bugs_do_not() -> None:
    with pytest.raises(InputError, match=r"^--beta 2: must be below 1$"), input_errors("--beta", 2):
        raise ValueError("must be below 1")
    with pytest.raises(KeyError), input_errors("--beta", 2):
        raise KeyError("a bug")
