"""TensorFlow's candidate sampler and sampled softmax, imported only when asked for."""

from __future__ import annotations

import os
import sys
from typing import Any


def load(threads: int) -> Any:
    """Import TensorFlow with ``threads`` threads; it cannot share a process with triton."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.modules.setdefault("triton", None)  # None blocks the import
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    return tensorflow


class SampledSoftmax:
    """Loss and gradients of ``tf.nn.sampled_softmax_loss`` with given candidates, as one graph."""

    def __init__(self, tf: Any, weight: Any, hidden: Any, targets: Any, sampled: Any) -> None:
        self.weight = tf.Variable(weight)
        self.bias = tf.Variable(tf.zeros(len(weight)), trainable=False)
        self.hidden = tf.Variable(hidden)
        labels = tf.constant(targets[:, None])
        ids, target_q, candidate_q = sampled
        values = (tf.constant(ids), tf.constant(target_q[:, None]), tf.constant(candidate_q))

        @tf.function
        def run() -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    tf.nn.sampled_softmax_loss(
                        self.weight,
                        self.bias,
                        labels,
                        self.hidden,
                        num_sampled=len(ids),
                        num_classes=len(weight),
                        sampled_values=values,
                    )
                )
            return loss, tape.gradient(loss, [self.hidden, self.weight])

        self.run = run

    def __call__(self) -> float:
        """Run once and wait for every result; return the loss."""
        loss, (of_hidden, of_weight) = self.run()
        of_hidden.numpy()
        of_weight.values.numpy()
        return float(loss.numpy())
