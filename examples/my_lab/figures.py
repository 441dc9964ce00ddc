"""A figure: the loss against the firing rate, a point for each row of metrics.jsonl."""

import io

from matplotlib.figure import Figure

from cluster.run.figures import FIGURES


@FIGURES.register("firing_and_loss")
def firing_and_loss(rows, title, epoch_steps):
    points = [(row["firing_rate"], row["loss"]) for row in rows if row.get("loss") is not None]
    figure = Figure(layout="constrained")
    axis = figure.subplots()
    axis.plot(*zip(*points, strict=True), "o") if points else None
    axis.set(xlabel="firing rate", ylabel="loss", title=title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
