"""Pre-norm transformer blocks and their initial weights, shared by models."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
