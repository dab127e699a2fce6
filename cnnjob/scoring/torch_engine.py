"""The arithmetic of scoring on a GPU: the same net in torch, as float32 or bfloat16.

The twin of ``scoring.engine``: what that gives, this gives within float32's rounding. The same batches on the same
device give the same bits; other batches or another device may differ in the last ones.
"""

import numpy as np
import torch

from cnnjob.models.bundle import Bundle
from cnnjob.models.presets import net_of
from cnnjob.models.restore import restored
from cnnjob.scoring.sizing import cpu_batch_size, gpu_batch_size


class TorchEngine:
    """A net ready to run in this process.

    Args:
        bundle: The model.
        device: ``cuda``; tests run it as ``cpu``.
        bf16: Convolutions and products in bfloat16 where torch holds it safe; softmax in float32.
        batch_size: Images in one call; None: by the device's memory.
    """

    def __init__(self, bundle: Bundle, *, device: str, bf16: bool, batch_size: int | None) -> None:
        self._device = torch.device(device)
        self._bf16 = bf16
        # By default cuDNN rounds float32 to TF32, 10 bits, and may choose its algorithms by a race
        # (https://docs.pytorch.org/docs/stable/notes/cuda.html, notes/randomness.html).
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # not in its stubs
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self._module = restored(bundle).to(self._device)
        self._batch_size = batch_size or self._fitting(bundle)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities of uint8 images N x C x H x W, as float32 N x classes."""
        found = [
            self._run(torch.tensor(images[start : start + self._batch_size]))
            for start in range(0, len(images), self._batch_size)
        ]
        return torch.cat(found).cpu().numpy()

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16):
            logits = self._module(images.to(self._device))
        return torch.softmax(logits.float(), dim=1)

    def _fitting(self, bundle: Bundle) -> int:
        net = net_of(bundle.description.architecture)
        if self._device.type != "cuda":
            return cpu_batch_size(net)
        # Not what is free: the same device gives the same batches, and so the same bits, whatever else it holds.
        return gpu_batch_size(net, torch.cuda.get_device_properties(self._device).total_memory)
