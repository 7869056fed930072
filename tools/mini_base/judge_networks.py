"""The judge's two networks: as they learn (train_judge.py), as they are shipped, and from the one form to the other."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

SIZE, WIDTHS, BLOCKS = 128, (32, 64, 128, 192), (1, 1, 2, 1)
STYLE_WIDTHS, STYLE_HIDDEN = (32, 64, 128, 192, 256), 128


class Conv(nn.Module):
    """Convolution and batch norm; `folded()` is the one convolution that they make together after training."""

    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.norm(self.conv(x))

    def folded(self):
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return dict(weight=self.conv.weight * scale[:, None, None, None],
                    bias=self.norm.bias - self.norm.running_mean * scale)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.conv2 = Conv(inputs, outputs, 3, stride), Conv(outputs, outputs, 3)
        if inputs != outputs:
            self.skip = Conv(inputs, outputs, 1, stride)

    def forward(self, x):
        skip = self.skip(x) if hasattr(self, "skip") else x
        return F.relu(self.conv2(F.relu(self.conv1(x))) + skip)


class SubjectNet(nn.Module):
    """A residual network; the subject is read from the means of its last stage."""

    def __init__(self, subjects):
        super().__init__()
        self.stem = Conv(12, WIDTHS[0], 5, 2)  # reads blocks of 2 x 2 pixels
        self.stages, inputs = nn.ModuleList(), WIDTHS[0]
        for i, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS)):
            self.stages.append(nn.Sequential(*[Block(inputs if j == 0 else width, width, 2 if i and j == 0 else 1)
                                               for j in range(blocks)]))
            inputs = width
        self.head = nn.Linear(WIDTHS[-1], subjects)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class StyleNet(nn.Module):
    """How strong each feature is, at five scales, wherever it lies.

    Means and root mean squares of every stage, then two linear layers.
    """

    def __init__(self, styles):
        super().__init__()
        self.stem = Conv(12, STYLE_WIDTHS[0], 3)
        self.stages = nn.ModuleList([Block(a, b, 2) for a, b in zip(STYLE_WIDTHS, STYLE_WIDTHS[1:])])
        self.norm, self.drop = nn.BatchNorm1d(2 * sum(STYLE_WIDTHS)), nn.Dropout(0.3)
        self.hidden, self.head = nn.Linear(2 * sum(STYLE_WIDTHS), STYLE_HIDDEN), nn.Linear(STYLE_HIDDEN, styles)

    def forward(self, x):
        x = F.relu(self.stem(x))
        found = moments(x)
        for stage in self.stages:
            x = stage(x)
            found += moments(x)
        return self.head(F.relu(self.hidden(self.drop(self.norm(torch.cat(found, 1))))))


def moments(x):
    x = x.float()
    return [x.mean((2, 3)), (x.square().mean((2, 3)) + 1e-6).sqrt()]


def plain_forward(weights, x):
    """Both networks as they are shipped: folded weights, no batch norm.

    Also makes the reference of tests/metrics/test_judge.py.
    """
    def conv(x, name, stride=1):
        w = weights[name + ".weight"].float()
        return F.conv2d(x, w, weights[name + ".bias"].float(), stride, w.shape[2] // 2)

    def linear(x, name):
        return F.linear(x, weights[name + ".weight"].float(), weights[name + ".bias"].float())

    def block(x, name, stride):
        skip = conv(x, name + ".skip", stride) if name + ".skip.weight" in weights else x
        return F.relu(conv(F.relu(conv(x, name + ".conv1", stride)), name + ".conv2") + skip)

    y = F.relu(conv(x, "style.stem"))
    found = moments(y)
    for i in range(len(STYLE_WIDTHS) - 1):
        y = block(y, f"style.stages.{i}", 2)
        found += moments(y)
    style = linear(F.relu(linear(torch.cat(found, 1), "style.hidden")), "style.head")
    x = F.relu(conv(x, "subject.stem", 2))
    for i, blocks in enumerate(BLOCKS):
        for j in range(blocks):
            x = block(x, f"subject.stages.{i}.{j}", 2 if i and j == 0 else 1)
    return linear(x.mean((2, 3)), "subject.head"), style


def fold(nets):
    """The weights as they are shipped: every batch norm goes into the layer beside it."""
    weights = {}
    for name, module in nets.named_modules():
        parts = (module.folded() if isinstance(module, Conv) else dict(module.named_parameters())
                 if isinstance(module, nn.Linear) else {})
        weights.update({f"{name}.{k}": v.detach() for k, v in parts.items()})
    norm = nets["style"].norm  # stands before the hidden layer: h(a x + b) = (h a) x + h b
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = weights["style.hidden.weight"]
    weights["style.hidden.bias"] = weights["style.hidden.bias"] + weight @ (norm.bias - norm.running_mean * scale)
    weights["style.hidden.weight"] = weight * scale
    return {k: v.detach().half().contiguous() for k, v in weights.items()}


def to_input(x):
    """(N, 3, SIZE, SIZE) in -1..1 -> what the network reads: every 2 x 2 block of pixels as 12 channels."""
    return F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)


def scaled(pictures):
    return torch.from_numpy(pictures).float().div_(127.5).sub_(1)


@torch.no_grad()
def warm_start(nets, folder, x):
    """Take over folded weights; each batch norm becomes the identity on what its convolution gives for `x`."""
    weights, hooks = {k: v.float() for k, v in load_file(folder / "judge.safetensors").items()}, []

    def set_norm(module, bias, y):
        dims = [d for d in range(y.ndim) if d != 1]
        mean, var = y.mean(dims), y.var(dims, unbiased=False)
        module.running_mean.copy_(mean)
        module.running_var.copy_(var)
        module.weight.copy_((var + module.eps).sqrt())
        module.bias.copy_(mean + bias)

    for name, module in nets.named_modules():
        if isinstance(module, Conv):
            module.conv.weight.copy_(weights[name + ".weight"])
            hooks.append(module.register_forward_pre_hook(
                lambda module, inputs, bias=weights[name + ".bias"]:
                set_norm(module.norm, bias, module.conv(inputs[0]))))
        elif isinstance(module, nn.BatchNorm1d):
            hooks.append(module.register_forward_pre_hook(lambda module, inputs: set_norm(module, 0, inputs[0])))
        elif isinstance(module, nn.Linear):
            module.weight.copy_(weights[name + ".weight"])
            module.bias.copy_(weights[name + ".bias"])
    for net in nets.values():
        net(x)
    for hook in hooks:
        hook.remove()
