"""The convolution that the tests of encoders and heads compare with."""

import numpy as np


def numpy_conv(x, kernel, stride=1, dilation=1):
    """PyTorch's convolution with padding = dilation * (k - 1) / 2: [B, H, W, I] and [k, k, I, O] -> [B, h, w, O]."""
    k = kernel.shape[0]
    pad = dilation * (k - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = ((n - 1) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], h, w, kernel.shape[3]))
    for y in range(h):
        for z in range(w):
            top, left = y * stride, z * stride
            patch = padded[
                :, top : top + dilation * (k - 1) + 1 : dilation, left : left + dilation * (k - 1) + 1 : dilation
            ]
            out[:, y, z] = np.tensordot(patch, kernel, ([1, 2, 3], [0, 1, 2]))
    return out
