"""From what training loops hold (PIL images, numpy arrays, torch tensors) to a picture that can be saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from metricwatch.errors import InputError

# Generators overshoot 0..1 by a little all the time; by this much it is another range, such as -1..1 or 0..255.
_OVERSHOOT = 0.5
# In modes that PNG keeps as they are. The rest is converted to RGB.
_PLAIN_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
_DEEP_MODES = ("F", "I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A picture, and what had to be done to get it.

    non_finite counts the values that were NaN or infinite; span is the lowest and highest finite value where these lie
    far outside of 0..1, otherwise None.
    """

    picture: Image.Image
    non_finite: int = 0
    span: tuple[float, float] | None = None


def to_pixels(image: Any) -> Pixels:
    """Accepts PIL images; arrays (H, W), (H, W, 1) or (H, W, 3); torch tensors (H, W), (1, H, W) or (3, H, W).

    Values are uint8 0..255 or floating 0..1. Floats are clamped and rounded as torchvision's save_image does it; NaN
    becomes 0, +Inf 1, -Inf 0. Tensors may be on any device, need gradients, or be bfloat16. Raises InputError.
    """
    if isinstance(image, Image.Image):
        return Pixels(picture=_plain(image))
    if hasattr(image, "detach") and hasattr(image, "cpu"):
        values = _of_tensor(image)
    elif hasattr(image, "__array__"):
        values = _of_array(image)
    else:
        raise InputError(f"a {type(image).__name__} is no image; give a PIL image, a numpy array or a torch tensor")
    if values.dtype == np.uint8:
        return Pixels(picture=_picture(values))
    return _of_floats(values)


def _of_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    shape = tuple(tensor.shape)
    if len(shape) not in {2, 3} or (len(shape) == 3 and shape[0] not in {1, 3}):  # noqa: PLR2004
        raise InputError(f"a tensor of shape {shape}; give one image as (3, H, W) or (1, H, W), of a batch: batch[i]")
    tensor = tensor.detach()
    if tensor.is_floating_point():
        # numpy knows no bfloat16.
        tensor = tensor.float()
    values: np.ndarray[Any, Any] = _checked(np.asarray(tensor.cpu().numpy()))
    return values if values.ndim == 2 else np.moveaxis(values, 0, -1)  # noqa: PLR2004


def _of_array(array: Any) -> np.ndarray[Any, Any]:
    values = np.asarray(array)
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[2] not in {1, 3}):  # noqa: PLR2004
        raise InputError(f"an array of shape {values.shape}; give one image as (H, W, 3), (H, W, 1) or (H, W)")
    # bfloat16 comes to numpy as a type of its own (from JAX).
    return _checked(values.astype(np.float32) if values.dtype.name == "bfloat16" else values)


def _checked(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype != np.uint8 and values.dtype.kind != "f":
        raise InputError(f"an image of {values.dtype}; give uint8 values 0..255 or floating ones 0..1")
    if not values.size:
        raise InputError(f"an image of shape {values.shape} has no pixels")
    return values


def _of_floats(values: np.ndarray[Any, Any]) -> Pixels:
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    finite = np.isfinite(values)
    non_finite = int(values.size - np.count_nonzero(finite))
    low = float(values.min(initial=np.inf, where=finite))
    high = float(values.max(initial=-np.inf, where=finite))
    if non_finite:
        values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
    rounded = (np.clip(values, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    is_far = non_finite < values.size and (low < -_OVERSHOOT or high > 1.0 + _OVERSHOOT)
    return Pixels(picture=_picture(rounded), non_finite=non_finite, span=(low, high) if is_far else None)


def _picture(values: np.ndarray[Any, Any]) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:  # noqa: PLR2004
        values = values[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(values))


def _plain(image: Image.Image) -> Image.Image:
    if not image.width or not image.height:
        raise InputError(f"an image of {image.width} x {image.height} has no pixels")
    if image.mode in _PLAIN_MODES:
        return image
    if image.mode.startswith(_DEEP_MODES):
        raise InputError(f"a PIL image of mode {image.mode}; convert it to RGB or L: its range of values is not known")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"a PIL image of mode {image.mode} cannot be saved: {error}; convert it to RGB") from error
