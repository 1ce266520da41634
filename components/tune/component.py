"""The tune step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/tune", packages_to_install=[], install_kfp_package=False)
def tune(usecase: str, run_id: str, features: str, round: int, best: dsl.Output[dsl.Metrics]) -> str:
    """Search the candidates' hyperparameters for the best architecture.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        features: Where the feature table lies.
        round: Which attempt this is, from 1; a refusal by the gate leads to the next.
        best: Score of the best trial.

    Returns:
        JSON text: the chosen architecture and its parameters.
    """
    from fasttrack.steps.tune import tune as run

    found = run(usecase, run_id, features, round)
    best.log_metric(found.metric, found.score)
    return found.candidate
