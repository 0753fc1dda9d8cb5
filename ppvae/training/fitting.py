"""Training a pair from one call."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric.loggers.logger import Logger

from ppvae import require
from ppvae.data.dataset import Data
from ppvae.data.loading import load_data
from ppvae.errors import PpvaeError
from ppvae.options import check_options, option_names
from ppvae.pair.checks import check
from ppvae.pair.guide_family import set_family
from ppvae.pair.model import Model
from ppvae.randomness import block_seed, forked, reseed
from ppvae.runs.files import as_folder, empty_directory
from ppvae.runs.folder import CONFIG, is_finished, write_config, write_outcome
from ppvae.training.checkpoints import Checkpoints
from ppvae.training.fitted import Fit
from ppvae.training.loading import load
from ppvae.training.loop import Training
from ppvae.training.machine import checked_loggers, make_fabric
from ppvae.training.preparation import default_gradient, in_precision_of, posterior_of, start_model, trained_on
from ppvae.training.run import existing_run, refuse_other_settings
from ppvae.training.settings import (
    PRECISIONS,
    STEPS_BETWEEN_EVALUATIONS,
    STEPS_BETWEEN_EVALUATIONS_OF_ROWS,
    Precision,
    Settings,
)
from ppvae.variational.estimator import Estimator, Gradient
from ppvae.variational.objective import KL, ObjectiveName
from ppvae.variational.strategy import strategy_class


def fit(
    model: Model | Fit,
    data: Data | str,
    inference: str = "amortized",
    objective: ObjectiveName = "elbo",
    *,
    inference_options: Mapping[str, Any] | None = None,
    family: str | None = None,
    family_options: Mapping[str, Any] | None = None,
    gradient: Gradient | None = None,
    kl: KL | None = None,
    beta: float = 1.0,
    warmup: int = 0,
    free_bits: float = 0.0,
    num_particles: int = 1,
    batch_size: int = 100,
    lr: float = 1e-3,
    lr_encoder: float | None = None,
    lr_phi: float | None = None,
    max_epochs: int = 200,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    patience: int | None = 20,
    eval_every: int | None = None,
    train_model: bool = True,
    compile: bool = False,
    accelerator: str = "auto",
    precision: Precision = "32-true",
    seed: int = 0,
    progress: bool | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    loggers: Logger | Sequence[Logger] = (),
) -> Fit:
    """Train a pair under one inference strategy.

    Args:
        model: the pair; it is copied, and the argument left alone. Or a fit to go on from, under the same or another
            strategy: θ starts where it ended, rows at its posterior of each datum, an encoder at its encoder.
        data: a `Data`, or what `load_data` takes.
        inference: name of a strategy: see `list_inference()`.
        objective: what is maximised: "elbo"; "iwae", the importance-weighted bound of num_particles draws; "rws",
            reweighted wake-sleep.
        inference_options: of the strategy, such as {"inner_steps": "converge"} or {"encoder": module}.
        family: mean-field, full-covariance, low-rank, mixture, iaf, spline or ladder, in place of the model's own
            guide.
        family_options: of the family, such as {"rank": 2}.
        gradient: how its gradient is estimated: reparam, stl, dreg, score, loo, vimco or wake (`ppvae list` says which
            go together); where None, reparam, but stl for an ELBO some of whose KL terms have no closed form (a chain
            guide, a mixture, a flow): their noise would drown the rest; wake for rws.
        kl: "analytic" integrates KL terms in closed form where that is exact; "mc" uses the draws; where None,
            analytic if the gradient allows it.
        beta: weight of the KL terms (β-VAE).
        warmup: steps over which beta rises linearly from 0.
        free_bits: nats of each latent's KL, averaged over a batch, that cost nothing.
        num_particles: S, draws for each datapoint and step.
        batch_size: B.
        lr: Adam's learning rate for θ.
        lr_encoder: for λ and the weights that the guide owns; as θ where None.
        lr_phi: for per-datapoint rows, where None the strategy's default.
        max_epochs: passes over the training data.
        max_steps: steps in all, after which it stops.
        max_seconds: of training, after which it stops.
        patience: evaluations without a better validation bound before training stops; None never stops. The
            best weights are the ones returned.
        eval_every: epochs between evaluations; where None, as many as make 200 steps, or 650 where validation data need
            rows of their own.
        train_model: False keeps θ as it is: the same model under another inference.
        compile: record the model's operations and fuse them by `torch.compile`, which takes some ten seconds before the
            first step and needs a C++ compiler; the numbers are the same but for rounding. For fits of minutes.
        accelerator: as Lightning Fabric has them: "auto", "cpu", "cuda", …
        precision: of weights and of training, as Lightning Fabric has them.
        seed: of everything random; the caller's random state is left alone.
        progress: show a progress bar; where None, only on a terminal.
        run_dir: a new directory to keep the run in while it goes on; `ppvae.load` reads it when it is finished.
        resume: go on with the run in run_dir, which must be of these same arguments, where it stopped; on a CPU
            with as many threads it ends as if it had not. A finished one is loaded, one not begun begins.
        checkpoint_seconds: between two checkpoints; Ctrl-C makes one at once.
        loggers: of Lightning, one or several, such as lightning_fabric.loggers.TensorBoardLogger("runs"): each gets
            train_bound, valid_bound (nats/datum) and seconds at every evaluation. (run_dir has them in metrics.csv.)

    Raises:
        PpvaeError: arguments out of range, a pair that `check` refuses, data that the strategy refuses.
        NonFiniteError: the bound became NaN or infinite: the message names the step and the site.
        Interrupted: Ctrl-C, where run_dir keeps what there is.
    """
    origin, model = (model, model.model) if isinstance(model, Fit) else (None, model)
    if not isinstance(model, Model):
        raise PpvaeError(f"model must be a ppvae.Model, got {type(model).__name__}: create one with ppvae.create(name)")
    require.flag("train_model", train_model)
    require.flag("compile", compile)
    data = load_data(data)
    estimator = Estimator(objective, gradient, kl, beta, free_bits)
    seed = require.count("seed", seed, least=0)
    lr = require.positive("lr", lr)
    lr_encoder = lr if lr_encoder is None else require.positive("lr_encoder", lr_encoder)
    options = require.mapping("inference_options", inference_options)
    strategy_type = strategy_class(inference)
    if lr_phi is not None:
        if "lr" not in option_names(strategy_type):
            raise PpvaeError(f"lr_phi is for rows of their own, and {inference} keeps none: leave it out")
        options["lr"] = require.positive("lr_phi", lr_phi)
    check_options(inference, strategy_type, options, skip=("self", "model", "x"))
    if data.dynamic and strategy_type.has_rows:
        raise PpvaeError(
            f"{inference} keeps a row for each fixed datapoint, and dynamic binarisation redraws them at every "
            'visit: load the data with treatment="static"'
        )
    if max_steps is not None:
        max_steps = require.count("max_steps", max_steps)
    if max_seconds is not None:
        max_seconds = require.positive("max_seconds", max_seconds)
    if patience is not None:
        patience = require.count("patience", patience)
    num_particles = require.count("num_particles", num_particles)
    warmup = require.count("warmup", warmup, least=0)
    if warmup and objective != "elbo":
        raise PpvaeError(f"warmup raises the weight of the ELBO's KL terms, and {objective} has none: leave it out")
    family_of = require.mapping("family_options", family_options)
    if family is None and origin is not None:
        family, family_of = origin.settings.family, family_of or origin.settings.family_options
    if family is None and family_of:
        raise PpvaeError("family_options are of a family: name one")
    max_epochs = require.count("max_epochs", max_epochs)
    batch_size = min(require.count("batch_size", batch_size), len(data.train))
    steps_per_epoch = math.ceil(len(data.train) / batch_size)
    if eval_every is None:
        between = STEPS_BETWEEN_EVALUATIONS_OF_ROWS if strategy_type.has_rows else STEPS_BETWEEN_EVALUATIONS
        eval_every = min(max_epochs, math.ceil(between / steps_per_epoch))
    eval_every = require.count("eval_every", eval_every)
    require.one_of("precision", precision, PRECISIONS)
    checkpoint_seconds = require.positive("checkpoint_seconds", checkpoint_seconds, zero=True)
    if resume and run_dir is None:
        raise PpvaeError("resume needs run_dir: the folder of the run to go on with")
    run = (
        None if run_dir is None else (existing_run(as_folder(run_dir)) if resume else None) or empty_directory(run_dir)
    )
    fabric = make_fabric(accelerator, precision, checked_loggers(loggers))

    with forked(fabric.device), torch.enable_grad():
        reseed(block_seed(seed), fabric.device)
        model = copy.deepcopy(model).to(data.train.device).train()  # another fit may have left it on an accelerator
        x = start_model(model, data) if origin is None and train_model else in_precision_of(model, data)
        check(model, data.draw(x[:7]))
        if origin is None or (family, family_of) != (origin.settings.family, origin.settings.family_options):
            model.guide_family = None
            set_family(model, x, family, family_of)
        strategy = strategy_type(model, x, **options).to(x.dtype)
        if objective == "elbo" and gradient is None and kl is None:
            estimator = default_gradient(estimator, model, strategy, data.draw(x[:2]))
        estimator.suits(model, num_particles)
        if origin is not None and strategy.layout.entries.keys() == origin.strategy.layout.entries.keys():
            strategy.warm_start(partial(posterior_of, origin, x, trained_on(origin, data)), origin.strategy, x)
        settings = Settings(
            inference=inference,
            inference_options=options,
            family=family,
            family_options=family_of,
            objective=objective,
            gradient=estimator.gradient or "reparam",
            kl=estimator.kl or "mc",
            beta=beta,
            warmup=warmup,
            free_bits=free_bits,
            num_particles=num_particles,
            batch_size=batch_size,
            lr=lr,
            lr_encoder=lr_encoder,
            max_epochs=max_epochs,
            max_steps=max_steps,
            max_seconds=max_seconds,
            patience=patience,
            eval_every=eval_every,
            accelerator=accelerator,
            precision=precision,
            train_model=train_model,
            compile=compile,
            init=None if origin is None else origin.directory or "a fit in Python",
            seed=seed,
            data=data.name,
            treatment=data.treatment,
            source=data.source,
            num_data=len(data.train),
            event_shape=list(data.event_shape),
        )
        result = Fit(model, strategy, settings)
        if run is None:
            return Training(result, data, fabric, progress, None).run()
        checkpoints = Checkpoints(run, checkpoint_seconds)
        begun = (run / CONFIG).is_file()
        if begun:
            refuse_other_settings(run, result)
            if is_finished(run):
                return load(run, model=model, encoder=options.get("encoder"))
        training = Training(result, data, fabric, progress, checkpoints)
        if begun:
            checkpoints.restore(training)
        else:
            config = result.config()  # what cannot be saved is refused now rather than after the training
            checkpoints.write(training)
            write_config(run, "fit", config)  # last: a folder without it is no run yet
        try:
            training.run()
        except Exception:
            checkpoints.discard()
            raise
        write_outcome(run, result.history, result.weights(), result.outcome())
        checkpoints.remove()
        result.directory = os.path.abspath(run)
        return result
