from pathlib import Path

import pytest

from metasearch.core.errors import ArtifactError
from metasearch.loaded import load
from metasearch.testing.phi import stored_phi
from metasearch.tracking.mlflow_artifacts import downloaded
from metasearch.tracking.mlflow_store import short_timeouts


@pytest.fixture
def logged(store: str, tmp_path: Path) -> str:
    """The id of an MLflow run that has a phi among its artifacts."""
    from mlflow.tracking import MlflowClient

    with short_timeouts():
        client = MlflowClient(tracking_uri=store)
        run_id = str(client.create_run(client.create_experiment("phi")).info.run_id)
        client.log_artifacts(run_id, str(stored_phi(tmp_path / "here" / "phi", seed=3)), "phi")
    return run_id


@pytest.mark.parametrize("form", ["runs:/{}", "runs:/{}/", "runs:/{}/phi"])
def test_phi_of_an_mlflow_run_is_loaded_and_the_download_removed(logged: str, store: str, form: str) -> None:
    uri = form.format(logged)
    phi = load(uri)
    assert phi.manifest.provenance.seeds == {"search": 3}
    assert phi.source == uri
    with downloaded(uri, store) as folder:
        assert (folder / "manifest.json").is_file()
    assert not folder.exists()


def test_a_registered_phi_is_loaded_by_version_and_by_alias(logged: str, store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    with short_timeouts():
        client = MlflowClient(tracking_uri=store, registry_uri=store)
        client.create_registered_model("few-shot")
        source = f"{client.get_run(logged).info.artifact_uri}/phi"
        version = client.create_model_version("few-shot", source, logged).version
        client.set_registered_model_alias("few-shot", "best", version)
    for uri in ("models:/few-shot/1", "models:/few-shot@best"):
        assert load(uri, tracking_uri=store).manifest.provenance.seeds == {"search": 3}
    with pytest.raises(ArtifactError, match=r"models:/few-shot/2 cannot be had from the MLflow store sqlite:"):
        load("models:/few-shot/2", tracking_uri=store)


def test_what_the_store_does_not_have_is_said_with_the_store(store: str) -> None:
    with pytest.raises(
        ArtifactError, match=r"runs:/0123 cannot be had from the MLflow store sqlite:.*MLFLOW_TRACKING_URI"
    ):
        load("runs:/0123")


def test_a_download_without_a_phi_says_what_it_holds(logged: str, store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "notes.txt").write_text("nothing")
    with short_timeouts():
        MlflowClient(tracking_uri=store).log_artifact(logged, str(tmp_path / "notes.txt"), "texts")
    with pytest.raises(ArtifactError, match=r"holds no phi.*it holds: notes\.txt"):
        load(f"runs:/{logged}/texts")


@pytest.mark.parametrize("uri", ["models:/few-shot", "models:/few-shot/Production", "runs:/"])
def test_other_forms_are_refused_before_mlflow_is_asked(uri: str) -> None:
    with pytest.raises(ArtifactError, match="is none of runs:/<run id>"):
        load(uri)
