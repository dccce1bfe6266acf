"""A small vision transformer for small images, with pre-norm blocks."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from snnconv.runtime.weights import filled


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, ratio: int, activation: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), activation(), nn.Dropout(dropout), nn.Linear(ratio * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "N L W"]) -> Float[Tensor, "N L W"]:
        """The tokens after this block."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.project(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))


def small_weights(network: nn.Module) -> None:
    """Initialize linear layers as in vision transformers: weights with a standard deviation of 0.02, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


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
