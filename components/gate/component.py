"""The gate step's face to Kubeflow Pipelines."""

from kfp import dsl


@dsl.component(base_image="fasttrack/gate", packages_to_install=[], install_kfp_package=False)
def gate(usecase: str, run_id: str, model: str, round: int) -> str:
    """Hold the model's metrics against the use case's thresholds.

    Args:
        usecase: The use case, as YAML text.
        run_id: Name of the run.
        model: Where the fitted model lies.
        round: Which attempt this is, from 1; a refusal by the gate leads to the next.

    Returns:
        accepted or refused; the reasons stand in the run's record.
    """
    from fasttrack.steps.gate import gate as run

    return run(usecase, run_id, model, round)
