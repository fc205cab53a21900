"""A stored phi as a user takes it away: a learner, a network, an initialization, a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metasearch import artifacts
from metasearch.artifacts import Manifest, StoredPhi
from metasearch.core.contracts import Learner
from metasearch.core.errors import ArtifactError
from metasearch.core.values import Batch, Phi, TaskSpec, Tensors
from metasearch.takeaway.adapted import AdaptedNetwork, module_of
from metasearch.takeaway.describe import lines, one_line
from metasearch.takeaway.export import export
from metasearch.takeaway.initialize import InitializationReport, fill, initialize
from metasearch.takeaway.inputs import as_examples, as_targets
from metasearch.takeaway.places import find
from metasearch.takeaway.rebuild import build_learner, for_outputs, spec_of, with_outputs, zero_patterns

if TYPE_CHECKING:
    from metasearch.classifier import MetaClassifier, MetaRegressor

__all__ = ["LoadedPhi", "load"]


def load(
    uri: str | Path, *, allow_user_code: bool = False, runs: str | Path = "runs", tracking_uri: str | None = None
) -> LoadedPhi:
    """A stored phi; reading it imports nobody's code and loads no data.

    Args:
        uri: the folder of a phi or of a run, a run's id or the beginning of one, ``runs:/<MLflow run id>[/phi]``,
            ``models:/<name>/<version>`` or ``models:/<name>@<alias>``.
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
    def choices(self) -> dict[str, Any]:
        """What was chosen of a space, by full name; empty where nothing was."""
        return dict(self.phi.choices)

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
            held = ", ".join(sorted({name.partition(".")[0] for name in self.phi.tensors})) or "choices only"
            raise ArtifactError(f"this phi has no learned initialization (it holds: {held}); use .learner() or .adapt")
        outputs = self.manifest.spec.get("outputs")
        return initialize(
            module, parameters, self.phi.buffers_of("initialization"), outputs, zero_patterns(self.manifest)
        )

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
            support_y: classes ``[n]`` from 0, or values ``[n, outputs]``.
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
        y = as_targets(support_y, len(x), spec, self.dtype).to(device)
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

        self._expect("classification", ".regressor()")
        return MetaClassifier(self, steps=steps, device=device)

    def regressor(self, steps: int | None = None, device: str = "cpu") -> MetaRegressor:
        """A scikit-learn regressor; the arguments are those of :meth:`classifier`.

        Raises:
            ArtifactError: if phi was learned on other tasks than regression.
        """
        from metasearch.classifier import MetaRegressor

        self._expect("regression", ".classifier()")
        return MetaRegressor(self, steps=steps, device=device)

    def save(self, path: str | Path) -> Path:
        """Writes it elsewhere: a folder, or ``*.safetensors`` or ``*.pt`` with the initialization as a state dict; see
        :func:`metasearch.takeaway.export.export`.
        """
        return export(StoredPhi(self.phi, self.manifest), path)

    def __getstate__(self) -> dict[str, Any]:
        # Learners may hold what no pickle can (a module's factory) and are built again when they are needed.
        return {**self.__dict__, "_learners": {}}

    def __repr__(self) -> str:
        return one_line(self.phi, self.manifest)

    def __str__(self) -> str:
        return lines(self.phi, self.manifest, self.source)

    def _expect(self, kind: str, instead: str) -> None:
        if self.spec.kind != kind:
            raise ArtifactError(
                f"this phi was learned on tasks of kind {self.spec.kind!r}, not {kind}; use {instead} or .adapt"
            )
