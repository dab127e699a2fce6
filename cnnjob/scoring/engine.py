"""The arithmetic of scoring: ONNX Runtime on uint8 images. Batches of any size and order give the same bits."""

import numpy as np
import onnxruntime

from cnnjob.models.bundle import GRAPH_INPUT, GRAPH_PROBABILITIES


class Engine:
    """A graph ready to run in this process."""

    def __init__(self, graph: bytes, *, threads: int, batch_size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning thread would take the core that the next process needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._batch_size = batch_size

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities of uint8 images N x C x H x W, as float32 N x classes."""
        found = [
            self._session.run([GRAPH_PROBABILITIES], {GRAPH_INPUT: images[start : start + self._batch_size]})[0]
            for start in range(0, len(images), self._batch_size)
        ]
        return np.concatenate(found)
