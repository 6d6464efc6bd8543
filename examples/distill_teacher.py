"""A diffusion model in plain diffusers: 8x8 digits, noise predicted on DDPM's betas."""

import argparse

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("steps", type=int, nargs="?", default=600)
STEPS = parser.parse_args().steps

torch.manual_seed(0)
source = torch.Generator().manual_seed(0)
x = torch.tensor(load_digits().images / 8 - 1, dtype=torch.float32)[:, None]
np.save("digits.npy", x.numpy())  # [1797, 1, 8, 8] in [-1, 1], for the students
model = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    attention_head_dim=8,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
scheduler = DDPMScheduler()
optimizer = torch.optim.Adam(model.parameters(), 2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
rule = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=rule)
for step in range(STEPS):
    x0 = x[torch.randint(len(x), (64,), generator=source)]
    z = torch.randn(x0.shape, generator=source)
    t = torch.randint(1000, (len(x0),), generator=source)
    loss = (model(scheduler.add_noise(x0, z, t), t).sample - z).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    average.update_parameters(model)
    if step % 100 == 0:
        print(f"step {step} of {STEPS}, loss {loss.item():.3f}")
DDPMPipeline(average.module, scheduler).save_pretrained("teacher")
