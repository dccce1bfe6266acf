"""A small vision transformer for small images, with pre-norm blocks."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn.transformer import Block, small_weights
from snnconv.runtime.weights import filled


class ViT(nn.Module):
    """Patches of `patch` × `patch` pixels as tokens, `depth` blocks, the mean of the tokens, a linear layer.

    The defaults are those of ViT-tiny (width 192, 3 heads), for images of 32×32: 8×8 tokens.  The activation inside each block
    is GELU with `gelu`, else `activation()`.  ValueError unless patches fill the image.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        activation: Callable[[], nn.Module],
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        ratio: int = 4,
        gelu: bool = False,
        dropout: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        channels, height, wide = input_shape
        if height % patch or wide % patch or width % heads:
            raise ValueError(f"patch={patch}, width={width}, heads={heads}: patches have to fill the image ({height}×{wide}), and "
                             "heads to divide the width")  # fmt: skip
        make = nn.GELU if gelu else activation
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (height // patch) * (wide // patch), width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, ratio, make, dropout) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)
        small_weights(self)
        filled(self, weights)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Logits."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))
