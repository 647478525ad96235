"""The encoders against their sources: torchvision's own network, and a reading of the shift-tolerant file by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from metricwatch_wct.decoder import Decoder, decode, decoders_of
from metricwatch_wct.encoder import CHANNELS, LEVELS, Encoder, poolings
from metricwatch_wct.pretrained import _packaged, load_encoder


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """torchvision's VGG16 without its classifier, with seeded weights, and its file."""
    from torchvision.models import vgg16

    with torch.random.fork_rng(), torch.device("meta"):
        network = vgg16(weights=None, init_weights=False).features
    network.to_empty(device="cpu")
    chance = torch.Generator().manual_seed(3)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05, generator=chance)
    path = tmp_path_factory.mktemp("official") / "vgg16-397923af.pth"
    torch.save({f"features.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    return network.eval(), path


def test_the_official_encoder_is_torchvisions_network(official, chance):
    network, path = official
    encoder = load_encoder("vgg16", path)
    picture = torch.rand(2, 3, 50, 61, generator=chance)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    maps = (picture - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    wanted = {}
    for index, layer in enumerate(network):
        maps = layer(maps)
        if index in {1, 6, 11, 18}:
            wanted[LEVELS[len(wanted)]] = maps.clone()
    found = encoder(picture)
    assert list(found) == list(LEVELS)
    for level in LEVELS:
        assert torch.allclose(found[level], wanted[level], atol=1e-5)


def test_the_shift_tolerant_encoder_is_what_its_file_says(encoder, chance):
    tensors = torch.load(_packaged(), weights_only=True, map_location="cpu")
    picture = torch.rand(1, 3, 48, 37, generator=chance)
    maps = (2 * picture - 1 - tensors["scaling_layer.shift"]) / tensors["scaling_layer.scale"]

    def convolved(maps, place):
        weight, bias = tensors[f"net.{place}.weight"], tensors[f"net.{place}.bias"]
        return functional.conv2d(maps, weight, bias, padding=1).relu()

    def pooled(maps, place):
        filt = tensors[f"net.{place}.filt"]
        padded = functional.pad(functional.max_pool2d(maps, 2, stride=1), (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, filt, stride=2, groups=len(filt))

    one = convolved(maps, "slice1.0")
    two = convolved(pooled(convolved(one, "slice1.2"), "slice2.5"), "slice2.6")
    three = convolved(pooled(convolved(two, "slice2.8"), "slice3.11"), "slice3.12")
    four = convolved(pooled(convolved(convolved(three, "slice3.14"), "slice3.16"), "slice4.19"), "slice4.20")
    found = encoder(picture)
    for level, wanted in zip(LEVELS, (one, two, three, four), strict=True):
        assert torch.allclose(found[level], wanted, atol=1e-5)


def test_it_stops_at_the_level_that_is_asked_for(encoder):
    assert list(encoder(torch.zeros(1, 3, 16, 16), "relu2_1")) == ["relu1_1", "relu2_1"]


def test_gradients_reach_the_picture_and_not_the_encoder(encoder, chance):
    picture = torch.rand(1, 3, 32, 32, generator=chance, requires_grad=True)
    encoder(picture)["relu4_1"].square().sum().backward()
    assert float(picture.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in encoder.parameters())


@pytest.mark.parametrize("architecture", ["vgg16", "st-vgg16"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_decoded_lies_where_it_was_in_the_picture(architecture, level):
    # Symmetric filters have no opinion on where a spot is; what is left is what poolings and paddings do to it.
    encoder = Encoder(architecture)
    for name, weight in encoder.named_parameters():
        torch.nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0 / weight[0].numel())
    encoder.mean.zero_()
    picture = torch.zeros(1, 3, 96, 96)
    picture[..., 40:48, 56:64] = 1.0  # its centre is at 43.5, 59.5
    maps = encoder(picture, level)[level].mean(dim=1, keepdim=True)

    class Enlarging(Decoder):
        def forward(self, maps):
            return functional.interpolate(maps, scale_factor=2 ** poolings(level), mode="nearest")

    spot = decode(encoder, Enlarging(level), maps, 96, 96)[0, 0]
    places = torch.arange(96.0)
    centre = (float((spot.sum(1) * places).sum() / spot.sum()), float((spot.sum(0) * places).sum() / spot.sum()))
    assert spot.shape == (96, 96)
    assert centre == pytest.approx((43.5, 59.5), abs=0.05)


@pytest.mark.parametrize("level", LEVELS)
def test_a_decoder_mirrors_the_encoder(level):
    convolutions = [layer for layer in Decoder(level) if isinstance(layer, torch.nn.Conv2d)]
    encoding = [layer for layer in Encoder("vgg16").stack if isinstance(layer, torch.nn.Conv2d)][: len(convolutions)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [
        (layer.out_channels, layer.in_channels) for layer in reversed(encoding)
    ]
    made = Decoder(level)(torch.rand(1, CHANNELS[level], 3, 4)).detach()
    assert made.shape == (1, 3, 3 * 2 ** poolings(level), 4 * 2 ** poolings(level))
    assert float(made.min()) < float(made.max())


def test_the_state_of_decoders_is_named_by_level():
    names = decoders_of(["relu2_1", "relu1_1"]).state_dict()
    assert {name.split(".")[0] for name in names} == {"relu1_1", "relu2_1"}


def test_auto_takes_the_official_weights_where_they_are(official, torch_home):
    assert load_encoder("auto").architecture == "st-vgg16"
    torch_home.mkdir(parents=True)
    (torch_home / "vgg16-397923af.pth").symlink_to(official[1])
    assert load_encoder("auto").architecture == "vgg16"


def test_missing_weights_are_named_with_the_way_to_get_them(torch_home, tmp_path):
    with pytest.raises(FileNotFoundError, match="weights fetch vgg16") as raised:
        load_encoder("vgg16")
    assert str(torch_home / "vgg16-397923af.pth") in str(raised.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_encoder("vgg16", tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_encoder("vgg16", tmp_path)


def test_a_file_of_something_else_is_refused_by_name(official, tmp_path):
    with pytest.raises(
        ValueError, match=r"vgg16-397923af\.pth does not fit the network: net\.slice1\.0\.weight is missing"
    ):
        load_encoder("st-vgg16", official[1])
    broken = tmp_path / "broken.pth"
    broken.write_bytes(official[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.pth is damaged"):
        load_encoder("vgg16", broken)
    torch.save([1, 2], broken)
    with pytest.raises(ValueError, match="plain dictionary"):
        load_encoder("vgg16", broken)


def test_weights_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="damaged or not a file of tensors"):
        load_encoder("vgg16", tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_the_digest_tells_weights_apart_and_not_files(official, encoder, tmp_path):
    path = official[1]
    tensors = torch.load(path, weights_only=True)
    torch.save(tensors | {"classifier.0.weight": torch.zeros(3)}, tmp_path / "same.pth")
    torch.save(tensors | {"features.0.bias": torch.ones(64)}, tmp_path / "other.pth")
    digests = {name: load_encoder("vgg16", tmp_path / name).digest for name in ("same.pth", "other.pth")}
    assert digests["same.pth"] == load_encoder("vgg16", path).digest
    assert len({*digests.values(), encoder.digest}) == 3
