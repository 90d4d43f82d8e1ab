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


class DRN(nn.Module):
    """DRN-D-22."""

    stride = 8

    def __init__(self, width: float):
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
        self.out_channels = c[8]

    def forward(self, x):
        """Map images [B, 3, H, W] to features [B, C, H / 8, W / 8]."""
        return self.base(x)


class InvertedResidual(nn.Module):
    """Inverted residual block; `zeros` pads the depthwise convolution at the left, right, upper and lower border."""

    def __init__(self, inputs: int, features: int, expansion: int, kernel: int, stride: int, dilation: int, zeros):
        super().__init__()
        c = inputs * expansion
        self.zeros, self.residual = zeros, stride == 1 and inputs == features and len(set(zeros)) == 1
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, c, 1, bias=False), nn.BatchNorm2d(c, 1e-3, 0.01)
        self.expands, self.strided = expansion > 1, stride == 2
        self._depthwise_conv = nn.Conv2d(c, c, kernel, stride, 0, dilation, groups=c, bias=False)
        self._bn1 = nn.BatchNorm2d(c, 1e-3, 0.01)
        self._project_conv, self._bn2 = nn.Conv2d(c, features, 1, bias=False), nn.BatchNorm2d(features, 1e-3, 0.01)

    def forward(self, x):
        """Map [B, C, H, W] to [B, features, H / stride, W / stride]."""
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        left, right, upper, lower = self.zeros
        if self.strided:  # one more zero after an odd side
            right, lower = right + y.shape[3] % 2, lower + y.shape[2] % 2
        y = F.relu6(self._bn1(self._depthwise_conv(F.pad(y, (left, right, upper, lower)))), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 of stride 16, for images with even sides."""

    stride, out_channels = 16, 320

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, 1e-3, 0.01)
        self._blocks, inputs, dilation = nn.ModuleList(), 32, 1
        stages = zip((3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 2, 2, 3, 3, 4, 1), strict=True)
        for features, (kernel, stride, repeats) in zip((16, 24, 40, 80, 112, 192, 320), stages, strict=True):
            for i in range(repeats):
                strided = i == 0 and stride == 2
                kept = 1 if len(self._blocks) == 11 else stride if strided else 1  # block 11 would make stride 32
                reach = dilation * (kernel - 1)
                before = dilation * ((kernel - 2) // 2) if strided else reach // 2
                zeros = (before, (reach - 1 if kept == 2 else reach) - before) * 2
                expansion = 6 if self._blocks else 1
                block = InvertedResidual(inputs, features, expansion, kernel, kept, dilation, zeros)
                self._blocks.append(block)
                dilation, inputs = dilation * (2 if strided and kept == 1 else 1), features

    def forward(self, x):
        """Map images [B, 3, H, W] to features [B, 320, H / 16, W / 16]."""
        x = F.relu6(self._bn0(self._conv_stem(F.pad(x, (0, 1, 0, 1)))), inplace=True)
        for block in self._blocks:
            x = block(x)
        return x


class Universal(nn.Module):
    """An encoder with one 1x1 decoder per domain and the linear map of the entropy module."""

    def __init__(self, encoder: nn.Module, num_classes: list[int], embed_dim: int):
        super().__init__()
        self.encoder = encoder
        self.seg = nn.ModuleList(nn.Conv2d(encoder.out_channels, n, 1) for n in num_classes)
        self.en_map = nn.Conv2d(encoder.out_channels, embed_dim, 1)


def upsample(x, factor: int):
    """Upsample bilinearly."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


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
        logits = upsample(head(model.encoder(part["image"])), model.encoder.stride)
        total = total + F.cross_entropy(logits.float(), part["label"], ignore_index=255)
    for part in batch:
        embedding = upsample(model.en_map(model.encoder(part["unlabeled"])), model.encoder.stride)
        for constants in label_embeddings:
            scores = torch.einsum("bdhw,nd->bnhw", embedding, constants.to(embedding.dtype))
            total = total + pixel_entropy(scores.float())
    return total


def teacher_loss(model: Universal, teacher: Universal, batch, threshold: float):
    """Compute supervised + consistency with the labels of a teacher, over all domains; batch as for `loss`."""
    total = 0.0
    for head, of_teacher, part in zip(model.seg, teacher.seg, batch, strict=True):
        logits = upsample(head(model.encoder(part["image"])), model.encoder.stride)
        total = total + F.cross_entropy(logits.float(), part["label"], ignore_index=255)
        with torch.no_grad():
            scores = upsample(of_teacher(teacher.encoder(part["unlabeled"])), model.encoder.stride)
            confidence, label = F.softmax(scores.float(), 1).max(1)
        logits = upsample(head(model.encoder(part["unlabeled"])), model.encoder.stride)
        each = F.cross_entropy(logits.float(), label, reduction="none")
        total = total + (each * (confidence >= threshold)).mean()
    return total


@torch.no_grad()
def follow(teacher: Universal, model: Universal, decay: float):
    """Move parameters and statistics of the teacher towards the model's."""
    for mine, theirs in zip(teacher.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)


def teacher_step(model: Universal, teacher: Universal, optimizer, batch, threshold: float, decay: float):
    """Run one step of SGD and of the teacher; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    value = teacher_loss(model, teacher, batch, threshold)
    value.backward()
    optimizer.step()
    follow(teacher, model, decay)
    return value.detach()


def train_step(model: Universal, optimizer, batch, label_embeddings):
    """Run one step of SGD; return the loss."""
    optimizer.zero_grad(set_to_none=True)
    value = loss(model, batch, label_embeddings)
    value.backward()
    optimizer.step()
    return value.detach()
