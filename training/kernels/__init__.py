"""Triton kernels for what stands between two convolutions on a GPU, each tensor read and written once.

The compiler's own take more: it sums over pixels in another pass than it computes what is summed in, and does the
arithmetic before a filter of nine taps nine times. Here a program takes some columns and channels down some rows,
keeps the filter's last rows in registers, and adds up as it goes. What the functions mean, and that they are each
other's derivatives, is in `training.ops`. Features are channels last, of any type; arithmetic is in float32.

Statistics and sums over pixels come by blocks of pixels, (N, B, C). Signs, which the slope of a leaky ReLU goes by,
come in bytes of eight channels, (N, H, W, C / 8). Suffixes as in `training.networks`.
"""

from training.kernels.activation import activated, sloped, sloped_after
from training.kernels.colours import colour_products, from_colours, to_colours
from training.kernels.style import style_backward, style_statistics, style_sums, styled

__all__ = [
    "activated",
    "colour_products",
    "from_colours",
    "sloped",
    "sloped_after",
    "style_backward",
    "style_statistics",
    "style_sums",
    "styled",
    "to_colours",
]
