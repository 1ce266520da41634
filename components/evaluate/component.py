"""The evaluate step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/evaluate", packages_to_install=[], install_kfp_package=False)
def evaluate(usecase: str, run_id: str, features: str, model: str, round: int, scores: dsl.Output[dsl.Metrics]) -> str:
    """Score the model and the baselines on the test period, calibrate its intervals.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        features: Where the feature table lies.
        model: Where the fitted model lies.
        round: Which attempt this is, from 1; a refusal by the gate leads to the next.
        scores: The model's metrics and those of each baseline.

    Returns:
        Where the evaluated model lies.
    """
    from fasttrack.steps.evaluate import evaluate as run

    found = run(usecase, run_id, features, model, round)
    for name, value in found.metrics.items():
        scores.log_metric(name, value)
    return found.path
