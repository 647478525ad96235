"""The weights of a model are found where scripts keep them, its moving average too, and loaded whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metricwatch.api import Checkpoint, InputError

RAW, EMA, OTHER = 1.0, 2.0, 3.0


def model() -> nn.Sequential:
    """Two parameters, and the three buffers of a batch normalisation."""
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))


def state(level: float, prefix: str = "") -> dict[str, torch.Tensor]:
    """A state dict of model(), every number in it the same."""
    return {f"{prefix}{name}": torch.full_like(value, level) for name, value in model().state_dict().items()}


def level(weights: dict[str, torch.Tensor], name: str = "0.weight") -> float:
    return weights[name].flatten()[0].item()


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(tree: object) -> Checkpoint:
        torch.save(tree, tmp_path / "pin")
        return Checkpoint(path=str(tmp_path / "pin"), name="step_5.pt", step=5)

    return save


# --- where weights are -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        state(RAW),
        {"state_dict": state(RAW), "epoch": 3, "optimizer_states": [{"state": {}}]},
        {"model_state_dict": state(RAW), "best_score": torch.tensor([3.0])},
        {"model": state(RAW), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}},
        {"net": state(RAW), "lr": 0.1},
        {"generator": state(RAW), "discriminator": state(OTHER)},
        {"g": state(RAW), "d": state(OTHER)},
        {"netG": state(RAW), "netD": state(OTHER)},
        {"module": state(RAW)},
        {"params": state(RAW)},
        {"model": {"state_dict": state(RAW), "config": {"width": 4}}},
        {"my_decoder": state(RAW), "rng_state": torch.zeros(9), "random_states": {"cpu": torch.zeros(9)}},
        {"training": {"my_decoder": state(RAW)}},
        {"my_decoder": state(RAW), "opt": {"state": {"0.weight": {"exp_avg": torch.zeros(2)}}, "param_groups": []}},
    ],
    ids=lambda tree: ", ".join(list(tree)[:3]),
)
def test_weights_are_found_without_being_told_where(saved, tree):
    weights = saved(tree).weights()
    assert weights.keys() == state(RAW).keys()
    assert level(weights) == RAW


def test_several_models_are_refused_with_their_places(saved):
    checkpoint = saved({"models": {"encoder": state(RAW), "decoder": state(OTHER)}})
    with pytest.raises(InputError, match=r"step_5\.pt holds several models.*'at': models\.encoder, models\.decoder"):
        checkpoint.weights()
    assert level(checkpoint.weights("models.decoder")) == OTHER


@pytest.mark.parametrize("tree", [{}, {"step": 3, "loss": 0.5}, {"best": torch.tensor(3.0)}])
def test_a_checkpoint_without_weights_says_what_it_holds(saved, tree):
    held = ", ".join(tree) or "nothing"
    with pytest.raises(InputError, match=rf"step_5\.pt holds no weights .*it holds {held}"):
        saved(tree).weights()


@pytest.mark.parametrize("at", ["decoder", "decoder.", "state_dict.decoder"])
@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod."])
def test_what_names_begin_with_can_be_the_place(saved, at, wrapped):
    flat = {**state(OTHER, f"{wrapped}encoder."), **state(RAW, f"{wrapped}decoder.")}
    weights = saved({"state_dict": flat}).weights(at)
    assert weights.keys() == state(RAW).keys()
    assert level(weights) == RAW


def test_a_key_of_the_tree_may_hold_dots(saved):
    assert level(saved({"v1.0": {"a": state(OTHER), "b": state(RAW)}}).weights("v1.0.b")) == RAW


def test_a_place_that_is_not_there_is_told_what_there_is(saved):
    flat = {**state(OTHER, "encoder."), **state(RAW, "decoder.")}
    with pytest.raises(InputError, match=r"at 'state_dict' holds no weights at 'painter'.*with decoder, encoder"):
        saved({"state_dict": flat}).weights("painter")


# --- moving averages ---------------------------------------------------------------------------------------

AVERAGED = [
    {"model": state(RAW), "ema": state(EMA)},
    {"model": state(RAW), "ema_state_dict": state(EMA)},
    {"model": state(RAW), "model_ema": state(EMA)},
    {"state_dict": state(RAW), "state_dict_ema": state(EMA)},
    {"model_state_dict": state(RAW), "ema_model_state_dict": state(EMA)},
    {"g": state(RAW), "d": state(OTHER), "g_ema": state(EMA)},
    {"generator": state(RAW), "discriminator": state(OTHER), "generator_ema": state(EMA)},
    {"generator": state(RAW), "discriminator": state(OTHER), "G_ema": state(EMA)},
    {"params": state(RAW), "params_ema": state(EMA)},
    {"model": state(RAW), "ema": {"shadow": state(EMA), "decay": 0.999}},
    {"model": state(RAW), "ema": {"module": state(EMA)}},
    {"model": state(RAW), "ema": {"state_dict": state(EMA), "updates": 3}},
    {"generator": state(RAW), "discriminator": state(OTHER), "ema": {"generator": state(EMA)}},
    {"model": state(RAW), "ema": {**state(EMA, "module."), "n_averaged": torch.tensor(3)}},
    {"model": state(RAW), "ema": {**state(EMA, "ema_model."), **state(OTHER, "online_model."), "step": torch.ones(1)}},
    {"model": state(RAW, "module."), "ema": state(EMA)},
    {"nested": {"model": state(RAW), "ema": state(EMA)}},
    {**state(RAW), **state(EMA, "ema_model.")},
    {**state(RAW), **state(EMA, "ema.")},
    {"state_dict": {**state(RAW), **state(EMA, "model_ema."), "model_ema.decay": torch.tensor(0.9)}},
]


@pytest.mark.parametrize("tree", AVERAGED, ids=lambda tree: ", ".join(list(tree)[:3]))
def test_the_moving_average_is_found_where_scripts_keep_it(saved, tree):
    checkpoint = saved(tree)
    for ema, expected in (("auto", EMA), ("always", EMA), ("never", RAW)):
        fresh = model()
        checkpoint.load_into(fresh, ema=ema)
        assert {value.flatten()[0].item() for value in fresh.state_dict().values()} == {expected}, ema


def test_without_a_moving_average_auto_takes_the_model_and_always_refuses(saved):
    checkpoint = saved({"model": state(RAW)})
    assert level(checkpoint.weights(ema="auto")) == RAW
    with pytest.raises(InputError, match=r"step_5\.pt holds no moving average.*it holds model"):
        checkpoint.weights(ema="always")


def test_buffers_that_an_average_does_not_hold_are_those_of_the_model(saved):
    parameters = {name: value for name, value in state(EMA).items() if name.startswith("0.")}
    weights = saved({"model": state(RAW), "ema": {"shadow": parameters}}).weights()
    assert (level(weights, "0.weight"), level(weights, "1.running_mean")) == (EMA, RAW)


def test_the_average_of_one_part_of_a_flat_state_dict_takes_its_place(saved):
    flat = {**state(RAW, "generator."), **state(OTHER, "discriminator."), **state(EMA, "generator_ema.")}
    checkpoint = saved({"state_dict": flat})
    assert level(checkpoint.weights("generator")) == EMA
    assert level(checkpoint.weights("generator", ema="never")) == RAW
    assert level(checkpoint.weights("discriminator")) == OTHER
    assert level(checkpoint.weights("generator_ema")) == EMA
    assert not any("ema" in name for name in checkpoint.weights(ema="never"))


def test_names_that_lost_their_dots_get_them_back(saved):
    flat = state(RAW, "model.net.") | state(OTHER, "first_stage.")
    flat |= {f"model_ema.net{name.replace('.', '')}": value for name, value in state(EMA).items()}
    checkpoint = saved({"state_dict": flat})
    assert level(checkpoint.weights("model.net")) == EMA
    assert level(checkpoint.weights("first_stage")) == OTHER


def test_the_average_of_another_model_is_not_taken(saved):
    tree = {"generator": state(RAW), "discriminator": state(OTHER), "discriminator_ema": state(EMA)}
    assert level(saved(tree).weights()) == RAW


def test_a_place_may_lead_to_the_average_itself(saved):
    tree = {"g": state(RAW), "ema": {"shadow": state(EMA)}, "e_ema": state(OTHER)}
    checkpoint = saved(tree)
    for ema in ("auto", "always", "never"):
        assert level(checkpoint.weights("ema", ema=ema)) == EMA
        assert level(checkpoint.weights("e_ema", ema=ema)) == OTHER


def test_several_averages_are_refused_with_their_places(saved):
    tree = {"model": state(RAW), "ema_slow": state(EMA), "ema_fast": state(OTHER)}
    with pytest.raises(InputError, match=r"several moving averages.*ema_slow, ema_fast"):
        saved(tree).weights()


def test_an_average_without_names_is_not_passed_over_in_silence(saved):
    checkpoint = saved({"model": state(RAW), "ema": {"shadow_params": list(state(EMA).values()), "decay": 0.9}})
    with pytest.raises(InputError, match=r"a list without names.*ema: never"):
        checkpoint.weights()
    assert level(checkpoint.weights(ema="never")) == RAW


def test_torchs_own_averaged_model_is_read(saved):
    own = model()
    averaged = torch.optim.swa_utils.AveragedModel(own)
    with torch.no_grad():
        own[0].weight.fill_(RAW)
        averaged.module[0].weight.fill_(EMA)
    checkpoint = saved({"model": own.state_dict(), "averaged_model": averaged.state_dict()})
    assert level(checkpoint.weights()) == EMA
    fresh = model()
    checkpoint.load_into(fresh)
    assert fresh[0].weight[0, 0] == EMA


# --- loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_names_does_not_matter(saved, prefix):
    fresh = model()
    saved({"model": state(RAW, prefix)}).load_into(fresh)
    assert fresh[0].weight[0, 0] == RAW


def test_a_compiled_part_and_a_wrapped_module_match_too(saved):
    flat = {name.replace("0.", "0._orig_mod.", 1): value for name, value in state(RAW).items()}
    wrapped = nn.Module()
    wrapped.module = model()
    saved(flat).load_into(wrapped)
    assert wrapped.module[0].weight[0, 0] == RAW


def test_a_model_whose_own_names_begin_with_module_is_loaded_as_it_is(saved):
    own = nn.ModuleDict({"module": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    saved({"model": {name: torch.full_like(value, RAW) for name, value in own.state_dict().items()}}).load_into(own)
    assert own["module"].weight[0, 0] == RAW


def test_the_module_keeps_its_types(saved):
    fresh = model().half()
    saved(state(RAW)).load_into(fresh)
    assert fresh[0].weight.dtype == torch.float16
    assert fresh[0].weight.requires_grad
    assert fresh[0].weight[0, 0] == RAW


def test_what_does_not_match_is_one_short_message_and_the_module_stays(saved):
    fresh = nn.Sequential(*(nn.Linear(3, 2) for _ in range(4)))
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    tree = {f"{index}.bias": torch.zeros(2) for index in range(3)} | {"0.weight": torch.zeros(2, 7)}
    tree |= {f"head.{index}": torch.zeros(1) for index in range(9)}
    with pytest.raises(InputError) as raised:
        saved({"model": tree}).load_into(fresh)
    assert str(raised.value) == (
        "step_5.pt: its weights at 'model' are not those of the model: 4 missing (1.weight, 2.weight, 3.weight, 3.bias), "
        "9 unexpected (head.0, head.1, head.2, head.3, head.4, 4 more), "
        "1 of another shape (0.weight is (2, 7) in the checkpoint, (2, 3) in the model)"
    )
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_the_place_where_the_model_would_fit_is_named(saved):
    flat = {**state(RAW, "net.generator."), **state(OTHER, "critic.")}
    with pytest.raises(InputError, match=re.escape("it would fit at 'critic' or 'net.generator': say so with 'at'")):
        saved(flat).load_into(model())
    fresh = model()
    saved(flat).load_into(fresh, "net.generator")
    assert fresh[0].weight[0, 0] == RAW
