"""Pipelines of a few thousand random weights, written as save_pretrained() writes the large ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def unconditional(seed: int = 0) -> DDPMPipeline:
    """A DDPM of 8 x 8 pixels, whose every step adds noise."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
        )
    return quiet(DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=20)))


def conditional_unet(seed: int = 0, *, channels: int = 16) -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=channels,
        )


def text_to_image(seed: int = 0) -> StableDiffusionPipeline:
    """A Stable Diffusion of 16 x 16 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        )
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=40,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=24,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    return quiet(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder,
            tokenizer=tokenizer(),
            unet=conditional_unet(seed),
            scheduler=DDIMScheduler(num_train_timesteps=20, clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def tokenizer() -> CLIPTokenizer:
    """It knows letters and digits one by one."""
    words = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=24)


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
