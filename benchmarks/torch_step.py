"""The training step of the universal model in plain PyTorch, for comparison with ours (benchmarks/step_cpu.py).

A direct implementation of the paper: one forward pass per labeled and unlabeled batch of every domain, the embeddings
upsampled to image size and compared with the label embeddings. The parameters have the names of models/pretrained.py,
so that both implementations start from the same weights and must have the same loss.
"""

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = (16, 16, 32, 64, 128, 256, 512, 512, 512)


class Block(nn.Module):
    """Basic residual block."""

    def __init__(self, inputs: int, features: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.downsample = None
        if stride != 1 or inputs != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x):
        """Map [B, C, H, W] to [B, features, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Universal(nn.Module):
    """DRN-D-22 with one 1x1 decoder per domain and the linear map of the entropy module."""

    def __init__(self, num_classes: list[int], embed_dim: int, width: float):
        super().__init__()
        c = [max(1, round(n * width)) for n in CHANNELS]

        def plain(inputs, features, kernel=3, stride=1, dilation=1):
            conv = nn.Conv2d(inputs, features, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(features), nn.ReLU(inplace=True))

        def level(inputs, features, stride, dilation):
            return nn.Sequential(Block(inputs, features, stride, dilation), Block(features, features, 1, dilation))

        self.base = nn.Sequential(
            plain(3, c[0], kernel=7),
            plain(c[0], c[1]),
            plain(c[1], c[2], stride=2),
            level(c[2], c[3], 2, 1),
            level(c[3], c[4], 2, 1),
            level(c[4], c[5], 1, 2),
            level(c[5], c[6], 1, 4),
            plain(c[6], c[7], dilation=2),
            plain(c[7], c[8]),
        )
        self.seg = nn.ModuleList(nn.Conv2d(c[8], n, 1) for n in num_classes)
        self.en_map = nn.Conv2d(c[8], embed_dim, 1)


def upsample(x):
    """Upsample by 8, bilinearly."""
    return F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)


def pixel_entropy(scores):
    """Return the mean over pixels of the entropy of softmax(scores) along channels."""
    log_p = F.log_softmax(scores, 1)
    return -(log_p.exp() * log_p).sum(1).mean()


def loss(model: Universal, batch, label_embeddings):
    """Compute Eq. 5 with alpha = beta = 1: supervised + within + cross, over all domains.

    Args:
      model: the network.
      batch: for each domain a dict of "image" [B, 3, H, W], "label" int64 [B, H, W] and "unlabeled" [B, 3, H, W].
      label_embeddings: for each domain [n, d].
    """
    total = 0.0
    for head, part in zip(model.seg, batch, strict=True):
        logits = upsample(head(model.base(part["image"])))
        total = total + F.cross_entropy(logits.float(), part["label"], ignore_index=255)
    for part in batch:
        embedding = upsample(model.en_map(model.base(part["unlabeled"])))
        for constants in label_embeddings:
            scores = torch.einsum("bdhw,nd->bnhw", embedding, constants.to(embedding.dtype))
            total = total + pixel_entropy(scores.float())
    return total


def train_step(model: Universal, optimizer, batch, label_embeddings):
    """Run one step of SGD; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    value = loss(model, batch, label_embeddings)
    value.backward()
    optimizer.step()
    return value.detach()
