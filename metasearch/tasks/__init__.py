"""p(T): distributions of tasks.

A distribution of your own is any class with two methods (see :class:`~metasearch.core.contracts.TaskDistribution`):

- ``spec(split)`` returns a :class:`~metasearch.core.values.TaskSpec`: what every task of ``train``, ``validation`` or
  ``test`` looks like.
- ``sample(split, seeds)`` returns one :class:`~metasearch.core.values.Task` with a task a seed, stacked on a leading
  axis. Equal seeds give equal tasks, whatever else is in ``seeds``: draw with
  :class:`~metasearch.core.seeds.Draws`, which has a stream a seed.

Few-shot classification of your own examples needs no more than the examples (see
:class:`~metasearch.tasks.base.FewShot`)::

    from metasearch.core.config import Config as BaseConfig
    from metasearch.tasks.base import FewShot

    class Glyphs(FewShot):
        class Config(BaseConfig):
            ways: int = 5

        def __init__(self, config, device="cpu"):
            # each array is [classes, examples, channels, height, width]
            splits = {split: np.load(f"glyphs_{split}.npy") for split in ("train", "validation", "test")}
            super().__init__(splits, ways=config.ways, shots=1, queries=15, device=device)

and ``tasks: {type: "my_module:Glyphs", ways: 10}`` in the experiment file, or ``@register("task", "glyphs")`` above the
class for a short name.
"""

from metasearch.core.registry import registry

_TASKS = registry("task")
_TASKS.add("omniglot", "metasearch.tasks.omniglot:Omniglot")
_TASKS.add("sinusoid", "metasearch.tasks.sinusoid:Sinusoid")
_TASKS.add("navigation", "metasearch.tasks.navigation:Navigation")
_TASKS.add("mnist", "metasearch.tasks.mnist:Mnist")
_TASKS.add("cifar10", "metasearch.tasks.cifar10:Cifar10")
_TASKS.add("image_folder", "metasearch.tasks.image_folder:ImageFolder")
_TASKS.add("mini_imagenet", "metasearch.tasks.mini_imagenet:MiniImagenet")
_TASKS.add("cifar_fs", "metasearch.tasks.cifar_fs:CifarFS")
_TASKS.add("quadratic", "metasearch.tasks.quadratic:Quadratic")
_TASKS.add("dataset", "metasearch.tasks.dataset:WholeDataset")
