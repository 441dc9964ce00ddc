"""Plain mistakes, and the tests that must fail for each.

A place is found by its text, in whatever file of the packages it lies, and must be the only one; a test by its name.
Take a part of a line that has a reason to stay, and give a new one where the text has changed: `make test` says which
are not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("tdformer", "pipelines", "cluster")
PICTURES = "test_a_run_meets_what_its_settings_say[pictures]"
EVENTS = "test_a_run_meets_what_its_settings_say[events]"
OPTIONS = "test_each_option_reaches_the_modules"
SCALED = "test_steps_are_those_of_torch_s_gradscaler"
COUNTED = ("test_a_model_does_what_is_counted_by_hand[tiny_spikformer-options0]",)
FED = ("test_a_model_does_what_is_counted_by_hand[tiny_hst-options10]",)
LEFT = "test_left_after_a_step_that_was_left_out_and_resumed"
GRAPHED = "test_what_needs_a_gpu_runs_on_an_emulated_one[graph]"
ON_GPUS = "test_what_needs_a_gpu_runs_on_an_emulated_one[steps]"
LATER = "test_a_run_is_the_same_however_late_the_host_knows"


@dataclass(frozen=True)
class Edit:
    """name: the mistake, in words; old: text that is there once; new: what is there instead; tests: those that fail,
    one of them at least."""

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def _edit(name: str, old: str, new: str, *tests: str) -> Edit:
    return Edit(name, old, new, tests)


EDITS = (
    # From the configuration to the step
    _edit("label smoothing is dropped", "config.train.label_smoothing)", "0.0)", PICTURES),
    _edit("weight decay is off", "weight_decay if parameter.dim() > 1 else 0.0", "0.0", PICTURES),
    _edit("vectors decay too", "weight_decay if parameter.dim() > 1 else 0.0", "weight_decay", PICTURES),
    _edit("layer decay is off", "layer_decay ** (", "1.0 ** (", PICTURES),
    _edit("betas are ignored", "betas=(train.betas[0], train.betas[1])", "betas=(0.9, 0.999)", PICTURES),
    _edit(
        "a base wins over what is laid over it",
        "found.insert(0, (path, layer))",
        "found.append((path, layer))",
        "test_each_file_wins_over_its_base_and_the_command_line_over_all",
    ),
    _edit(
        "a base's plugin is looked for beside the file over it",
        "naming[-1].parent",
        "files[-1][0].parent",
        "test_a_plugin_is_beside_the_file_that_names_it",
    ),
    _edit("eps is ignored", "train.betas[1]), eps=train.eps", "train.betas[1]), eps=1e-8", PICTURES),
    _edit(
        "alphas are ignored",
        "segment_loss(logits, targets, self.config.train.alphas)",
        "segment_loss(logits, targets)",
        PICTURES,
    ),
    _edit(
        "the first way to cut a batch is taken",
        "and (self.best is None or way.seconds < self.best.seconds)",
        "and self.best is None",
        "test_it_is_the_least_of_all_that_fit",
    ),
    _edit(
        "a run that goes on is cut anew",
        "if same and (kept",
        "if not same and (kept",
        "test_the_micro_batch_before_is_kept_where_it_fits",
    ),
    _edit("mixup takes cutmix's alpha", "mixup=config.data.mixup", "mixup=config.data.cutmix", PICTURES),
    _edit("cutmix takes mixup's alpha", "cutmix=config.data.cutmix", "cutmix=config.data.mixup", PICTURES),
    _edit(
        "mixing has another seed",
        "seed=config.seed,\n            epoch",
        "seed=0,\n            epoch",
        PICTURES,
    ),
    _edit(
        "what is drawn ahead is of the first step",
        "cursor = replace(cursor, step=cursor.step + 1)",
        "cursor = replace(cursor)",
        "test_one_step_ahead_is_the_same_run_stopped_or_not",
    ),
    _edit(
        "an error in reading ahead is that of the step in hand",
        "        except Exception as error:\n            return error\n",
        "        except StopIteration as error:\n            return error\n",
        "test_an_error_is_that_of_its_step",
    ),
    _edit(
        "batches that are not read yet are waited for",
        "self._sent is None and self._ready()",
        "self._sent is None",
        "test_what_is_not_read_yet_is_not_waited_for",
    ),
    _edit(
        "a slide is weighed from the wrong side",
        "left, right = v1 - v2, v3 - v4",
        "left, right = v2 - v1, v3 - v4",
        "test_they_are_pillow_s",
    ),
    _edit("erasing is off", "erasing=asked.erasing,", "erasing=0.0,", PICTURES),
    _edit(
        "a GPU's noise begins later",
        "4 * (blocks - 1)",
        "4 * blocks",
        "test_a_batch_erased_later_is_that_erased_at_once",
    ),
    _edit(
        "pictures for a GPU are erased by the workers",
        "finish=self._in_two is None",
        "finish=True",
        "test_one_step_ahead_is_the_same_run_stopped_or_not",
    ),
    _edit(
        "mixed frames are kept as integers",
        "not mix.swaps(batch.mixing)",
        "False",
        "test_frames_are_looked_at_where_they_are_not_waited_for",
    ),
    _edit("erasing is always black", "erasing_mode=asked.erasing_mode", 'erasing_mode="black"', PICTURES),
    _edit("colour jitter is off", "color_jitter=asked.color_jitter", "color_jitter=0.0", PICTURES),
    _edit("RandAugment is off", "rand_augment=asked.rand_augment,", "rand_augment=None,", PICTURES),
    _edit("crops are not padded", "crop_padding=asked.crop_padding", "crop_padding=0", PICTURES),
    _edit("scale is ignored", "augment.scale, augment.ratio", "(0.08, 1.0), augment.ratio", PICTURES),
    _edit("ratio is ignored", "augment.scale, augment.ratio", "augment.scale, (3 / 4, 4 / 3)", PICTURES),
    _edit("crop ratio is ignored", "augment.ratio, ", "augment.ratio, 0.875 + 0 * ", PICTURES),
    _edit("boxes have another seed", "settings.crop_ratio, settings.seed)", "settings.crop_ratio, 0)", PICTURES),
    _edit(
        "augmentation has another seed",
        "seed=settings.seed,\n            rand_augment",
        "seed=0,\n            rand_augment",
        PICTURES,
    ),
    _edit(
        "events are flipped by another seed",
        "flip=settings.augment.flip, seed=settings.seed",
        "flip=settings.augment.flip, seed=0",
        EVENTS,
    ),
    _edit("events are not moved", '.events else ("identity",)', '.events * 0 else ("identity",)', EVENTS),
    _edit("frames are cut by count", ".frames, (size, size)", '.frames and "count", (size, size)', EVENTS),
    _edit("the window is ignored", "config.data.window,", "config.data.window and None,", PICTURES),
    _edit("the model has another seed", "torch.manual_seed(config.seed)\n", "torch.manual_seed(0)\n", PICTURES),
    _edit("width is ignored", "option) for option in OPTIONS}", "option) for option in OPTIONS[1:]}", OPTIONS),
    _edit(
        "heads are ignored",
        "option) for option in OPTIONS}",
        'option) for option in OPTIONS if option != "heads"}',
        OPTIONS,
    ),
    _edit("tau is ignored", "self.neuron, self.tau, ", "self.neuron, 2.0, ", OPTIONS),
    _edit("the clamp is ignored", "(float(self.clamp[0]), float(self.clamp[1]))", "(0.0, 1.0)", OPTIONS),
    _edit(
        "reduces in bf16 unasked",
        "config.engine.reduce == FULL.name",
        "False",
        "test_what_zero_reduces_in_and_clips_at",
    ),
    _edit(
        "ZeRO does not clip",
        "train.clip_grad if config.engine.zero_stage else 0.0",
        "0.0",
        "test_what_zero_reduces_in_and_clips_at",
    ),
    _edit(
        "autocast is off in evaluation",  # in a step DeepSpeed's is there, too
        "devices.autocast(self.device, self.config.train.precision):\n            result",
        'devices.autocast(self.device, "fp32"):\n            result',
        "test_what_zero_reduces_in_and_clips_at",
    ),
    # A step as a graph
    _edit("a graph computes the first step's pictures", "to.copy_(x)", "pass", GRAPHED),
    _edit("a recording draws the step's random numbers", "torch.random.fork_rng(own), engines", "engines", GRAPHED),
    _edit("a graph's gradients stay on their rank", "engine.sums.add(parameter)", "pass", GRAPHED),
    _edit(
        "a step that logs is replayed",
        "looked_at = self.graph is None or step.logs",
        "looked_at = self.graph is None",
        GRAPHED,
    ),
    _edit(
        "what a graph measured is averaged a step late",
        "launched.statistics.move(launched.means)",
        "launched.statistics.move(launched.statistics.means())",
        GRAPHED,
    ),
    # What is on a GPU
    _edit(
        "statistics of no BatchNorm are the host's", "means.to(sums.device, torch.float64)", "means.double()", ON_GPUS
    ),
    _edit("a batch is taken before it is there", "computing.wait_event(self._copied)", "pass", ON_GPUS),
    _edit(
        "TF32 is never on",
        "devices.exact(config.train.tf32, config.engine.deterministic)\n    if not rank",
        "devices.exact(False, config.engine.deterministic)\n    if not rank",
        PICTURES,
    ),
    _edit(
        "feedback has neurons of its own",
        "self.neuron = Neuron(units.neuron, AFTER",
        "self.neuron = Neuron(type(units.neuron)(), AFTER",
        "test_feedback_fires_at_the_models_threshold",
    ),
    _edit(
        "a mixer of the processing module has a core that never fires",
        "AFTER_PRODUCT if own else options.threshold",
        "options.threshold",
        "test_a_mixer_of_the_processing_module",
    ),
    _edit(
        "feedback does not start at zero",
        "            if name in closed:\n",
        "            if False:\n",
        "test_a_loaded_tdformer_starts_as_its_backbone",
    ),
    # The learning rate
    _edit(
        "the learning rate follows epochs",
        "(step - warmup) / max(1, total - warmup)",
        "(step // steps_per_epoch * steps_per_epoch - warmup) / max(1, total - warmup)",
        PICTURES,
    ),
    _edit("warm-up begins at zero", "train.lr * (step + 1) / warmup", "train.lr * step / warmup", PICTURES),
    _edit(
        "the rate ends at zero",
        "train.min_lr + (train.lr - train.min_lr) * 0.5",
        "(train.lr - train.min_lr) * 0.5",
        PICTURES,
    ),
    # The step
    _edit(
        "clipping without ZeRO is gone",
        "clip_grads_with_norm_(parameters, clip_grad, norm)",
        "get_total_norm([norm])",
        "test_gradients_are_clipped_without_zero",
    ),
    _edit("the loss scale stays in the gradient", "torch._foreach_mul_(gradients, 1 / scale)", "pass", SCALED),
    _edit("DeepSpeed scales too", "engine.optimizer.torch_autocast_gradscaler = None", "pass", SCALED),
    _edit("the loss scale never grows", "if self.finite + 1 < interval:", "if True:", SCALED),
    _edit(
        "the loss scale begins anew",
        "self.state.scale or LossScale(",
        "LossScale(",
        "test_killed_between_an_overflow_and_the_next_growth",
    ),
    _edit(
        "an overflow of fp16 is an alarm",
        "if not (step.applied or step.overflow):",
        "if not step.applied:",
        "test_an_overflow_is_no_alarm_until_the_scale_is_at_its_least",
    ),
    _edit("a step that is not finite is taken", "elif not finite:", "elif False:", LEFT),
    _edit("a GPU's step that is not finite is taken", "found_inf = (~finite).float()", "found_inf = 0 * norm", LATER),
    _edit(
        "what came of a step is looked at after the next one",
        "                self.settle()  # now",
        "                pass  # now",
        LATER,
    ),
    _edit(
        "statistics move in a step that is left out",
        "            launched.statistics.move(launched.means)",
        "            pass\n        launched.statistics.move(launched.means)",
        LEFT,
    ),
    _edit("AdamW counts steps that were left out", "self.state.step - self.state.skipped", "self.state.step", LEFT),
    _edit("moments are not restored", "engine.optimizer.state[parameter][key].copy_(value)", "pass", LEFT),
    _edit(
        "every later checkpoint is the best",
        "        self.best = self.due = False\n",
        "        self.due = False\n",
        LEFT,
    ),
    _edit(
        "a tie is not the best",
        'result["accuracy"] >= self.state.best_accuracy',
        'result["accuracy"] > self.state.best_accuracy',
        "test_the_best_one_is_the_last_of_equals",
    ),
    _edit(
        "the best accuracy is forgotten",
        'max(self.state.best_accuracy, result["accuracy"])',
        'result["accuracy"] * 0',
        LEFT,
    ),
    _edit("SIGTERM is not noted", "self.seen[KINDS.index(kind)] = 1", "pass", LEFT),
    _edit(
        "the average ignores its decay",
        "for value in values.values()], 1 - decay)",
        "for value in values.values()], 0.5)",
        PICTURES,
    ),
    _edit(
        "a second input takes away the gradient of a bias",
        "    if more is None:\n        return total\n",
        "    if more is None:\n        return None\n",
        "test_it_is_its_parts",
    ),
    _edit("the average begins anew", "average[name].copy_(value)", "average[name].add_(0)", LEFT),
    # BatchNorm
    _edit(
        "running statistics stand still",
        "torch._foreach_lerp_(running, values, momentum)",
        "pass",
        "test_one_micro_batch_moves_statistics_as_a_plain_forward_pass",
    ),
    _edit(
        "only the last micro-batch is counted",
        "total.add_(both)",
        "both",
        "test_a_batch_of_norm_batches_is_so_many_micro_batches",
    ),
    _edit(
        "the variance over ranks is a mean of squares",
        "both[1].addcmul_(both[0], both[0], value=-1).clamp_min_(0)",
        "both[1].clamp_min_(0)",
        "test_two_processes_are_one",
    ),
    _edit(
        "an export has the first segment's statistics",
        "row = min(segment, len(self.scale) - 1)",
        "row = 0",
        "test_every_format_holds_the_model",
        "test_folding_changes_no_bit_and_needs_no_statistics",
    ),
    # The order of the data
    _edit(
        "an epoch is that of the first",
        "seed, epoch, n = cursor.seed, cursor.epoch, len(shard_of)",
        "seed, epoch, n = cursor.seed, 0, len(shard_of)",
        "test_windows_never_change",
    ),
    _edit(
        "a resumed epoch begins anew",
        "for step in range(cursor.step, ",
        "for step in range(0, ",
        "test_resuming_gives_the_rest_on_another_number_of_ranks",
    ),
    _edit(
        "an epoch has a step too many",
        "self.step + 1 < steps_per_epoch(n, self.global_batch)",
        "self.step < steps_per_epoch(n, self.global_batch)",
        "test_any_sequence_of_starts_gives_the_global_batches_of_one",
    ),
    _edit(
        "the last samples are not evaluated",
        "np.arange(n * rank // world, n * (rank + 1) // world)",
        "np.arange(n // world * rank, n // world * (rank + 1))",
        "test_evaluation_sees_every_sample_once_in_equally_many_batches_of_each_rank",
    ),
    _edit(
        "other data are gone on with",
        "if self.digest not in (digest, columns):",
        "if False:",
        "test_cursor_survives_saving_and_refuses_other_data",
    ),
    # Fetching
    _edit(
        "an HTTP status of the server is final",
        "error.code >= 500 or",
        "error.code > 599 or",
        "test_a_status_that_passes_is_asked_again",
    ),
    _edit(
        "a throttling store is final",
        "error.code in (408, 425, 429)",
        "False",
        "test_a_status_that_passes_is_asked_again",
    ),
    _edit(
        "a cut answer is whole",
        'if missing := getattr(response, "length", None):',
        "if missing := None:",
        "test_an_answer_that_is_cut_is_asked_for_again",
    ),
    _edit(
        "one try too few",
        "failure.final or tried == tries",
        "failure.final or tried == tries - 1",
        "test_a_status_that_passes_is_asked_again",
    ),
    _edit(
        "what was needed last goes first",
        "in sorted(there):",
        "in sorted(there, reverse=True):",
        "test_what_was_needed_longest_ago_goes_first",
    ),
    # Checkpoints, locks, health
    _edit(
        "a holder that gave it back has it",
        "    if holder.released:\n        return Fate.FREE\n",
        "",
        "test_what_has_become_of_a_holder",
    ),
    _edit(
        "a silent holder is never gone",
        "Fate.OVER if silence > SILENT else Fate.HELD",
        "Fate.HELD",
        "test_what_has_become_of_a_holder",
    ),
    _edit(
        "an earlier start takes over from a later one",
        "if ours and holder.restart > me.restart:",
        "if False:",
        "test_what_has_become_of_a_holder",
    ),
    _edit(
        "another cluster's job is ours",
        "(holder.job, holder.cluster) == (me.job, me.cluster)\n    if ours and holder",
        "holder.job == me.job\n    if ours and holder",
        "test_what_has_become_of_a_holder",
    ),
    _edit(
        "a lock is not given back",
        'os.pwrite(self.fd, b"1", len(\'{"released": \'))',
        "pass",
        "test_a_lock_is_given_back_after_an_error",
    ),
    _edit(
        "a row may be changed",
        "folder.metrics.truncate(self.state.metrics_bytes, self.state.metrics_sha256)",
        "pass",
        LEFT,
    ),
    _edit(
        "a changed byte is not seen",
        "if _facts(path / name) != expected:",
        "if False:",
        "test_a_damaged_one_is_named_and_the_one_before_used",
    ),
    _edit("the best one is removed", 'path.name != _named(root / "best") and ', "", "test_the_best_one_is_kept_too"),
    _edit(
        "a rate at its limit is told",
        "if not low <= unit.rate <= high:",
        "if not low < unit.rate < high:",
        "test_a_layer_is_beyond_its_limits",
    ),
    _edit(
        "as many silent channels as may be are told",
        "if unit.silent > self.limits.silent:",
        "if unit.silent >= self.limits.silent:",
        "test_a_layer_is_beyond_its_limits",
    ),
    _edit(
        "a loss at its limit is told",
        "value > self.limits.spike * usual",
        "value >= self.limits.spike * usual",
        "test_a_spike_is_above_its_limit",
    ),
    _edit(
        "a rank at its limit is told",
        "own > self.limits.straggler * usual",
        "own >= self.limits.straggler * usual",
        "test_a_slow_rank_is_above_its_limit",
    ),
    _edit(
        "a slow rank is not told",
        "own > self.limits.straggler * usual",
        "False",
        "test_alarms_begin_once_and_again_after_an_end",
    ),
    # The run log
    _edit(
        "MFU has what is computed again",
        '(("none", 1), (chosen',
        "((chosen.policy, 1), (chosen",
        "test_what_is_computed_again_is_done_and_not_asked_for",
    ),
    _edit(
        "a device has the operations of all",
        "lap.rate / self.world",
        "lap.rate",
        "test_shares_are_of_the_peak_of_the_precision",
    ),
    _edit(
        "steps that are done again are good",
        '"good": training - done_before',
        '"good": training',
        "test_steps_that_a_kill_has_cost_are_counted_where_they_are_done_again",
    ),
    _edit(
        "fit: the smallest cells are held out",
        "held = sizes >= different[-count]",
        "held = sizes <= different[count - 1]",
        "test_a_law_without_noise_comes_back",
    ),
    _edit(
        "fit: residuals are not widened for few cells",
        "math.sqrt(len(y) / spare) * stats.t.ppf(end, spare) / stats.norm.ppf(end)",
        "1.0",
        "test_intervals_cover_the_truth",
    ),
    _edit(
        "fit: the search ends early",
        "xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400",
        "xtol=1e-1, ftol=1e-1, gtol=1e-1, max_nfev=6",
        "test_a_law_without_noise_comes_back",
        "test_more_axes_and_groups",
    ),
    _edit(
        "fit: axes that grow together are fitted",
        "if np.linalg.svd(logs, compute_uv=False)[-1] < 0.05 * math.sqrt(len(x)):",
        "if False:",
        "test_axes_that_grow_together_are_refused",
    ),
    _edit(
        "fit: p by Holm is no larger than before",
        "(len(known) - place) * p",
        "p",
        "test_several_comparisons_by_holm",
    ),
    _edit(
        "extrapolation: the launch takes no time",
        'compute = max(times.step + times.image * images, values.get("launch", 0.0))',
        "compute = times.step + times.image * images",
        "test_a_small_share_is_bounded_by_its_launch",
    ),
    _edit(
        "extrapolation: the slowest rank is as fast as one",
        'return (compute + waiting) * (1 + values["spread"] * slowest(world)[0])',
        "return compute + waiting",
        "test_the_figures_are_those_of_the_program",
    ),
    _edit(
        "network: all sums are hidden behind computing",
        "seconds += max(0.0, sum(early) - compute * BACKWARD / rule.segments) + last",
        "seconds += last",
        "test_what_computing_hides",
    ),
    # Energy, with the mistakes that the field's counters are known for
    _edit("the layer of the pixels is left out", '{"mac": reached(x != 0)}', "{}", *COUNTED),
    _edit("attention is counted on one side", "pairs(low(a), b != 0)", "pairs(low(a), b >= 0)", *COUNTED),
    _edit(
        "a sum of spikes is taken for a spike",
        '"additions": reached(x * (x > 1))',
        '"additions": reached(x > 1)',
        *COUNTED,
    ),
    _edit("feedback's projection is left out", "self.convolution(layer, more)", "pass", *FED),
    _edit("membranes cost nothing to keep", "2 * row.potentials * of_potential", "0", "test_memory_by_layer"),
    _edit(
        "feedback's projection costs nothing in training",
        "self.layer(more[0], more[1])",
        "pass",
        "test_it_is_the_figure_of_the_counted_operations",
    ),
    _edit(
        "what backward computes again costs energy",
        "        if is_recomputing():\n            return\n        x, _, *more = args\n",
        "        x, _, *more = args\n",
        "test_recomputation_costs_nothing_and_micro_batches_add_up",
    ),
)


def places(tree: Path, text: str) -> list[Path]:
    """The files of the packages that have the text, one as often as it does."""
    files = sorted(path for package in PACKAGES for path in (tree / package).rglob("*.py"))
    return [path for path in files for _ in range(path.read_text().count(text))]


def where(tree: Path, test: str) -> str:
    """The test as pytest takes it. Raises LookupError where it is not there once."""
    name, bracket, parameters = test.partition("[")
    found = [path for path in sorted((tree / "tests").rglob("test_*.py")) if f"\ndef {name}(" in path.read_text()]
    if len(found) != 1:
        raise LookupError(f"{name} is in {len(found)} files")
    return f"{found[0]}::{name}{bracket}{parameters}"
