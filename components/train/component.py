"""The train step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/train", packages_to_install=[], install_kfp_package=False)
def train(usecase: str, run_id: str, features: str, candidate: str, round: int, fitted: dsl.Output[dsl.Model]) -> str:
    """Fit the chosen candidate on all training rows.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        features: Where the feature table lies.
        candidate: JSON text: the chosen architecture and its parameters.
        round: Which attempt this is, from 1; a refusal by the gate leads to the next.
        fitted: Architecture and place of the fitted model.

    Returns:
        Where the fitted model lies.
    """
    from fasttrack.steps.train import train as run

    found = run(usecase, run_id, features, candidate, round)
    fitted.metadata.update(found.metadata)
    return found.path
