"""A stored phi as a user takes it away: a learner, a network, an initialization, an optimizer, a classifier."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metasearch import artifacts
from metasearch.artifacts import Manifest, StoredPhi
from metasearch.augment import Augmentation
from metasearch.core.contracts import Learner
from metasearch.core.errors import ArtifactError
from metasearch.core.values import Batch, Phi, TaskSpec, Tensors
from metasearch.optim import ElementwiseSGD, StepRates
from metasearch.takeaway.adapted import AdaptedNetwork, module_of
from metasearch.takeaway.architecture import FoundArchitecture, found, with_learned
from metasearch.takeaway.augmentation import policy_of
from metasearch.takeaway.describe import lines, one_line
from metasearch.takeaway.export import export
from metasearch.takeaway.found import FoundSchedule, found_schedule
from metasearch.takeaway.initialize import InitializationReport, fill, initialize
from metasearch.takeaway.inputs import as_examples, as_targets
from metasearch.takeaway.pictures import inverted, read_class_folders, read_images
from metasearch.takeaway.places import find
from metasearch.takeaway.rates import elementwise_sgd, group_rates, param_groups, schedule_of
from metasearch.takeaway.rebuild import (
    build_learner,
    for_outputs,
    made_patterns,
    spec_of,
    with_outputs,
    zero_patterns,
)

if TYPE_CHECKING:
    from metasearch.classifier import MetaClassifier, MetaRegressor
    from metasearch.takeaway.optimizer import LearnedOptimizer

__all__ = ["LoadedPhi", "load", "load_fitted"]


def load(
    uri: str | Path, *, allow_user_code: bool = False, runs: str | Path = "runs", tracking_uri: str | None = None
) -> LoadedPhi:
    """A stored phi; reading it imports nobody's code and loads no data.

    Args:
        uri: the folder of a phi or of a run, a run's id or the beginning of one, ``runs:/<MLflow run id>[/phi]``,
            ``models:/<name>/<version>`` or ``models:/<name>@<alias>``, or the name of a learned optimizer that comes
            with the package (:func:`metasearch.optimizers`).
        allow_user_code: whether what is built from this phi may import modules that its manifest names; say so only
            for a phi whose origin you trust.
        runs: folder of run directories, for ids.
        tracking_uri: MLflow store; None takes ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises:
        ArtifactError: if nothing is there (listing what was tried), or it is damaged.

    Example:
        >>> import tempfile
        >>> from metasearch.testing.phi import stored_phi
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learned = load(stored_phi(folder))
        >>> learned
        LoadedPhi('example', step 0: initialization 67 values; validation L 1)
    """
    with find(uri, runs, tracking_uri) as folder:
        return LoadedPhi(artifacts.load(folder), str(uri), allow_user_code=allow_user_code)


def load_fitted(
    folder: str | Path, *, device: str = "cpu", allow_user_code: bool = False
) -> MetaClassifier | MetaRegressor:
    """A fitted classifier or regressor, from the folder that its ``save`` wrote.

    Args:
        folder: see there.
        device: where to compute.
        allow_user_code: as in :func:`load`.

    Raises:
        ArtifactError: if there is none, or it is damaged.

    Example:
        >>> import tempfile
        >>> from metasearch.testing.phi import stored_phi
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     few = load(stored_phi(f"{folder}/phi")).classifier().fit(torch.eye(3, 4), ["cat", "dog", "owl"])
        ...     again = load_fitted(few.save(f"{folder}/few"))
        >>> again.predict(torch.eye(3, 4)).tolist() == few.predict(torch.eye(3, 4)).tolist()
        True
    """
    from metasearch.classifier import read_estimator

    return read_estimator(folder, lambda path: load(path, allow_user_code=allow_user_code), device)


class LoadedPhi:
    """A phi, what is known about it, and what can be made of it.

    Args:
        stored: phi and its manifest.
        source: where it was loaded from.
        allow_user_code: whether modules that the manifest names may be imported.
    """

    def __init__(self, stored: StoredPhi, source: str = "", *, allow_user_code: bool = False) -> None:
        phi, manifest = stored.phi, stored.manifest
        # A file of tensors has an order of its own; the manifest has that of the network.
        tensors = {name: phi.tensors[name] for name in manifest.tensors}
        self.phi: Phi = phi.replace(tensors=tensors, buffers={name: phi.buffers[name] for name in manifest.buffers})
        self.manifest: Manifest = manifest
        self.source = source
        self.allow_user_code = allow_user_code
        self._learners: dict[tuple[int | None, bool], Learner] = {}

    @property
    def spec(self) -> TaskSpec:
        """Shapes of the tasks it was learned on.

        Raises:
            ArtifactError: if the manifest does not say.
        """
        return spec_of(self.manifest, allow_user_code=self.allow_user_code)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the search computed."""
        name = (self.manifest.config.get("numerics") or {}).get("dtype")
        if name is not None:
            return torch.float64 if name == "float64" else torch.float32
        return next((value.dtype for value in self.phi.tensors.values() if value.is_floating_point()), torch.float32)

    @property
    def takes_unlabelled(self) -> bool:
        """Whether the learner learns from examples without a label, too."""
        return bool(getattr(self.learner(), "takes_unlabelled", False))

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen of a space, by full name; empty where nothing was."""
        return dict(self.phi.choices)

    @property
    def schedule(self) -> FoundSchedule:
        """Settings over the course of a training run, as population-based training found them.

        Raises:
            ArtifactError: if no population was searched.
        """
        return found_schedule(self.manifest)

    def initialization(self) -> Tensors:
        """The learned initial parameters by the network's own names (copies); empty if none were learned.

        Those that every task starts at zero (``zero`` of the initialization) were not learned and are not among them.
        """
        return {name: value.clone() for name, value in self.phi.part("initialization").items()}

    def learner(self, ways: int | None = None, *, allow_user_code: bool | None = None) -> Learner:
        """The learner phi belongs to, built from the manifest; no data are needed.

        Args:
            ways: number of classes (or of regressed values); None means that of training.
            allow_user_code: None means as :func:`load` was told.

        Raises:
            ArtifactError: if it needs code that may not be imported, or cannot be built here.
        """
        allowed = self.allow_user_code if allow_user_code is None else allow_user_code
        key = (ways, allowed)
        if key not in self._learners:
            spec = with_outputs(spec_of(self.manifest, allow_user_code=allowed), ways)
            self._learners[key] = build_learner(self.manifest, self.phi.choices, spec, allow_user_code=allowed)
        return self._learners[key]

    def for_ways(self, ways: int | None = None) -> Phi:
        """Phi for a number of outputs: as it is for that of training, else made by
        :func:`~metasearch.takeaway.rebuild.for_outputs`.

        Raises:
            ArtifactError: if phi does not fit its learner, or cannot do with another number of outputs.
        """
        learned = self.learner()
        if ways is None or ways == self.spec.outputs:
            artifacts.check_fits(self.phi, learned.init(0))
            return self.phi
        return for_outputs(self.phi, learned, self.learner(ways))

    def network(self, num_outputs: int | None = None) -> nn.Module:
        """The architecture as an ordinary module, with the learned initialization in it.

        Args:
            num_outputs: another number of outputs than in training; the last layer then has the architecture's own
                fresh values, the same in every call.

        Raises:
            ArtifactError: if no initialization was learned, or the learner has no network to hand out.
        """
        if not self.phi.part("initialization"):
            raise self._no_initialization()
        learner: Any = self.learner(num_outputs)
        module = module_of(learner).to(self.dtype)
        fill(module, *learner.model.init(0))
        self.initialize(module)
        return module

    def initialize(self, module: nn.Module) -> InitializationReport:
        """Puts the learned initialization into a module of the same architecture, whatever its number of classes.

        Args:
            module: has the parameter names phi was learned with; any dtype, any device. If its last layer has another
                number of outputs (first dimension), that layer stays as it is. Nothing is changed unless everything
                fits.

        Returns:
            What was loaded and what stayed fresh.

        Raises:
            ArtifactError: naming the parameters that are missing or too much, or both shapes of one that differs.

        Example:
            >>> import tempfile
            >>> from metasearch.testing.phi import stored_phi
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     learned = load(stored_phi(folder))
            >>> class Mine(nn.Module):
            ...     def __init__(self, classes):
            ...         super().__init__()
            ...         self.layers = nn.ModuleList([nn.Linear(4, 8)])
            ...         self.head = nn.Linear(8, classes)
            >>> print(learned.initialize(Mine(classes=7)))
            loaded 2: layers.0.weight, layers.0.bias
            fresh 2, for another number of outputs: head.weight (learned [3, 8], here [7, 8]), head.bias (learned [3],
            here [7])
        """
        parameters = self.phi.part("initialization")
        if not parameters:
            raise self._no_initialization()
        outputs = self.manifest.spec.get("outputs")
        return initialize(
            module,
            parameters,
            self.phi.buffers_of("initialization"),
            outputs,
            zero_patterns(self.manifest),
            made_patterns(self.manifest),
        )

    def param_groups(
        self, module: nn.Module, *, step: int = 0, rest: float | None = None, average: bool = False
    ) -> list[dict[str, Any]]:
        """The learned rates as param groups for any of torch's optimizers; parameters of equal rates share a group.

        A rate acts on the gradient of the support loss as the search reduced it (``learner.reduction``: its mean, by
        default). A learned rate may be negative.

        Args:
            module: has the parameter names phi was learned with, its last layer of any size.
            step: the inner step whose rates are meant, if steps have their own; beyond those that were taken, the last.
                :meth:`scheduler` goes through the steps.
            rest: rate of the parameters that the inner loop never changed; None leaves them out.
            average: take the mean rate of each tensor where every single number has its own. That is not what the
                inner loop did: :meth:`sgd` is.

        Returns:
            Groups with ``params``, ``lr`` and ``param_names``.

        Raises:
            ArtifactError: if there are no rates, the module lacks a parameter, or every single number has its own rate.

        Example:
            >>> import tempfile
            >>> from metasearch.testing.phi import LEARNER, stored_phi
            >>> rates = {**LEARNER["slots"], "learning_rates": {"type": "per_layer", "init": [0.005, 0.1]}}
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     learned = load(stored_phi(folder, learner={**LEARNER, "slots": rates}))
            >>> optimizer = torch.optim.SGD(learned.param_groups(learned.network()))
            >>> [(group["param_names"], round(group["lr"], 3)) for group in optimizer.param_groups]
            [(['layers.0.weight', 'layers.0.bias'], 0.0...), (['head.weight', 'head.bias'], 0.0...)]
        """
        return param_groups(self.learner(), self.phi, module, step, rest, average)

    def sgd(self, module: nn.Module, ways: int | None = None) -> ElementwiseSGD:
        """Gradient descent with the learned rates, those of single numbers and of steps included: it takes the steps
        of the inner loop.

        Args:
            module: has the parameter names phi was learned with.
            ways: its number of outputs; None means that of training. See :meth:`for_ways`.

        Raises:
            ArtifactError: if there are no rates, the module does not fit, or the inner loop is no gradient descent.
        """
        return elementwise_sgd(self.learner(ways), self.for_ways(ways), module)

    def scheduler(
        self, optimizer: torch.optim.Optimizer, steps: int | None = None, *, name: str = "schedule"
    ) -> StepRates:
        """What was learned about rates in the course of time, as an LR scheduler for any training loop.

        - Rates that inner steps have of their own: call ``scheduler.step()`` after each step of an optimizer over
          :meth:`param_groups`. After the last of them its rates stay.
        - The curve that a search over training runs chose (:func:`metasearch.optim.schedule`): it is laid over
          ``steps`` calls, of epochs or of batches.

        Args:
            optimizer: whose groups it changes.
            steps: length of the run, for a curve.
            name: under which the training function's settings hold the curve.

        Raises:
            ArtifactError: if neither was learned, or the groups are not those of :meth:`param_groups`.
        """
        if self.manifest.config.get("learner"):
            return StepRates(optimizer, group_rates(self.learner(), self.phi, optimizer))
        curve = schedule_of(self.manifest, self.phi, name, allow_user_code=self.allow_user_code)
        if steps is None:
            raise ArtifactError("a curve needs the length of the run: scheduler(optimizer, steps=...)")
        return curve.scheduler(optimizer, steps)

    def embedding(self, slot: str = "embedding") -> nn.Module:
        """The learned embedding of a metric learner as an ordinary module, in evaluation mode.

        Args:
            slot: which, where the learner has several (``query_embedding`` of Matching Networks).

        Returns:
            A module from examples ``[n, *input_shape]`` to vectors ``[n, features]``, with the learned values;
            running statistics are buffers. A network that has none normalizes by the batch it is given.

        Raises:
            ArtifactError: if this phi holds no such embedding.
        """
        embedding: Any = getattr(self.learner(), slot, None)
        if not self.phi.part(slot) or embedding is None:
            raise ArtifactError(f"this phi has no {slot!r} (it holds: {self._held()}); metric learners have one")
        module: nn.Module = embedding.module(self.phi).to(self.dtype)
        return module

    def similarity(self, first: Any, second: Any, device: str | torch.device = "cpu") -> Tensor:
        """How alike the two examples of each pair are, by what a Siamese network has learned.

        Args:
            first: examples ``[n, *input_shape]`` (see :func:`~metasearch.takeaway.inputs.as_examples`).
            second: as many.
            device: where to compute.

        Returns:
            ``[n]``, larger for what is more alike: the probability that two are the same, or minus their distance.

        Raises:
            ArtifactError: if this phi is no Siamese network's.
            ValueError: if the examples have the wrong shape or values, or not the same number.
        """
        learner: Any = self.learner()
        if not hasattr(learner, "similarity"):
            raise ArtifactError(
                f"only Siamese networks judge single pairs, this phi is of {type(learner).__name__}; use .classifier()"
            )
        shape = self.spec.input_shape
        x = as_examples(first, shape, dtype=self.dtype, device=device, name="first")
        y = as_examples(second, shape, dtype=self.dtype, device=device, name="second")
        if len(x) != len(y):
            raise ValueError(f"expected pairs, got {len(x)} first and {len(y)} second examples")
        found: Tensor = learner.similarity(self.phi.to(device, self.dtype), x.unsqueeze(0), y.unsqueeze(0))
        return found.squeeze(0)

    def images(self, files: str | Path | Iterable[str | Path], *, invert: bool | None = None) -> NDArray[np.uint8]:
        """Pictures as the tasks of the search had them, ``[n, *input_shape]`` in 256 levels: cut around the middle,
        resized (Lanczos), in its number of channels, for :meth:`classifier` and :meth:`similarity`.

        Args:
            files: a picture; a folder, whose pictures are taken in the order of their names; or several pictures.
            invert: whether dark becomes light; None means as in the search, where Omniglot's ink on paper does.

        Raises:
            ArtifactError: if this phi takes no pictures.
            DataError: if a file is no picture or is not there, or there is none.
        """
        return read_images(files, self.spec.input_shape, self._inverted(invert))

    def labelled_images(
        self, folder: str | Path, *, invert: bool | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
        """All pictures of a folder that has one folder for each class, as :meth:`images` reads them, and the names of
        their classes ``[n]``.

        Raises:
            DataError: if there are no folders in this one, or one of them holds no pictures.
            ArtifactError: if this phi takes no pictures.
        """
        return read_class_folders(folder, self.spec.input_shape, self._inverted(invert))

    def adapt(
        self,
        support_x: Any,
        support_y: Any,
        steps: int | None = None,
        *,
        ways: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> AdaptedNetwork:
        """Learns one task, as the inner loop of the search did.

        Args:
            support_x: examples ``[n, *input_shape]`` (or what :func:`~metasearch.takeaway.inputs.as_examples` takes
                besides).
            support_y: classes ``[n]`` from 0, or values ``[n, outputs]``; -1 is an example without a label, for
                learners that :attr:`takes_unlabelled`.
            steps: inner steps; None means as many as at the search's test.
            ways: number of classes (or of values); None means that of training. See :meth:`for_ways`.
            device: where to compute.
            seed: of what the learner draws, if it draws.

        Raises:
            ValueError: if the examples have the wrong shape or values.
            ArtifactError: if the learner cannot be built.
        """
        spec = with_outputs(self.spec, ways)
        x = as_examples(support_x, spec.input_shape, dtype=self.dtype, device=device, name="support_x")
        y = as_targets(support_y, len(x), spec, self.dtype, unlabelled=self.takes_unlabelled).to(device)
        if steps is not None and steps < 0:
            raise ValueError(f"expected at least 0 inner steps, got {steps}")
        learner = self.learner(ways)
        phi = self.for_ways(ways).to(device, self.dtype)
        with torch.no_grad():
            predictor = learner.adapt(phi, Batch(x.unsqueeze(0), y.unsqueeze(0)), seed, steps)
        return AdaptedNetwork(predictor, learner, spec, self.dtype, torch.device(device))

    def classifier(self, steps: int | None = None, device: str = "cpu") -> MetaClassifier:
        """A scikit-learn classifier that learns from a few examples of each class; see
        :class:`~metasearch.classifier.MetaClassifier`.

        Args:
            steps: inner steps; None means as many as at the search's test.
            device: where to compute.

        Raises:
            ArtifactError: if phi was learned on other tasks than classification.
        """
        from metasearch.classifier import MetaClassifier

        self._expect("classification")
        return MetaClassifier(self, steps=steps, device=device)

    def regressor(self, steps: int | None = None, device: str = "cpu") -> MetaRegressor:
        """A scikit-learn regressor; the arguments are those of :meth:`classifier`.

        Raises:
            ArtifactError: if phi was learned on other tasks than regression.
        """
        from metasearch.classifier import MetaRegressor

        self._expect("regression")
        return MetaRegressor(self, steps=steps, device=device)

    def optimizer(self, params: Iterable[Any], *, lr: float = 1.0, weight_decay: float = 0.0) -> LearnedOptimizer:
        """The learned update rule as an optimizer for any model; see
        :class:`~metasearch.takeaway.optimizer.LearnedOptimizer`.

        Args:
            params: ``model.parameters()``, parameter groups, or ``model.named_parameters()``.
            lr: factor on the rule's steps; 1 is as learned.
            weight_decay: share of a parameter that is taken off, per step and unit of ``lr``.

        Raises:
            ArtifactError: if no update rule was learned, or it needs a user's code without leave to import it.

        Example:
            >>> import tempfile
            >>> from metasearch.testing.phi import LEARNER, stored_phi
            >>> slots = {"initialization": {"type": "random"}, "update_rule": {"type": "lstm"}}
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     learned = load(stored_phi(folder, learner={**LEARNER, "slots": slots}))
            >>> model = nn.Linear(4, 3)
            >>> optimizer = learned.optimizer(model.parameters())
            >>> model(torch.ones(2, 4)).sum().backward()
            >>> optimizer.step()
        """
        from metasearch.takeaway.optimizer import LearnedOptimizer, rule_of

        learned = rule_of(self.manifest, self.phi, allow_user_code=self.allow_user_code)
        return LearnedOptimizer(learned, params, lr=lr, weight_decay=weight_decay)

    def architecture(self) -> FoundArchitecture:
        """The architecture that was found: ``.operations``, ``.build(num_classes)``, ``.describe()``, ``.draw(path)``.

        Raises:
            ArtifactError: if this phi holds none.
        """
        return found(self.manifest, self.phi)

    def build(self, num_classes: int | None = None, *, learned: bool = False, **settings: Any) -> nn.Module:
        """The architecture that was found as an ordinary module.

        Args:
            num_classes: outputs; None means as many as in the search.
            learned: put the supernet's weights into it, where the search had one (for as many classes as it had);
                else its weights are fresh, drawn from torch's generator.
            settings: in place of those of the search, for example ``channels=(16, 32, 64), cells=5, in_channels=1``.

        Raises:
            ArtifactError: if this phi holds no architecture, or no weights that fit.
        """
        outputs = self.manifest.spec.get("outputs") if num_classes is None else num_classes
        if outputs is None:
            raise ArtifactError("the search had no data of its own; say how many classes: build(num_classes=...)")
        if not learned:
            return self.architecture().build(outputs, **settings)
        running = (self.manifest.model or {}).get("norm", "running") == "running"
        return with_learned(self.architecture().build(outputs, **{"running": running, **settings}), self.phi)

    def augmentation(self) -> Augmentation:
        """The learned augmentation as a transform: of single pictures in a data loader, or of batches in a training
        step; see :class:`~metasearch.augment.module.Augmentation`.

        Raises:
            ArtifactError: if no augmentation was searched, or it cannot be built here.

        Example:
            >>> import tempfile
            >>> from metasearch.testing.phi import LEARNER, stored_phi
            >>> slots = {**LEARNER["slots"], "augmentation": {"type": "rand_augment", "count": 2, "level": 0.3}}
            >>> spec = TaskSpec("classification", (1, 8, 8), 3, 3, 6)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     learned = load(stored_phi(folder, learner={**LEARNER, "slots": slots}, spec=spec))
            >>> augment = learned.augmentation()
            >>> augment(torch.rand(5, 3, 32, 32)).shape
            torch.Size([5, 3, 32, 32])
        """
        return Augmentation(policy_of(self.manifest, self.phi, allow_user_code=self.allow_user_code))

    def save(self, path: str | Path) -> Path:
        """Writes it elsewhere: a folder; ``*.safetensors`` or ``*.pt`` with the initialization as a state dict; or
        ``*.json`` with the augmentation policy. See :func:`metasearch.takeaway.export.export`.
        """
        return export(StoredPhi(self.phi, self.manifest), path, allow_user_code=self.allow_user_code)

    def __getstate__(self) -> dict[str, Any]:
        # Learners may hold what no pickle can (a module's factory) and are built again when they are needed. Arrays
        # have the same pickle in every copy, which those of tensors have not: joblib's caches recognize what they hold.
        parts = (self.phi.tensors, self.phi.buffers)
        tensors, buffers = ({name: value.detach().numpy() for name, value in part.items()} for part in parts)
        return {**self.__dict__, "_learners": {}, "phi": (tensors, buffers, dict(self.phi.choices))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tensors, buffers, choices = state["phi"]
        phi = Phi(
            {name: torch.tensor(value) for name, value in tensors.items()},
            {name: torch.tensor(value) for name, value in buffers.items()},
            choices,
        )
        self.__dict__.update(state, phi=phi)

    def __repr__(self) -> str:
        return one_line(self.phi, self.manifest)

    def __str__(self) -> str:
        return lines(self.phi, self.manifest, self.source)

    def _inverted(self, invert: bool | None) -> bool:
        return inverted(self.manifest.config) if invert is None else invert

    def _held(self) -> str:
        """The slots that hold something, for messages."""
        return ", ".join(sorted({name.partition(".")[0] for name in self.phi.tensors})) or "choices only"

    def _no_initialization(self) -> ArtifactError:
        use = ".learner() or .adapt"
        if self.phi.part("embedding"):
            use = ".embedding() for the network as an ordinary module, .classifier() or .adapt to learn new classes"
        return ArtifactError(f"this phi has no learned initialization (it holds: {self._held()}); use {use}")

    def _expect(self, kind: str) -> None:
        if self.spec.kind != kind:
            use = {"classification": ".classifier() or .adapt", "regression": ".regressor() or .adapt"}
            raise ArtifactError(
                f"this phi was learned on tasks of kind {self.spec.kind!r}, not {kind}; use "
                f"{use.get(self.spec.kind, '.learner()')}"
            )
