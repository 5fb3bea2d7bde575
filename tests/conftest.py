"""The models are tiny: one thread each is fastest, and workers do not fight for the cores."""

import torch

torch.set_num_threads(1)
