"""A hook: the share of steps whose gradient was clipped, as a column of metrics.jsonl."""

from cluster.train.hooks import HOOKS, Hook


@HOOKS.register("clipped")
class Clipped(Hook):
    def begin(self, run, rows):
        super().begin(run, rows)
        self.steps = self.clipped = 0

    def step(self, step):
        self.steps += 1
        self.clipped += step.applied and step.grad_norm > self.config.train.clip_grad
        step.row["clipped"] = self.clipped / self.steps

    def state(self):
        return {"steps": self.steps, "clipped": self.clipped}

    def load(self, state, tensors):
        self.steps, self.clipped = state["steps"], state["clipped"]
