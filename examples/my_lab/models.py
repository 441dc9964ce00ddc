"""A backbone: one unit, and `depth` blocks on its grid, which can all be fed back."""

from dataclasses import dataclass

from torch import nn

from tdformer.attention import SelfAttention
from tdformer.backbones import MLP, MODELS, Backbone, Block, Entry, Size, check_width, pooled
from tdformer.unit import Unit


@dataclass(frozen=True)
class Sizes:
    width: int
    depth: int

    @property
    def size(self):
        return Size(self.width, (self.depth,))

    def resized(self, size):
        check_width(size, self.size, lambda heads: 2)
        return Sizes(size.width, size.depths[0])


class Column(Backbone[Sizes]):
    options = {"kernel": 3}

    def __init__(self, sizes, given):
        super().__init__(sizes, given)
        self.width = sizes.width
        self.entry = Unit(given.units, given.in_channels, sizes.width, kernel=given.own["kernel"])
        self.blocks = nn.ModuleList(
            Block(
                SelfAttention(given.units, sizes.width, 2, feedback=given.feedback.get(i)),
                MLP(given.units, sizes.width),
            )
            for i in range(sizes.depth)
        )

    def parts(self):
        return [self.entry, *self.blocks]

    def forward(self, x, high, state):
        x = pooled(self.step(self.entry, state, x), state)
        for block in self.blocks:
            x = self.step(block, state, x, high)
        return x.mean((3, 4)), x


MODELS.register("column_2_16", Entry(Column, Sizes(16, 2), image_size=8, in_channels=3, num_classes=2))
