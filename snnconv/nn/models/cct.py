"""A compact convolutional transformer for small images (Hassani et al., 2021): convolutions instead of patches, no class token."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from snnconv.nn.transformer import Block, small_weights
from snnconv.runtime.weights import filled


class CCT(nn.Module):
    """`convolutions` of 3×3 with max pooling, `depth` transformer blocks, a weighted mean of the tokens, a linear layer.

    The defaults are those of CCT-2/3×2: images of 32×32 become 8×8 tokens of width 128.  Unlike in the paper the convolutions have
    batch norms (unless `norm` is false), and blocks are plain pre-norm blocks.  With `gelu` the activation
    inside each block is GELU and that of the convolutions ReLU; otherwise both are `activation()`.  ValueError unless the heads
    divide the width.
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        activation: Callable[[], nn.Module],
        convolutions: int = 2,
        width: int = 128,
        depth: int = 2,
        heads: int = 2,
        ratio: int = 1,
        gelu: bool = False,
        norm: bool = True,
        dropout: float = 0.0,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width % heads or convolutions < 1:
            raise ValueError(f"width={width}, heads={heads}, convolutions={convolutions}: heads have to divide the width, and one "
                             "convolution is the least")  # fmt: skip
        channels = [input_shape[0], *[width // 2] * (convolutions - 1), width]
        first, inside = (nn.ReLU, nn.GELU) if gelu else (activation, activation)
        self.tokens = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=not norm),
                    *([nn.BatchNorm2d(after)] if norm else []),
                    first(),
                    nn.MaxPool2d(3, 2, 1),
                )
                for before, after in pairwise(channels)
            )
        )
        height, wide = input_shape[1:]
        for _ in range(convolutions):
            height, wide = (height + 1) // 2, (wide + 1) // 2
        self.position = nn.Parameter(torch.randn(1, height * wide, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, ratio, inside, dropout) for _ in range(depth)))
        self.norm, self.attention, self.head = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, num_classes)
        small_weights(self)
        filled(self, weights)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Logits."""
        tokens = self.norm(self.blocks(self.tokens(images).flatten(2).transpose(1, 2) + self.position))
        shares = self.attention(tokens).softmax(1).transpose(1, 2)  # [N, 1, L]
        return self.head((shares @ tokens).squeeze(1))
