"""A schedule: the learning rate by the progress of training, 0 at the end of the warm-up, 1 at the last step."""

from cluster.train.schedule import SCHEDULES


@SCHEDULES.register("halves")
def halves(train, progress):
    return train.lr * 0.5 ** int(4 * progress)
