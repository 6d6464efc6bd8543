"""Methods, networks and teachers of users, right and wrong ones, for `fewstep verify --target`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import fewstep as fs


def method():
    return fs.Method(
        times=fs.times.RatioMap(law=fs.times.LogNormal(mean=-1.0, std=1.5)),
        target=fs.targets.Student(),
        distance=fs.distances.huber(0.01),
        weight=fs.weights.inverse_gap,
    )


def adaptive():
    """l / (sg l + c): the weight of a row falls with its loss, and carries no gradient."""
    return replace(method(), balance=lambda loss, times, models: loss / (loss.detach() + 1e-3))


def adaptive_with_gradient():
    """The same weight of a goal that is not detached."""
    own = goal_with_gradient()
    return replace(own, balance=lambda loss, times, models: loss / (loss.detach() + 1e-3))


def half_detached():
    def distance(guess, goal):
        x = torch.cat([guess[:, :1], guess[:, 1:].detach()], 1)
        return fs.distances.sse(x, goal)

    return replace(method(), distance=distance)


class OwnLoss(fs.Method):
    """A loss written out: both passes by hand, the neighbour asked wherever it is."""

    def loss(self, models, x0, z, times, cond=None, seed=None):
        mix = self.process.mix
        masks = [seed] if isinstance(seed, int) else seed
        options = {} if masks is None else {"masks": models.student.masks(len(x0), masks)}
        with torch.no_grad():
            goal = models.student(mix(x0, z, times.r), times.r, cond, **options)
        guess = models.student(mix(x0, z, times.t), times.t, cond, **options)
        return (guess - goal).square().flatten(1).sum(1) + 0.1 * guess.square().flatten(1).sum(1)


def own_loss():
    return OwnLoss(
        times=fs.times.RatioMap(law=fs.times.LogNormal(mean=-1.0, std=1.5)),
        target=fs.targets.Student(),
    )


def halving():
    """A sampler of its own, whose times halve."""

    def grid(process, moves, levels):
        return [process.t_max * 0.5**i for i in range(moves)] + [0.0]

    return replace(method(), sampler=fs.sampling.Sampler(step=fs.solvers.ddim, grid=grid))


def of_pictures():
    return fs.methods.mcm(pools=1, steps=16, steps_end=16)


def over_the_batch():
    def distance(x, y):
        return fs.distances.sse(x, y) / fs.distances.sse(x, y).mean()

    return replace(method(), distance=distance)


def draws():
    def distance(x, y):
        return fs.distances.sse(x, y) * (1 + torch.rand(()))

    return replace(method(), distance=distance)


def one_number():
    return replace(method(), distance=lambda x, y: (x - y).square().mean())


def bare_root():
    """The bare root of a mean square has no gradient at 0."""
    return replace(method(), distance=lambda x, y: fs.distances.mse(x, y).sqrt())


class GoalWithGradient(fs.Method):
    """Its goal carries gradient."""

    def goal(self, *args):
        with torch.enable_grad():
            return super().goal(*args)


def goal_with_gradient():
    own = method()
    return GoalWithGradient(
        times=own.times, target=own.target, distance=own.distance, weight=own.weight
    )


def divides_by_nothing():
    return replace(method(), weight=lambda process, times: 1 / (times.r - times.a))


class Small(nn.Module):
    """Two layers that see x, the noise level and the label."""

    def __init__(self, shape=(1, 8, 8), classes=0):
        super().__init__()
        size = torch.Size(shape).numel()
        self.inner, self.outer = nn.Linear(size + 1, 16), nn.Linear(16, size)
        self.label = nn.Embedding(classes + 1, 16) if classes else None

    def features(self, x, noise_label):
        return self.inner(torch.cat([x.flatten(1), noise_label.to(x)[:, None]], 1))

    def forward(self, x, noise_label, cond=None):
        h = self.features(x, noise_label)
        if self.label is not None:
            h = h + self.label(self.index(cond))
        return self.outer(torch.tanh(h)).reshape(x.shape)

    def index(self, cond):
        return cond + 1


class Normed(Small):
    def features(self, x, noise_label):
        h = super().features(x, noise_label)
        return h - h.mean(0)


class Deaf(Small):
    def features(self, x, noise_label):
        return super().features(x, 0 * noise_label)


class Mislabelled(Small):
    def index(self, cond):
        return cond.flip(0) + 1


class Noisy(Small):
    def features(self, x, noise_label):
        return super().features(x + 0.1 * torch.randn_like(x), noise_label)


class Flat(Small):
    def forward(self, x, noise_label, cond=None):
        return super().forward(x, noise_label, cond).flatten(1)


class Branch(torch.autograd.Function):
    """tanh whose forward derivative is that of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.tanh()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0] ** 2)

    @staticmethod
    def jvp(ctx, tangent):
        return tangent


class WrongDerivative(Small):
    def features(self, x, noise_label):
        return Branch.apply(super().features(x, noise_label))


def network():
    return Small((1, 8, 8))


def teacher():
    return fs.exact.ring8()


def says_noise():
    law = fs.exact.Gaussian(0.0, 0.5)

    def denoiser(x_t, t, cond=None):
        return ((x_t - law(x_t, t)).double() / t.reshape(-1, 1, 1, 1)).to(x_t.dtype)

    return denoiser


def deaf_teacher():
    return lambda x_t, t, cond=None: 0.99 * x_t


def random_teacher():
    law = fs.exact.Gaussian(0.0, 0.5)
    return lambda x_t, t, cond=None: law(x_t, t) * (1 + 0.001 * torch.rand(()))


def double_teacher():
    law = fs.exact.Gaussian(0.0, 0.5)
    return lambda x_t, t, cond=None: law(x_t, t).double()


def number():
    return 3


def needs_three(a, b, c):
    return None


def fails():
    raise KeyError("no such thing")


class Crossed:
    """Times whose neighbour is above t."""

    at_anchor = False

    def __call__(self, u, progress, ordinal=None):
        t = 0.01 * 1000 ** u[:, 0]
        return fs.Times(t, 1.1 * t, torch.zeros_like(t), torch.ones_like(t))


def times_out_of_order():
    return replace(method(), times=Crossed())


class Drawn(Crossed):
    """Times drawn from torch's own generator."""

    def __call__(self, u, progress, ordinal=None):
        times = super().__call__(torch.rand_like(u), progress)
        return times._replace(r=0.9 * times.t)


def global_draws():
    return replace(method(), times=Drawn())


def wrong_name():
    return replace(method(), weight=lambda process, times: 1 / times.gap)


def weighted_by_r():
    # Its r is never 0.
    times = fs.times.RatioMap(law=fs.times.LogNormal(mean=-1.0, std=1.5), k=0.0)
    return replace(method(), times=times, weight=lambda process, times: 1 / times.r)


class BatchNormed(Small):
    """Fixed in eval mode; in training its rows see each other."""

    def __init__(self, shape=(1, 8, 8), classes=0):
        super().__init__(shape, classes)
        self.norm = nn.BatchNorm2d(shape[0])

    def forward(self, x, noise_label, cond=None):
        return super().forward(self.norm(x), noise_label, cond)


class Dropping(Small):
    """Dropout by a function: random in training alone."""

    def forward(self, x, noise_label, cond=None):
        x = nn.functional.dropout(x, 0.3, training=self.training)
        return super().forward(x, noise_label, cond)


def of_colours():
    return fs.networks.adm_unet((3, 8, 8), 0, width=32, mult=(1,), blocks=1, attention=())


def flow_teacher():
    return fs.exact.Mixture(
        weights=[1, 1], means=[[0, 1], [1, 0]], std=0.1, process=fs.process.linear()
    )


def says_x():
    """At every level what it was given: the noise at the highest."""
    teacher = fs.exact.ring8()
    own = lambda x_t, t, cond=None: x_t  # noqa: E731
    own.shape, own.process = teacher.shape, teacher.process
    return own
