import pytest

from metasearch.artifacts import refuse_user_code, user_references
from metasearch.core.errors import ArtifactError

CONFIG = {
    "tasks": {"type": "my_lab.tasks:Shapes", "url": "https://example.org/a:b", "device": "cuda:0"},
    "learner": {
        "slots": [{"type": "nets:Deep.Inner"}, {"type": "sgd"}],
        "model": {"type": "metasearch.models.mlp:MLP"},
    },
    "times": "12:30",
    "note": "see chapter:three of it",
    "again": "nets:Deep.Inner",
}


def test_only_references_to_code_of_others_are_found() -> None:
    assert user_references(CONFIG) == ["my_lab.tasks:Shapes", "nets:Deep.Inner"]


def test_user_code_is_refused_unless_allowed() -> None:
    with pytest.raises(ArtifactError, match=r"nets:Deep\.Inner.*allow_user_code=True"):
        refuse_user_code(CONFIG, allow_user_code=False)
    refuse_user_code(CONFIG, allow_user_code=True)
    refuse_user_code({"type": "mlp"}, allow_user_code=False)
