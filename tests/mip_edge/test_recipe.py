"""The recipes: what they fill in, and what cannot be asked."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import click
import pytest

from mip_edge.commands.train import train
from mip_edge.errors import OptionError
from mip_edge.recipe import TrainOptions, first_difference
from mip_edge.start import build_model

NAMES = ["a", "b", "c"]
SMALL = TrainOptions(model="tiny", image_size=(32, 32), stride=16)


def test_the_official_recipe_is_the_published_script() -> None:
    options = TrainOptions(recipe="official").resolved()
    assert (options.iael, options.select) == (False, "test")
    assert (options.epochs, options.batch, options.images) == (80, 64, 4)
    assert (options.lr, options.optimizer, options.seed) == (0.01, "sgd", 1234)
    assert (options.prompt_scale, options.msel_start, options.label_smoothing) == (20, 10, 0)
    assert (options.channels, options.ema, options.augmentation) == ("keep", 0, "published")
    model, _ = build_model(replace(SMALL, recipe="official").resolved(), names=NAMES)
    assert model.options.instance_queries == "zero"
    assert not model.options.iael


def test_the_paper_recipe_learns_its_queries_with_iael_and_selects_on_validation() -> None:
    options = TrainOptions().resolved()
    assert (options.recipe, options.iael, options.select) == ("paper", True, "validation")
    model, _ = build_model(SMALL.resolved(), names=NAMES)
    assert model.options.instance_queries == "learnable"
    assert model.options.iael


def test_what_is_said_plainly_wins_over_the_recipe() -> None:
    options = TrainOptions(recipe="official", iael=True, select="last").resolved()
    assert (options.iael, options.select) == (True, "last")


def test_regdb_has_its_published_learning_rate_unless_another_is_given() -> None:
    assert TrainOptions(dataset="regdb").resolved().lr == 0.008
    assert TrainOptions(dataset="regdb", lr=0.5).resolved().lr == 0.5


def test_without_instance_prompts_there_is_no_iael_to_train() -> None:
    assert TrainOptions(instance_prompts=False).resolved().iael is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accumulate": 0}, "--accumulate must be at least 1, got 0"),
        ({"ema": 1.0}, r"--ema must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, "--label-smoothing must be in"),
        ({"select": "best"}, "--select must be validation or test or last, got 'best'"),
        ({"recipe": "mine"}, "--recipe must be paper or official, got 'mine'"),
        ({"channels": "red"}, "--channels must be keep or grey or exchange"),
        ({"relation_weight": -1.0}, "--relation-weight must be at least 0"),
        ({"lr": 0.0}, "--lr must be above 0"),
    ],
)
def test_an_option_that_cannot_be_names_its_flag(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        TrainOptions(**changes)  # type: ignore[arg-type]


def test_a_resumed_run_may_change_where_it_runs_but_not_what_it_learns() -> None:
    before = asdict(SMALL)
    assert first_difference(before, replace(SMALL, threads=1, device="cuda", workers=7)) is None
    assert first_difference(before, replace(SMALL, lr=0.5)) == "--lr was None, now it is 0.5"
    # JSON has made a list of the pair
    assert first_difference({**before, "image_size": [32, 32]}, SMALL) is None


def test_the_command_line_has_every_option_with_the_same_default() -> None:
    command = {
        str(one.name): one.default for one in train.params if not isinstance(one, click.Argument)
    }
    options = {field.name: field.default for field in fields(TrainOptions)}
    assert set(command) - set(options) == {"output", "resume", "as_json"}
    assert {name: command[name] for name in options} == options
