"""What the timings of training steps share: one step after another, and the bytes that a step holds."""

from lessonlib.evaluation import SavedTensors, training_bytes
from lessonlib.training import trainable_parameters


class Trainer:
    """A model in training. loss(model, batch), optimizer(parameters) as torch's are."""

    def __init__(self, model, batches, loss, optimizer):
        self.model, self.batches, self.loss, self.place = model, batches, loss, 0
        self.optimizer = optimizer(trainable_parameters(model))

    def step(self):
        value = self.loss(self.model, self.batches[self.place % len(self.batches)])
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.place += 1
        return value.item()

    def bytes(self):
        """(weights, gradients and optimizer states by name; what autograd keeps for the backward pass)"""
        with SavedTensors(self.model) as saved:
            value = self.loss(self.model, self.batches[0])
        value.backward()
        held = training_bytes(self.model, self.optimizer)
        self.optimizer.zero_grad()
        return held, saved.bytes
