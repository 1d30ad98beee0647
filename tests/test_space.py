"""What a search varies: around the published settings, or what a file or a preset says; and what is refused."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from harness.recipe import Recipe
from harness.study.space import Choices, Range, Space, asked_space, default_space

PUBLISHED = Recipe(learning_rate=3e-4, weight_decay=1e-3, batch_size=16, warmup=0.05, dropout=0.1)


def space_of(content, recipe=PUBLISHED, model="cnn", fixed=()) -> Space:
    return asked_space(content, None, [model]).of(model, recipe, fixed)


def test_the_default_space_lies_around_the_published_settings():
    assert default_space(PUBLISHED) == {
        "batch_size": Choices((8, 16, 32)),
        "learning_rate": Range(3e-5, 3e-3, log=True),
        "weight_decay": Range(1e-4, 1e-2, log=True),
        "warmup": Range(0.0, 0.2),
        "head": Choices(("linear", "tanh")),
        "dropout": Range(0.0, 0.5),
        "lora_rank": Choices((4, 8, 16)),
    }
    odd = default_space(Recipe(batch_size=50, weight_decay=0.0, warmup=0.5, dropout=0.6))
    assert odd["batch_size"] == Choices((32, 50, 64))
    assert odd["weight_decay"] == Range(0.0, 0.1)
    assert (odd["warmup"], odd["dropout"]) == (Range(0.0, 0.9), Range(0.0, 0.6))
    assert default_space(Recipe(batch_size=1))["batch_size"] == Choices((1, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 15, 50, 64, 100])
def test_the_published_settings_are_in_the_default_space(size):
    recipe = Recipe(batch_size=size, learning_rate=7e-6, weight_decay=0.1, warmup=0.0, dropout=0.0, head="tanh")
    space = Space(default_space(recipe))
    assert {name: getattr(recipe, name) for name in space.settings} in space


def test_only_settings_that_count_for_the_way_of_tuning_are_searched():
    assert "lora_rank" not in space_of(None).settings
    assert list(space_of(None, Recipe(tune="lora")).settings) == [
        *("batch_size", "learning_rate", "weight_decay", "warmup", "head", "dropout", "lora_rank")
    ]
    assert list(space_of(None, fixed=["head", "dropout"]).settings) == ["batch_size", "learning_rate", "weight_decay", "warmup"]


def test_a_file_takes_the_default_s_place_and_may_differ_for_a_model(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("""
[space]
learning_rate = {low = 1e-5, high = 1e-3, log = true}
batch_size = [8, 16, 32]
[model.caduceus.space]
learning_rate = [1e-3, 2]
warmup = {low = 0, high = 0.5, step = 0.1}
[model.gpn-msa.space]
clip = {low = 1, high = 2}
""")
    asked = asked_space(path, None, ["cnn", "caduceus"])
    common = {"batch_size": Choices((8, 16, 32)), "learning_rate": Range(1e-5, 1e-3, log=True)}
    assert asked.of("cnn", PUBLISHED, ()).settings == common
    assert asked.of("caduceus", PUBLISHED, ()).settings == common | {
        "learning_rate": Choices((1e-3, 2.0)),
        "warmup": Range(0.0, 0.5, step=0.1),
    }
    assert "clip" in asked.of("gpn_msa", PUBLISHED, ()).settings


def test_without_a_common_table_a_model_s_own_changes_the_default():
    own = {"model": {"cnn": {"space": {"head": ["tanh"]}}}}
    assert space_of(own).settings == {
        **{name: values for name, values in default_space(PUBLISHED).items() if name != "lora_rank"},
        "head": Choices(("tanh",)),
    }
    assert space_of(own, model="caduceus").settings["head"] == Choices(("linear", "tanh"))


def test_the_paper_s_learning_rates_are_a_preset():
    (space,) = [asked_space(None, "msamamba-paper", ["msamamba"]).of("msamamba", PUBLISHED, ())]
    assert space.settings == {"learning_rate": Choices((8e-3, 2e-3, 3e-4, 3e-5, 8e-6))}
    assert space.size == 5


def test_what_is_in_a_space():
    space = space_of(
        {"space": {"batch_size": {"low": 4, "high": 12, "step": 4}, "dropout": {"low": 0.1, "high": 0.4, "step": 0.1}}}
    )
    for size, dropout, inside in [
        (4, 0.1, True),
        (12, 0.4, True),
        (8, 0.30000000000000004, True),
        (6, 0.1, False),
        (8, 0.35, False),
        (16, 0.1, False),
    ]:
        assert ({"batch_size": size, "dropout": dropout} in space) == inside
    assert space.size == float("inf")


def test_drawn_numbers_can_be_typed_again():
    space = space_of({"space": {"learning_rate": {"low": 1.2354e-5, "high": 1e-3, "log": True}, "head": ["linear", "tanh"]}})
    assert space.rounded({"head": "tanh", "learning_rate": 1.234561e-4}) == {"learning_rate": 1.235e-4, "head": "tanh"}
    assert space.rounded({"head": "tanh", "learning_rate": 1.23541e-5})["learning_rate"] == 1.2354e-5  # not below the range


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"learning_rat": [1]}, "learning_rat: is no setting; choose of"),
        ({"epochs": [1, 2]}, "epochs: is fixed during a search; choose of"),
        ({"betas": [[0.9, 0.99]]}, "betas: is fixed during a search"),
        ({"dropout": []}, "dropout: an empty list"),
        ({"dropout": 0.1}, "dropout: 0.1: expected a list of choices, or {low = …, high = …}"),
        ({"dropout": {"low": 0.1}}, "dropout: lacks high"),
        ({"dropout": {"low": 0.3, "high": 0.1}}, "dropout: low 0.3 is not below high 0.1"),
        ({"dropout": {"low": 0.3, "high": 0.3}}, "dropout: low 0.3 is not below high 0.3"),
        ({"dropout": {"low": 0, "high": 1}}, "dropout 1: must be a number, at least 0 and below 1"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "dropout: low 0: must be above 0 on a logarithmic scale"),
        ({"dropout": {"low": 0, "high": 0.5, "log": 1}}, "dropout: log = 1: expected true or false"),
        ({"dropout": {"low": 0, "high": 0.5, "steps": 1}}, "dropout: 'steps': a range has low, high, log and step"),
        (
            {"dropout": {"low": 0, "high": 0.5, "step": 0.3}},
            "dropout: step 0.3: must be above 0, and lead from low 0 to high 0.5",
        ),
        ({"dropout": {"low": 0, "high": 0.5, "step": -0.1}}, "dropout: step -0.1: must be above 0"),
        ({"dropout": {"low": 0.1, "high": 0.5, "step": 0.1, "log": True}}, "dropout: log and step cannot go together"),
        ({"dropout": {"low": "0", "high": 0.5}}, "dropout: '0': expected a number"),
        ({"dropout": {"low": float("nan"), "high": 0.5}}, "dropout: nan: expected a number"),
        ({"dropout": {"low": True, "high": 2}}, "dropout: True: expected a number"),
        ({"dropout": [0.1, None]}, "dropout: None is no value"),
        ({"dropout": [0.1, "0.2"]}, "dropout 0.2: must be a number"),
        ({"batch_size": {"low": 8, "high": 16.5}}, "batch_size: 16.5: expected a whole number"),
        ({"batch_size": [8, 0]}, "batch-size 0: must be a whole number, at least 1"),
        ({"learning_rate": [1e-3, -1]}, "learning-rate -1: must be a number, above 0"),
        ({"head": {"low": 1, "high": 2}}, "head: has no range; give a list of choices"),
        ({"head": ["linear", "mlp"]}, "head 'mlp': choose one of linear, tanh"),
    ],
)
def test_spaces_that_cannot_be_searched_are_named(table, message):
    for content in ({"space": table}, {"model": {"cnn": {"space": table}}}):
        with pytest.raises(UserError) as refused:
            asked_space(content, None, ["cnn"])
        assert str(refused.value).startswith("space: ")
        assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = [1]", "'learning_rate': there are [space] and [model.NAME.space]"),
        ("[model.cnn]\nhead = ['tanh']", "model.cnn.head: there is [model.cnn.space] only"),
        ("[model.cn.space]\nhead = ['tanh']", "unknown model 'cn': did you mean cnn"),
        ("model = 1", "model is 1: expected a table"),
        ("space = [1]", "space is [1]: expected a table"),
        ("[space", "cannot be read"),
        ("", "no setting: write [space] and"),
        ("[space]", "no setting: write [space] and"),
    ],
)
def test_files_that_are_no_space_are_named(tmp_path, text, message):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        asked_space(tmp_path / "space.toml", None, ["cnn"])
    assert f"space {tmp_path / 'space.toml'}: " in str(refused.value)
    assert message in str(refused.value)


def test_a_file_that_is_not_there_and_two_spaces_at_once(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: cannot be read \(No such file"):
        asked_space(tmp_path / "none.toml", None, ["cnn"])
    with pytest.raises(UserError, match="give one or the other"):
        asked_space({"space": {"dropout": [0.1]}}, "msamamba-paper", ["cnn"])
